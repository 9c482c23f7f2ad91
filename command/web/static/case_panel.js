// An event with its case, or a case: evidence, facts, tasks, steps, and what an operator may do next.
// Every step names the revision that the operator has seen; when somebody else was faster, the page says so and shows it.

import { read } from "./api.js";
import { byId, el } from "./dom.js";
import { cameraName, gridName } from "./lists.js";
import { isShown, setTitle, showPanel } from "./panel.js";
import { evidenceGallery } from "./picture.js";
import { nowMs, on, refresh, tell, town } from "./town.js";
import { actionWord, caseWord, duration, moment, objectWord, stateWord, stepWord, taskTone, taskWord, title, toneOf, word } from "./words.js";

const OFFERED = ["verify", "close", "send_back", "dismiss", "reopen"];
let openCamera = null;

export function startCasePanel(cameraOpener) { openCamera = cameraOpener; }

export const openEvent = (id) => openThing({ kind: "event", id });
export const openCase = (id) => openThing({ kind: "case", id });

function openThing(choice) {
  const view = { choice, event: null, case: null, note: "", said: null, sending: false, reading: false, again: false };
  const offs = [on("change", () => load(view)), on("words", () => draw(view))];
  showPanel(choice, word("loading"), () => offs.forEach((off) => off()));
  load(view);
}

async function load(view) {
  if (view.reading) { view.again = true; return; }
  view.reading = true;
  do {
    view.again = false;
    try {
      if (view.choice.kind === "event") view.event = await read(`events/${view.choice.id}`);
      const caseId = view.choice.kind === "case" ? view.choice.id : view.event.case_id;
      view.case = caseId ? await read(`cases/${caseId}`) : null;
      if (view.choice.kind === "case") view.event = await newestEvent(view.case);
    } catch (error) {
      view.said = { good: false, text: error.message };
    }
    if (isShown(view.choice)) draw(view);
  } while (view.again);
  view.reading = false;
}

/** The case's newest event as it stands; the case's own copy, which is older, once the event has been dropped. */
async function newestEvent(entry) {
  const copy = entry.events[entry.events.length - 1] ?? null;
  if (!copy) return null;
  try {
    return await read(`events/${copy.id}`);
  } catch (error) {
    if (error.status === 404) return copy;
    throw error;
  }
}

