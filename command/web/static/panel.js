// The panel over the map: one thing at a time (an event with its case, a case, a camera). What is shown owns a
// `leave` that is called exactly once when something else is shown or the panel closes.

import { byId, setText } from "./dom.js";
import { on, tell } from "./town.js";
import { word } from "./words.js";

let leave = null;
let shown = null;
let before = null;

export function startPanel() {
  byId("panel-close").addEventListener("click", closePanel);
  document.addEventListener("keydown", (key) => { if (key.key === "Escape" && !byId("panel").hidden) closePanel(); });
  on("words", () => setText(byId("panel-close"), word("close")));
  setText(byId("panel-close"), word("close"));
}

/** Show something: `choice` is {kind, id}; `left` runs when it is left. Focus moves in only on the first opening. */
export function showPanel(choice, title, left = null) {
  leaveShown();
  leave = left;
  shown = choice;
  const panel = byId("panel");
  if (panel.hidden) before = document.activeElement;
  panel.hidden = false;
  setTitle(title);
  byId("panel-body").replaceChildren();
  byId("panel-body").scrollTop = 0;
  panel.focus({ preventScroll: true });
  tell("chosen", choice);
}

export const setTitle = (title) => setText(byId("panel-title"), title);
export const isShown = (choice) => shown !== null && shown.kind === choice.kind && shown.id === choice.id;

export function closePanel() {
  leaveShown();
  shown = null;
  byId("panel").hidden = true;
  byId("panel-body").replaceChildren();
  before?.focus?.({ preventScroll: true });
  before = null;
  tell("chosen", null);
}

function leaveShown() {
  const left = leave;
  leave = null;
  left?.();
}
