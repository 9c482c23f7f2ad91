// What the page knows of the town, and who wants to hear of a change. Lists are read again as a whole (they are short);
// changes that come in a burst cause one reading at once and one after the burst, at most one a second.

import { read } from "./api.js";

const GAP_MS = 1000;
export const LIST = 60;

export const town = {
  cameras: new Map(), health: new Map(), grids: null, events: [], cases: [], counts: null,
  readAt: null, offsetMs: 0, ready: false,
};

const hearers = new Map();
export function on(topic, hearer) {
  if (!hearers.has(topic)) hearers.set(topic, new Set());
  hearers.get(topic).add(hearer);
  return () => hearers.get(topic).delete(hearer);
}
export function tell(topic, fact) {
  for (const hearer of [...(hearers.get(topic) ?? [])]) {
    try { hearer(fact); } catch (error) { reportError(error); } // one part's fault must not silence the others
  }
}

export const nowMs = () => Date.now() + town.offsetMs;

export async function readTown() {
  const [about, cameras, grids] = await Promise.all([read("town"), read("cameras"), read("grids")]);
  town.cameras = new Map(cameras.items.map((camera) => [camera.camera_id, camera]));
  for (const camera of cameras.items) if (camera.health && !town.health.has(camera.camera_id)) town.health.set(camera.camera_id, camera.health);
  town.grids = grids;
  await readLists();
  town.ready = true;
  return about;
}

async function readLists() {
  const [about, events, cases] = await Promise.all([read("town"), read(`events?limit=${LIST}`), read(`cases?limit=${LIST}`)]);
  town.counts = about.counts;
  town.events = events.items;
  town.cases = cases.items;
  town.readAt = nowMs();
  tell("lists");
}

let running = false;
let again = false;
let lastMs = -GAP_MS;
/** Read the lists again, now or as soon as the gap allows. Failures are left to the live line, which retries. */
export async function refresh() {
  if (running) { again = true; return; }
  running = true;
  do {
    again = false;
    const wait = lastMs + GAP_MS - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    lastMs = performance.now();
    try {
      if (town.ready) await readLists();
    } catch (error) {
      tell("unread", error);
      again = true;
    }
  } while (again);
  running = false;
}

export function setHealth({ all, cameras }) {
  if (all) town.health = new Map();
  for (const health of cameras) town.health.set(health.camera_id, health);
  tell("health", new Set(cameras.map((health) => health.camera_id)));
}

const TRYING = new Set(["connecting", "waiting"]);
/** live, trying, faulty or off: what a camera's mark looks like. */
export function kindOf(cameraId) {
  const health = town.health.get(cameraId);
  if (!health || health.state === "stopped") return "off";
  if (health.state === "live") return "live";
  return TRYING.has(health.state) ? "trying" : "faulty";
}

/** Cameras with an event that has not ended. */
export const alerted = () => new Set(town.events.filter((event) => event.state !== "closed").map((event) => event.camera_id));
