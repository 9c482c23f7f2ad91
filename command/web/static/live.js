// The live line: one EventSource, watched. Silence longer than the server's heartbeat allows means that it is dead,
// also when the browser has not noticed; then the page looks stale until it has read everything again.

import { refresh, setHealth, tell, town } from "./town.js";

const SILENT_MS = 12000;
const RETRY_MS = [500, 1000, 2000, 4000];

export const line = { connected: false, database: true, everConnected: false };
let source = null;
let heardMs = 0;
let tries = 0;
let timer = null;

export function startLine() {
  connect();
  setInterval(() => {
    if (source && performance.now() - heardMs > SILENT_MS) lost();
  }, 1000);
}

function connect() {
  timer = null;
  heardMs = performance.now();
  source = new EventSource("/api/v1/live");
  source.onerror = lost;
  hear("tick", (fact) => {
    town.offsetMs = new Date(fact.now).getTime() - Date.now();
    const returned = fact.database && !line.database;
    line.database = fact.database;
    if (returned) refresh();
    tell("line");
  });
  hear("health", setHealth);
  hear("change", (fact) => { tell("change", fact); refresh(); });
  hear("resync", () => { tell("change", {}); refresh(); });
}

function hear(name, hearer) {
  source.addEventListener(name, (message) => {
    heardMs = performance.now();
    if (!line.connected) {
      line.connected = true;
      tries = 0;
      if (line.everConnected) { tell("change", {}); refresh(); }
      line.everConnected = true;
    }
    hearer(JSON.parse(message.data));
    tell("line");
  });
}

function lost() {
  source?.close();
  source = null;
  line.connected = false;
  tell("line");
  if (timer === null) timer = setTimeout(connect, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)] * (0.8 + 0.4 * Math.random()));
}
