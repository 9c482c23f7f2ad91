// Starts the page and wires its parts: words, clock, counts, the live line, map, strip, lists and panel.

import { openCamera, startCameraPanel } from "./camera_panel.js";
import { openCase, openEvent, startCasePanel } from "./case_panel.js";
import { byId, el, setText } from "./dom.js";
import { startLists } from "./lists.js";
import { line, startLine } from "./live.js";
import { pointAt, startMap } from "./map.js";
import { startPanel } from "./panel.js";
import { chooseTile, startStrip } from "./strip.js";
import { kindOf, nowMs, on, readTown, tell, town } from "./town.js";
import { clockDay, clockTime, lang, setLanguage, setZone, word } from "./words.js";

function chooseLanguage(serverLang) {
  const asked = new URLSearchParams(location.search).get("lang");
  let kept = null;
  try { kept = localStorage.getItem("gridwatch.lang"); } catch { /* storage may be forbidden; then nothing is kept */ }
  setLanguage(asked ?? kept ?? serverLang ?? "zh");
}

function writeWords() {
  for (const element of document.querySelectorAll("[data-word]")) setText(element, word(element.dataset.word));
  for (const element of document.querySelectorAll("[data-word-label]")) element.setAttribute("aria-label", word(element.dataset.wordLabel));
  for (const element of document.querySelectorAll("[data-word-placeholder]")) element.placeholder = word(element.dataset.wordPlaceholder);
  document.title = word("title");
  setText(byId("lang"), word("language"));
  byId("legend").replaceChildren(...[["live", "live"], ["trying", "connecting"], ["faulty", "trouble"]].map(([kind, name]) =>
    el("li", {}, el(`span.mark.${kind}`), kind === "faulty" ? word("trouble") : stateOf(name))));
  tell("words");
  showCounts();
  showLine();
  showClock();
}
const stateOf = (name) => (lang === "zh" ? { live: "在线", connecting: "连接中" } : { live: "live", connecting: "connecting" })[name];

function switchLanguage() {
  setLanguage(lang === "zh" ? "en" : "zh");
  try { localStorage.setItem("gridwatch.lang", lang); } catch { /* the choice then lasts as long as the page */ }
  writeWords();
}

function showCounts() {
  const cameras = [...town.cameras.values()].filter((camera) => !camera.removed);
  const live = cameras.filter((camera) => kindOf(camera.camera_id) === "live").length;
  if (!town.ready) return;
  count("count-cameras", `${live}/${cameras.length}`, live === cameras.length ? "good" : "warn");
  count("count-cases", town.counts.open_cases, "");
  count("count-tasks", town.counts.unconfirmed_tasks, town.counts.unconfirmed_tasks ? "warn" : "good");
}

function count(id, text, tone) {
  const item = byId(id);
  item.className = tone;
  setText(item.firstElementChild, String(text));
}

function showClock() {
  const small = el("small", {}, clockDay(nowMs()));
  byId("clock").replaceChildren(small, clockTime(nowMs()));
}

function showLine() {
  const at = town.readAt ? clockTime(town.readAt) : null;
  const stale = town.ready && (!line.connected || !line.database) && line.everConnected;
  document.body.classList.toggle("stale", stale);
  if (!line.connected) setText(byId("line"), line.everConnected && at ? word("lost", at) : word("connecting"));
  else if (!line.database) setText(byId("line"), word("databaseAway", at ?? ""));
  else setText(byId("line"), word("connected"));
}

async function firstReading() {
  for (;;) {
    try {
      return await readTown();
    } catch {
      setText(byId("line"), word("lostNever"));
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
  }
}

async function start() {
  chooseLanguage(null);
  writeWords();
  startPanel();
  byId("lang").addEventListener("click", switchLanguage);
  setInterval(showClock, 1000);
  const about = await firstReading();
  setZone(about.timezone);
  chooseLanguage(about.lang);
  startCasePanel(openCamera);
  startCameraPanel(openEvent);
  startMap(openCamera);
  startStrip(openCamera);
  startLists(openEvent, openCase);
  on("health", showCounts);
  on("lists", () => { showCounts(); showLine(); });
  on("line", showLine);
  on("chosen", (choice) => {
    const camera = cameraOf(choice);
    pointAt(camera);
    chooseTile(camera);
  });
  startLine();
  writeWords();
  document.body.classList.remove("loading");
}

function cameraOf(choice) {
  if (!choice) return null;
  if (choice.kind === "camera") return choice.id;
  const list = choice.kind === "event" ? town.events.map((event) => [event.id, event.camera_id]) : town.cases.map((entry) => [entry.case_id, entry.camera_id]);
  return new Map(list).get(choice.id) ?? null;
}

start();
