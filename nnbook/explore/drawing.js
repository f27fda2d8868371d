// @ts-check
// A square to draw in, by pointer, touch or keyboard. In Jupyter anywidget hands it the model of
// nnbook/explore/canvas.py; anything else that keeps these values and tells of their changes will do as well.

/**
 * @typedef {{get: (name: string) => any, set: (name: string, value: unknown) => void, save_changes: () => void,
 *   on: (event: string, callback: () => void) => void, off: (event: string, callback: () => void) => void}} Model
 * What it keeps: size, label, help, names and pictures (those stored, one after the other), pixels (ink from 0 to 255,
 * row by row) and chosen (the name of the stored picture that the pixels are, or nothing).
 */

const CELL = 10; // pixels of the screen for one of the picture
const REACH = 2; // where a brush ends, in pixels of the picture from its middle
const WAIT = 60; // milliseconds at least between two messages
const HOW = "Draw with the pointer or a finger. Keys: arrows move, space paints, shift and an arrow draws, delete clears.";

/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/**
 * A touch of the brush at a place: full ink in the middle and a soft edge, as in scanned digits.
 * @param {Uint8Array} pixels @param {number} size @param {number} x @param {number} y
 */
export function dab(pixels, size, x, y) {
  for (let row = Math.max(0, Math.floor(y - REACH)); row <= Math.min(size - 1, y + REACH); row++)
    for (let column = Math.max(0, Math.floor(x - REACH)); column <= Math.min(size - 1, x + REACH); column++) {
      const ink = REACH - Math.hypot(column + 0.5 - x, row + 0.5 - y);
      const at = row * size + column;
      pixels[at] = Math.max(pixels[at], Math.round(255 * Math.min(1, Math.max(0, ink))));
    }
}

/**
 * The brush drawn along a straight line.
 * @param {Uint8Array} pixels @param {number} size @param {[number, number]} from @param {[number, number]} to
 */
export function stroke(pixels, size, from, to) {
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
  for (let i = 0; i <= steps; i++)
    dab(pixels, size, from[0] + (to[0] - from[0]) * i / steps, from[1] + (to[1] - from[1]) * i / steps);
}

/** @param {any} value bytes of any kind @returns {Uint8Array} a copy */
function bytes(value) {
  if (value instanceof ArrayBuffer) return new Uint8Array(value).slice();
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength).slice();
}

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {string} text @param {Record<string, string>} attributes @returns {HTMLElementTagNameMap[T]}
 */
function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** @param {{model: Model, el: HTMLElement}} host */
function render({ model, el }) {
  const size = /** @type {number} */ (model.get("size"));
  const names = /** @type {string[]} */ (model.get("names"));
  let pixels = bytes(model.get("pixels"));
  /** @type {[number, number]} */
  const cursor = [size >> 1, size >> 1];
  let byKeyboard = false, timer = 0, more = false, telling = false;
  /** @type {[number, number] | undefined} */
  let last; // where the pointer was, while it draws

  el.classList.add("nnbook-drawing");
  const canvas = element("canvas", "", { width: `${size * CELL}`, height: `${size * CELL}`, tabindex: "0",
    role: "application", "aria-roledescription": "drawing", "aria-label": `${model.get("label")}. ${HOW}`,
    "data-lm-suppress-shortcuts": "true" }); // or JupyterLab would take the arrows for itself
  const clear = element("button", "Clear", { type: "button" });
  const start = element("select", "", { "aria-label": `${model.get("label")}: start from` });
  const said = element("p", "", { role: "status", class: "nnbook-drawing-said" });
  const side = element("div");
  side.append(element("strong", model.get("label")), start, clear, element("p", HOW));
  if (model.get("help")) side.append(element("p", model.get("help")));
  start.append(element("option", "your drawing", { value: "" }),
    ...names.map((name) => element("option", name, { value: name })));
  el.replaceChildren(canvas, side, said);

  function paint() {
    const pen = canvas.getContext("2d");
    if (!pen) return;
    const ink = getComputedStyle(canvas).color;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = ink;
    pixels.forEach((value, i) => {
      if (!value) return;
      pen.globalAlpha = value / 255;
      pen.fillRect((i % size) * CELL, Math.floor(i / size) * CELL, CELL, CELL);
    });
    pen.globalAlpha = 1;
    if (!byKeyboard || document.activeElement !== canvas) return;
    for (const [colour, width] of /** @type {[string, number][]} */ ([["#ffffff", 5], ["#d55e00", 2.5]])) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.strokeRect(cursor[0] * CELL, cursor[1] * CELL, CELL, CELL);
    }
  }

  /** Tell the model, at once or when the last message is old enough. */
  function send() {
    if (timer) {
      more = true;
      return;
    }
    more = false;
    telling = true; // the model answers each change at once, and half of two is not what was drawn
    model.set("pixels", new DataView(pixels.slice().buffer));
    model.set("chosen", start.value);
    telling = false;
    model.save_changes();
    timer = window.setTimeout(() => {
      timer = 0;
      if (more) send();
    }, WAIT);
  }

  /** @param {string} name of a stored picture, or nothing */
  function changed(name = "") {
    start.value = name;
    paint();
    send();
  }

  function erase() {
    pixels.fill(0);
    said.textContent = "cleared";
    changed();
  }

  /** @param {PointerEvent} event @returns {[number, number]} */
  function place(event) {
    const box = canvas.getBoundingClientRect(), edge = canvas.clientLeft;
    return [(event.clientX - box.left - edge) / canvas.clientWidth * size,
      (event.clientY - box.top - edge) / canvas.clientHeight * size];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    byKeyboard = false;
    last = place(event);
    dab(pixels, size, ...last);
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const moment of event.getCoalescedEvents?.() ?? [event]) {
      const here = place(moment);
      stroke(pixels, size, last, here);
      last = here;
    }
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => last = undefined);

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const arrow = ARROWS[event.key];
    const paints = event.key === " " || event.key === "Enter" || (arrow && event.shiftKey);
    const erases = event.key === "Delete" || event.key === "Backspace";
    if (!arrow && !paints && !erases) return;
    event.preventDefault();
    event.stopPropagation();
    byKeyboard = true;
    if (erases) return erase();
    if (arrow) arrow.forEach((step, axis) => cursor[axis] = Math.min(size - 1, Math.max(0, cursor[axis] + step)));
    if (paints) dab(pixels, size, cursor[0] + 0.5, cursor[1] + 0.5);
    said.textContent = `row ${cursor[1] + 1}, column ${cursor[0] + 1}${paints ? ", painted" : ""}`;
    if (paints) changed();
    else paint();
  });
  canvas.addEventListener("focus", () => {
    byKeyboard = canvas.matches(":focus-visible");
    paint();
  });
  canvas.addEventListener("blur", paint);
  clear.addEventListener("click", erase);
  start.addEventListener("change", () => {
    const at = names.indexOf(start.value);
    if (at >= 0) pixels = bytes(model.get("pictures")).slice(at * size * size, (at + 1) * size * size);
    changed(start.value);
  });

  /** What another one has set, Python or a second view. */
  function follow() {
    if (telling) return;
    if (!last && !timer) {
      pixels = bytes(model.get("pixels"));
      start.value = model.get("chosen");
    }
    paint();
  }
  model.on("change:pixels", follow);
  model.on("change:chosen", follow);
  start.value = model.get("chosen");
  requestAnimationFrame(paint); // when it stands on the page and has a colour
  return () => {
    clearTimeout(timer);
    model.off("change:pixels", follow);
    model.off("change:chosen", follow);
  };
}

export default { render };
