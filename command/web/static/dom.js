// Making and updating elements without markup in strings: text is always text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** `el("button.quiet", {type: "button", onclick: …}, child, …)`: null and undefined children are left out. */
export function el(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  return dress(made, attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Set text only when it differs, so that screen readers and layout are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Bring a list to `things` in their order, reusing the elements that stand for the same key.
 * `make(thing)` gives a new element, `fill(element, thing)` brings it up to date. Returns the new elements.
 */
export function reconcile(list, things, keyOf, make, fill) {
  const old = new Map([...list.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  for (const child of [...list.children]) if (!child.dataset.key) child.remove();
  const fresh = [];
  let at = list.firstElementChild;
  for (const thing of things) {
    const key = String(keyOf(thing));
    let element = old.get(key);
    if (!element) {
      element = make(thing);
      element.dataset.key = key;
      fresh.push(element);
    }
    old.delete(key);
    fill(element, thing);
    if (element === at) at = at.nextElementSibling;
    else list.insertBefore(element, at);
  }
  for (const gone of old.values()) gone.remove();
  return fresh;
}