function draw(view) {
  const body = byId("panel-body");
  const kept = body.querySelector("textarea");
  if (kept) view.note = kept.value;
  const typing = document.activeElement === kept && kept !== null;
  const main = view.case ?? view.event;
  if (!main) {
    if (view.said) body.replaceChildren(el("p.said", {}, view.said.text));
    return;
  }
  setTitle(view.case ? `${word("caseOf", `#${view.case.number}`)} · ${title(main)}` : `${word("event")} · ${title(main)}`);
  const zones = town.cameras.get(main.camera_id)?.zones ?? [];
  const gallery = view.event ? keepGallery(view, body, zones) : null;
  body.replaceChildren(...[gallery, facts(view, zones), view.case ? tasks(view.case) : el("p", {}, word("noCase")),
    view.case ? steps(view.case) : null, view.case ? actions(view) : null].filter(Boolean));
  if (typing) body.querySelector("textarea")?.focus();
}

/** The picture element is kept while its event's evidence is the same, so that nothing flickers on each update. */
function keepGallery(view, body, zones) {
  const { event } = view;
  const key = JSON.stringify([event.evidence.map((entry) => entry.sha256), event.box, event.zone_id]);
  const old = body.querySelector("[data-gallery]");
  if (old && old.dataset.gallery === key) return old;
  const made = evidenceGallery(event, zones);
  made.dataset.gallery = key;
  return made;
}

function facts(view, zones) {
  const { event } = view;
  const main = view.case ?? event;
  const rows = [];
  const add = (name, value) => { if (value !== null && value !== undefined && value !== "") rows.push(el("dt", {}, word(name)), el("dd", {}, value)); };
  if (view.case) add("state", el("span", {}, el(`span.chip.${toneOf(view.case.state)}`, {}, caseWord(view.case.state))));
  add("grid", gridName(main));
  add("camera", main.camera_id ? el("button.link", { type: "button", onclick: () => openCamera(main.camera_id) }, cameraName(main)) : null);
  add("zone", zones.find((entry) => entry.id === main.zone_id)?.name ?? main.zone_id);
  if (event) {
    add("started", moment(event.started_at, nowMs()));
    const lasted = event.ended_at ? duration((new Date(event.ended_at) - new Date(event.started_at)) / 1000) : null;
    add("ended", event.ended_at ? `${moment(event.ended_at, nowMs())} (${lasted})` : word("ongoing"));
    add("object", event.object_class ? objectWord(event.object_class) : null);
    add("score", event.score === null ? null : event.score.toFixed(2));
    if (!view.case) add("state", stateWord(event.state));
  }
  return el("dl.facts", {}, ...rows);
}

function tasks(entry) {
  const rows = entry.tasks.map((task) => el("li", {},
    el(`span.chip.${taskTone(task.state)}`, { "data-task": task.task_id }, taskWord(task.state)),
    el("span.grow", {}, `${task.person_name} · ${word(task.confirmed ? "confirmed" : "unconfirmed")}`),
    el("time", {}, task.due_at ? `${word("due")} ${moment(task.due_at, nowMs())}` : moment(task.offered_at, nowMs()))));
  return el("section.tasks", {}, el("h3", {}, word("tasks")), rows.length ? el("ul", {}, ...rows) : el("p", {}, word("noTasks")));
}

function steps(entry) {
  const rows = entry.steps.map((step) => el("li", {},
    el("time", {}, moment(step.at, nowMs())), el("span", {}, stepWord(step.step)),
    el("span.grow", {}, step.note ?? ""), el("span.by", {}, step.person_name ?? (step.person_id === "operator" ? word("operator") : step.person_id ?? word("system")))));
  return el("section.steps", {}, el("h3", {}, word("steps")), el("ol", {}, ...rows));
}

function actions(view) {
  const offered = OFFERED.filter((step) => view.case.allowed_steps.includes(step));
  const said = el(`p.said${view.said?.good ? ".good" : ""}`, { role: "status" }, view.said?.text ?? "");
  if (!offered.length) return view.said ? el("div.act", {}, said) : null;
  const note = el("textarea", { id: "act-note", maxlength: 2000, oninput: (change) => { view.note = change.target.value; } });
  note.value = view.note;
  const buttons = offered.map((step, i) => el(`button${i === 0 && step !== "dismiss" ? ".first" : ""}${step === "dismiss" ? ".away" : ""}`, {
    type: "button", "data-step": step, disabled: view.sending, onclick: () => take(view, step),
  }, actionWord(step)));
  return el("div.act", {}, said, el("label", { for: "act-note" }, word("note")), note, el("div.buttons", {}, ...buttons));
}

async function take(view, step) {
  const note = view.note.trim();
  if (step === "send_back" && !note) {
    view.said = { good: false, text: word("noteNeeded") };
    draw(view);
    byId("act-note").focus();
    return;
  }
  view.sending = true;
  view.said = null;
  draw(view);
  try {
    await read(`cases/${view.case.case_id}/steps`, { method: "POST", json: { step, expected_revision: view.case.revision, note: note || null } });
    view.said = { good: true, text: `${actionWord(step)}: ${word("sent")}` };
    view.note = "";
    const field = byId("act-note");
    if (field) field.value = "";
  } catch (error) {
    const text = error.status === 409 && error.detail.revision !== undefined ? word("conflict", error.detail.revision) : word("failed") + error.message;
    view.said = { good: false, text };
  }
  view.sending = false;
  refresh();
  await load(view);
  tell("stepped", step);
}
