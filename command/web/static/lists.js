// The right column: events and cases as they arrive.

import { byId, el, reconcile, setText } from "./dom.js";
import { nowMs, on, tell, town } from "./town.js";
import { caseWord, moment, objectWord, stateWord, taskTone, taskWord, title, toneOf, word } from "./words.js";

let chosen = null; // {kind: "event" | "case", id}
let known = null; // ids of events seen before: what is not among them is new

export function startLists(openEvent, openCase) {
  on("lists", () => render(openEvent, openCase));
  on("words", () => render(openEvent, openCase));
  on("chosen", (choice) => { chosen = choice; render(openEvent, openCase); });
  render(openEvent, openCase);
}

export const gridName = (thing) => (thing.grid_id
  ? (thing.grid_name ?? thing.grid_id) + (thing.grid_match === "nearest" ? word("nearest") : "")
  : word("noGrid"));
export const cameraName = (thing) => thing.camera_name ?? thing.camera_id ?? "";

function render(openEvent, openCase) {
  if (!town.ready) return;
  setText(byId("events-note"), town.events.length ? word("newest", town.events.length) : "");
  setText(byId("cases-note"), town.cases.length ? word("newest", town.cases.length) : "");
  const fresh = reconcile(byId("events"), town.events, (event) => event.id, (event) => makeEvent(event, openEvent), fillEvent);
  reconcile(byId("cases"), town.cases, (entry) => entry.case_id, (entry) => makeCase(entry, openCase), fillCase);
  if (!town.events.length) byId("events").replaceChildren(el("li.empty", {}, word("noEvents")));
  if (!town.cases.length) byId("cases").replaceChildren(el("li.empty", {}, word("noCases")));
  announce(fresh);
}

function announce(fresh) {
  const ids = new Set(town.events.map((event) => event.id));
  if (known) {
    const arrived = town.events.filter((event) => !known.has(event.id));
    for (const element of fresh) if (arrived.some((event) => event.id === element.dataset.key)) element.classList.add("fresh");
    if (arrived.length) {
      setText(byId("announce"), word("newEvent", title(arrived[0]), cameraName(arrived[0])));
      tell("arrived", arrived);
    }
  }
  known = ids;
}

function makeEvent(event, open) {
  return el("li.event", {}, el("button", { type: "button", onclick: () => open(event.id) },
    el("span.shot", {}, el("span.none")), el("span", {}, el("div.what"), el("div.where")), el("span.when", {}, el("time"), el("span.chip"))));
}

function fillEvent(item, event) {
  const fresh = item.classList.contains("fresh");
  item.className = `event p${event.priority}${fresh ? " fresh" : ""}${chosen?.kind === "event" && chosen.id === event.id ? " chosen" : ""}`;
  const picture = event.evidence.find((entry) => entry.media_type === "image/jpeg");
  const shot = item.querySelector(".shot");
  if (picture && !shot.querySelector("img")) {
    shot.replaceChildren(el("img", { src: `/api/v1/evidence/${picture.sha256}`, alt: "", loading: "lazy", onerror: (failed) => failed.target.remove() }));
  }
  setText(item.querySelector(".what"), event.object_class ? `${title(event)} · ${objectWord(event.object_class)}` : title(event));
  setText(item.querySelector(".where"), cameraName(event));
  setText(item.querySelector("time"), moment(event.started_at, nowMs()));
  const chip = item.querySelector(".chip");
  chip.className = `chip ${toneOf(event.state)}`;
  setText(chip, stateWord(event.state));
}

function makeCase(entry, open) {
  return el("li.case", {}, el("button", { type: "button", onclick: () => open(entry.case_id) },
    el("span", {}, el("div.what"), el("div.where")), el("span.when", {}, el("span.chip.of-case"), el("span.who"))));
}

function fillCase(item, entry) {
  item.className = `case${chosen?.kind === "case" && chosen.id === entry.case_id ? " chosen" : ""}`;
  item.querySelector(".what").replaceChildren(el("span.number", {}, `#${entry.number}`), title(entry));
  setText(item.querySelector(".where"), [moment(entry.opened_at, nowMs()), cameraName(entry), gridName(entry)].filter(Boolean).join(" · "));
  const chip = item.querySelector(".chip");
  chip.className = `chip of-case ${toneOf(entry.state)}`;
  setText(chip, caseWord(entry.state));
  const task = entry.lead_task;
  const who = item.querySelector(".who");
  who.className = `who ${task ? taskTone(task.state) : ""}`;
  setText(who, task ? `${task.person_name} · ${taskWord(task.state)}` : "");
}
