// An evidence picture with the event's box and the camera's zone drawn over it, both normalised to the picture.

import { el, svg } from "./dom.js";
import { clockTime, word } from "./words.js";

export function evidencePicture(event, zones, evidence) {
  const frame = el("figure.picture", {});
  if (!evidence) {
    frame.append(el("p.missing", {}, word("noEvidence")));
    return frame;
  }
  frame.style.aspectRatio = `${evidence.width} / ${evidence.height}`;
  const drawing = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const zone = zones.find((entry) => entry.id === event.zone_id);
  if (zone) drawing.append(svg("polygon", { class: "zone", points: zone.polygon.map((point) => point.join(",")).join(" ") }));
  if (event.box) drawing.append(svg("rect", { class: "box", x: event.box.x, y: event.box.y, width: event.box.w, height: event.box.h }));
  const image = el("img", { src: `/api/v1/evidence/${evidence.sha256}`, alt: `${word("evidence")} ${clockTime(evidence.taken_at)}` });
  image.addEventListener("error", () => frame.replaceChildren(el("p.missing", {}, word("evidenceGone"))));
  frame.append(image, drawing);
  return frame;
}

/** All pictures of an event: the newest large, the others to choose from. */
export function evidenceGallery(event, zones) {
  const pictures = event.evidence.filter((entry) => entry.media_type === "image/jpeg");
  const chosen = pictures[pictures.length - 1];
  const holder = el("div", {}, evidencePicture(event, zones, chosen));
  if (pictures.length < 2) return holder;
  const buttons = pictures.map((entry) => el("button", {
    type: "button", "aria-pressed": String(entry === chosen), "aria-label": clockTime(entry.taken_at),
    onclick: (click) => {
      holder.firstElementChild.replaceWith(evidencePicture(event, zones, entry));
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === click.currentTarget));
    },
  }, el("span.shot", {}, el("img", { src: `/api/v1/evidence/${entry.sha256}`, alt: "" }))));
  holder.append(el("div.thumbs", {}, ...buttons));
  return holder;
}
