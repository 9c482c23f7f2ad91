// The map: grids as polygons in their village's colour, cameras as marks by state. No tiles: nothing comes from outside.

import * as L from "./vendor/leaflet/leaflet.mjs";
import { byId, el } from "./dom.js";
import { alerted, kindOf, on, town } from "./town.js";
import { reasonOf, stateWord } from "./words.js";

const HUES = 32;
const pins = new Map();
let map = null;
let chosen = null;

const place = ([lon, lat]) => [lat, lon];

export function startMap(openCamera) {
  map = L.map("map", { zoomSnap: 0.25, attributionControl: false, preferCanvas: true, keyboardPanDelta: 120 });
  L.control.scale({ imperial: false }).addTo(map);
  fit(); // before anything is drawn: a mark has no element until the map has a view
  drawGrids();
  for (const camera of town.cameras.values()) drawCamera(camera, openCamera);
  map.on("zoomend", nearness);
  nearness();
  new ResizeObserver(() => map.invalidateSize({ pan: false })).observe(byId("map"));
  on("health", (ids) => {
    const alerts = alerted();
    for (const id of ids) showCamera(id, alerts);
  });
  on("lists", showAll);
  showAll();
}

function fit() {
  const bounds = L.latLngBounds([]);
  for (const feature of town.grids.features) bounds.extend(L.geoJSON(feature).getBounds());
  for (const camera of town.cameras.values()) bounds.extend([camera.lat, camera.lon]);
  if (bounds.isValid()) {
    map.fitBounds(bounds, { padding: [18, 18], animate: false });
    map.setMinZoom(map.getZoom() - 1);
    map.setMaxBounds(bounds.pad(1.5));
  } else map.setView([38.4, 115.8], 12);
}

const nearness = () => byId("map").parentElement.classList.toggle("far", map.getZoom() < 13);

/** Neighbouring villages get hues far apart by walking the circle with the golden angle. */
function colours() {
  const names = [...new Set(town.grids.features.map((feature) => feature.properties.village))].sort();
  return new Map(names.map((name, i) => [name, `hsl(${Math.round((i % HUES) * 137.508) % 360} 32% 46%)`]));
}

function drawGrids() {
  const colour = colours();
  const villages = new Map();
  L.geoJSON(town.grids, {
    style: (feature) => {
      const shade = colour.get(feature.properties.village);
      return { color: "#8fb0c8", weight: 1, opacity: 0.45, fillColor: shade, fillOpacity: 0.4 };
    },
    onEachFeature: (feature, layer) => {
      const { name, village } = feature.properties;
      layer.bindTooltip(`${village} · ${name}`, { sticky: true });
      layer.on("mouseover", () => layer.setStyle({ fillOpacity: 0.6 }));
      layer.on("mouseout", () => layer.setStyle({ fillOpacity: 0.4 }));
      if (!villages.has(village)) villages.set(village, L.latLngBounds([]));
      villages.get(village).extend(layer.getBounds());
    },
  }).addTo(map);
  for (const [village, bounds] of villages) {
    L.tooltip({ permanent: true, direction: "center", className: "village", interactive: false, content: village })
      .setLatLng(bounds.getCenter()).addTo(map);
  }
}

function drawCamera(camera, openCamera) {
  if (camera.removed) return;
  const icon = L.divIcon({ className: "pin", iconSize: [18, 18], html: el("span.mark") });
  const pin = L.marker(place([camera.lon, camera.lat]), { icon, keyboard: true, alt: camera.name, title: "" }).addTo(map);
  pin.bindTooltip(() => label(camera.camera_id), { direction: "top", offset: [0, -8] });
  pin.on("click", () => openCamera(camera.camera_id));
  pin.getElement().setAttribute("aria-label", camera.name);
  pin.getElement().dataset.camera = camera.camera_id;
  pins.set(camera.camera_id, pin);
}

function label(cameraId) {
  const health = town.health.get(cameraId);
  const state = health ? stateWord(health.state) : stateWord("unknown");
  const why = health && health.state !== "live" ? reasonOf(health) : "";
  return el("span", {}, `${town.cameras.get(cameraId).name} · ${state}`, why ? el("br") : null, why);
}

function showCamera(cameraId, alerts = alerted()) {
  const element = pins.get(cameraId)?.getElement();
  if (!element) return;
  element.firstElementChild.className = `mark ${kindOf(cameraId)}`;
  element.classList.toggle("alert", alerts.has(cameraId));
  element.classList.toggle("chosen", cameraId === chosen);
}

function showAll() {
  const alerts = alerted();
  for (const cameraId of pins.keys()) showCamera(cameraId, alerts);
}

/** Mark a camera and bring it into view beside the panel; null marks none. */
export function pointAt(cameraId) {
  const before = chosen;
  chosen = cameraId;
  for (const id of [before, cameraId]) if (id) showCamera(id);
  const pin = pins.get(cameraId);
  if (!pin) return;
  const left = byId("panel").hidden ? 40 : byId("panel").offsetWidth + 40;
  if (left < map.getSize().x - 80) map.panInside(pin.getLatLng(), { paddingTopLeft: [left, 40], paddingBottomRight: [40, 40] });
}
