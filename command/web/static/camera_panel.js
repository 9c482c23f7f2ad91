// A camera: live picture while it can be had, else the last keyframe with the reason; figures of its streams; its events.

import { call, read } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { isShown, showPanel } from "./panel.js";
import { kindOf, nowMs, on, town } from "./town.js";
import { startWhep } from "./whep.js";
import { lang, moment, reasonOf, stateWord, title, word } from "./words.js";

const FIGURES_MS = 3000;
const PICTURE_MS = 4000;
let openEvent = null;

export function startCameraPanel(eventOpener) { openEvent = eventOpener; }

export function openCamera(id) {
  const camera = town.cameras.get(id);
  if (!camera) return;
  const view = new CameraView(camera);
  showPanel({ kind: "camera", id }, `${camera.name} · ${camera.village}`, () => view.leave());
  view.enter();
}

class CameraView {
  constructor(camera) {
    this.camera = camera;
    this.watching = null;
    this.live = "closed";
    this.why = "";
    this.pictureUrl = null;
    this.pictureTag = null;
    this.timers = [];
    this.offs = [];
    this.gone = false;
  }

  enter() {
    this.still = el("img", { alt: this.camera.name, hidden: true });
    this.video = el("video", { playsinline: true, autoplay: true, hidden: true, "aria-label": this.camera.name });
    this.video.muted = true;
    this.missing = el("p.missing", {});
    this.say = el("p.say", { role: "status" });
    this.retry = el("button.quiet", { type: "button", hidden: true, onclick: () => this.watch() });
    this.figures = el("div", {});
    this.events = el("div", {});
    byId("panel-body").append(el("figure.picture", {}, this.missing, this.still, this.video, this.say), this.retry, this.figures, this.events);
    this.offs = [
      on("health", () => this.health()), on("words", () => { this.tellState(); this.readFigures(); this.drawEvents(); }), on("lists", () => this.drawEvents()),
    ];
    this.timers = [setInterval(() => this.readFigures(), FIGURES_MS), setInterval(() => this.readPicture(), PICTURE_MS)];
    this.kind = kindOf(this.camera.camera_id);
    this.readPicture();
    this.readFigures();
    this.drawEvents();
    this.watch();
  }

  leave() {
    this.gone = true;
    this.timers.forEach(clearInterval);
    this.offs.forEach((off) => off());
    this.unwatch();
    if (this.pictureUrl) URL.revokeObjectURL(this.pictureUrl);
  }

  /** Ask for the live picture; a camera that is not live is not asked, its return is. */
  watch() {
    this.unwatch();
    if (kindOf(this.camera.camera_id) === "live") {
      this.watching = startWhep(this.video, `/api/v1/cameras/${encodeURIComponent(this.camera.camera_id)}/whep`, {
        headers: { "Accept-Language": lang },
        onState: (state, why) => this.whepState(state, why),
      });
    }
    this.tellState();
  }

  unwatch() {
    this.watching?.close();
    this.watching = null;
    this.live = "closed";
    this.why = "";
    this.video.hidden = true;
  }

  /** "stalled" keeps the last frame on the screen and says so; everything but that and "live" shows the keyframe. */
  whepState(state, why) {
    if (this.gone || state === "closed") return;
    this.live = state;
    this.why = why?.message ?? why?.code ?? (state === "waiting" ? this.why : "");
    this.video.hidden = state !== "live" && state !== "stalled";
    if (this.video.hidden) this.readPicture();
    this.tellState();
  }

  health() {
    const kind = kindOf(this.camera.camera_id);
    const returned = kind === "live" && this.kind !== "live";
    const lost = kind !== "live" && this.kind === "live";
    this.kind = kind;
    if (returned) this.watch();
    else if (lost) this.unwatch();
    this.tellState();
    if (returned || lost) this.readFigures();
  }

  tellState() {
    const health = town.health.get(this.camera.camera_id);
    const live = kindOf(this.camera.camera_id) === "live";
    let text;
    if (!live) text = [health ? stateWord(health.state) : word("noState"), health && reasonOf(health), health && `${word("since")} ${moment(health.since, nowMs())}`].filter(Boolean).join(" · ");
    else if (this.live === "live") text = word("live");
    else if (this.live === "stalled") text = word("stalledLive");
    else if (this.live === "connecting" && !this.why) text = word("startingLive");
    else text = [word("lastPicture"), this.why].filter(Boolean).join(": ");
    if (this.video.hidden && this.pictureAt) text += ` · ${word("pictureAt", moment(this.pictureAt, nowMs()))}`;
    setText(this.say, text);
    this.say.className = `say${this.live === "live" || (this.live === "connecting" && !this.why) ? "" : " bad"}`;
    setText(this.retry, word("retry"));
    this.retry.hidden = this.live !== "refused";
    setText(this.missing, this.still.hidden && this.video.hidden ? word("noPicture") : "");
  }

  async readPicture() {
    if (!this.video.hidden || document.hidden) return;
    try {
      const answer = await call(`cameras/${encodeURIComponent(this.camera.camera_id)}/picture`);
      const tag = answer.headers.get("etag");
      if (this.gone || answer.status === 204 || tag === this.pictureTag) return;
      const url = URL.createObjectURL(await answer.blob());
      const image = new Image();
      image.src = url;
      await image.decode();
      if (this.gone) { URL.revokeObjectURL(url); return; }
      if (this.pictureUrl) URL.revokeObjectURL(this.pictureUrl);
      this.pictureUrl = url;
      this.pictureTag = tag;
      this.pictureAt = answer.headers.get("x-taken-at");
      this.still.src = url;
      this.still.hidden = false;
      this.tellState();
    } catch { /* none yet: the state above says why */ }
  }

  async readFigures() {
    if (document.hidden) return;
    try {
      const camera = await read(`cameras/${encodeURIComponent(this.camera.camera_id)}`);
      if (!this.gone && isShown({ kind: "camera", id: this.camera.camera_id })) this.figures.replaceChildren(...camera.streams.map(figures));
    } catch { /* the figures of a moment ago stay; the line at the top says when the server is away */ }
  }

  drawEvents() {
    const own = town.events.filter((event) => event.camera_id === this.camera.camera_id).slice(0, 8);
    this.events.replaceChildren(...(own.length ? [el("h3", {}, word("events")), el("ul.steps", {}, ...own.map((event) => el("li", {},
      el("time", {}, moment(event.started_at, nowMs())),
      el("button.link", { type: "button", onclick: () => openEvent(event.id) }, title(event)), el("span.by", {}, stateWord(event.state)))))] : []));
  }
}

function figures(stream) {
  const rows = [];
  const add = (name, value) => { if (value !== null) rows.push(el("dt", {}, word(name)), el("dd", {}, value)); };
  const number = (value, digits, unit) => (value === null ? null : `${value.toFixed(digits)} ${unit}`);
  add("stream", `${stream.stream} · ${stateWord(stream.state)}`);
  add("resolution", stream.width ? `${stream.width}×${stream.height} ${stream.codec ?? ""}` : null);
  add("fps", number(stream.fps, 1, "fps"));
  add("bitrate", stream.bitrate_bps === null ? null : number(stream.bitrate_bps / 1e6, 2, "Mbit/s"));
  add("gop", number(stream.gop_s, 1, "s"));
  add("loss", String(stream.lost_packets));
  add("reconnects", String(stream.reconnects));
  return el("dl.facts", {}, ...rows);
}
