// The strip of cameras: a tile each with its last keyframe. Only tiles that can be seen are refreshed, each at most once
// every four seconds, one after the other; an unchanged picture costs a 304 and repaints nothing.

import { call } from "./api.js";
import { byId, el, reconcile, setText } from "./dom.js";
import { alerted, kindOf, on, town } from "./town.js";
import { reasonOf, stateWord, word } from "./words.js";

const EVERY_MS = 4000;
const AT_ONCE = 3;
const seen = new Set();
const shots = new Map(); // camera id -> {atMs, tag, url, busy}
let filter = "all";
let text = "";
let chosen = null;
let open = null;

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) seen.add(entry.target.dataset.key);
    else seen.delete(entry.target.dataset.key);
  }
  pump();
}, { root: byId("tiles"), rootMargin: "60px" });

export function startStrip(openCamera) {
  open = openCamera;
  byId("search").addEventListener("input", (change) => { text = change.target.value.trim().toLowerCase(); render(); });
  on("health", render);
  on("lists", render);
  on("words", () => { drawFilters(); render(); });
  drawFilters();
  render();
  setInterval(pump, 500);
}

export function chooseTile(cameraId) { chosen = cameraId; render(); }

function drawFilters() {
  byId("filters").replaceChildren(...["all", "alert", "trouble"].map((name) => el("button", {
    type: "button", "aria-pressed": String(name === filter), onclick: () => { filter = name; drawFilters(); render(); },
  }, word(name))));
}

function render() {
  const alerts = alerted();
  const shown = [...town.cameras.values()].filter((camera) => {
    if (camera.removed) return false;
    if (filter === "alert" && !alerts.has(camera.camera_id)) return false;
    if (filter === "trouble" && kindOf(camera.camera_id) === "live") return false;
    return !text || `${camera.name} ${camera.village} ${camera.camera_id}`.toLowerCase().includes(text);
  });
  const made = reconcile(byId("tiles"), shown, (camera) => camera.camera_id, make, (tile, camera) => fill(tile, camera, alerts));
  made.forEach((tile) => watcher.observe(tile));
  if (!shown.length) byId("tiles").replaceChildren(el("li.empty", {}, word("noCameras")));
}

function make(camera) {
  return el("li.tile", {}, el("button", { type: "button", onclick: () => open(camera.camera_id) },
    el("span.shot", {}, el("span.none"), el("img", { alt: "", hidden: true }), el("span.state", { hidden: true })),
    el("span.label", {}, el("span.mark"), el("span.name", {}, camera.name))));
}

function fill(tile, camera, alerts) {
  const kind = kindOf(camera.camera_id);
  const health = town.health.get(camera.camera_id);
  const said = health ? stateWord(health.state) : word("noState");
  tile.className = ["tile", kind, alerts.has(camera.camera_id) && "alert", camera.camera_id === chosen && "chosen"].filter(Boolean).join(" ");
  tile.querySelector(".mark").className = `mark ${kind}`;
  const state = tile.querySelector(".state");
  state.hidden = kind === "live";
  setText(state, said);
  const why = health && kind !== "live" ? reasonOf(health) : "";
  const button = tile.firstElementChild;
  button.title = why ? `${camera.name}: ${why}` : camera.name;
  button.setAttribute("aria-label", `${camera.name}, ${said}`);
  setText(tile.querySelector(".none"), tile.querySelector("img").hidden ? word("noPicture") : "");
}

function pump() {
  if (document.hidden) return;
  const now = performance.now();
  let busy = [...shots.values()].filter((shot) => shot.busy).length;
  const due = [...seen].filter((id) => town.cameras.has(id)).map((id) => {
    if (!shots.has(id)) shots.set(id, { atMs: -EVERY_MS, tag: null, url: null, busy: false });
    return [id, shots.get(id)];
  }).filter(([, shot]) => !shot.busy && now - shot.atMs >= EVERY_MS).sort((a, b) => a[1].atMs - b[1].atMs);
  for (const [id, shot] of due) {
    if (busy >= AT_ONCE) return;
    busy += 1;
    refreshShot(id, shot);
  }
}

async function refreshShot(cameraId, shot) {
  shot.busy = true;
  shot.atMs = performance.now();
  try {
    const answer = await call(`cameras/${encodeURIComponent(cameraId)}/picture`);
    const tag = answer.headers.get("etag");
    if (answer.status === 200 && tag !== shot.tag) await show(cameraId, shot, tag, await answer.blob());
  } catch { /* no picture yet, or the server is away: the tile keeps what it shows and its state says why */ }
  shot.busy = false;
  if (seen.size) pump();
}

async function show(cameraId, shot, tag, blob) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  await image.decode();
  const tile = [...byId("tiles").children].find((child) => child.dataset.key === cameraId);
  if (shot.url) URL.revokeObjectURL(shot.url);
  shot.tag = tag;
  shot.url = url;
  const picture = tile?.querySelector("img");
  if (!picture) return;
  image.alt = "";
  picture.replaceWith(image);
  setText(tile.querySelector(".none"), "");
}
