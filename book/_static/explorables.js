// @ts-check
// Explorables on the page: loads a bank of figures, draws the one that the controls ask for, and says it in words.
// Their HTML, with every control and a static picture, is rendered when the book is built (book/_ext/explorables.py).

/**
 * @typedef {{name: string, kind: string, label: string, stops: (string | number | boolean)[], default: number,
 *   shown: string[]}} Control
 * @typedef {{controls: Control[], bank: string, library: string}} Spec
 * @typedef {Record<string, any>} Tree
 * @typedef {{name: string, data: Tree[], text?: string}} Moment
 * @typedef {{data: Tree[], layout: Tree, frames: Moment[], text: string}} Figure
 *
 * The one interface behind which figures are made: a place on every control's list of stops in, a figure out.
 * @typedef {(places: number[]) => Promise<Figure>} Host
 *
 * @typedef {{react: (place: HTMLElement, data: Tree[], layout: Tree, config: Tree) => Promise<unknown>}} Library
 */

const NARROW = matchMedia("(max-width: 640px)");
const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const ROW = 340, STACKED_ROW = 320; // height of panels side by side, and of each one above the other
const LEFT = 50, RIGHT = 12, TOP = 52, BOTTOM = 44; // room around a panel, as nnbook/explore/figures.py has it
const MOMENT = 90; // milliseconds between two moments when playing
const KEPT = 8; // banks of a widget that are kept in memory
const QUIET = 500; // milliseconds without a change before the result is read out

// Banks: nnbook/explore/bank.py describes them. ---------------------------------------------------------------------

/** The bytes of a bank, unpacked if no server has done it on the way. @param {ArrayBuffer} data */
async function unpacked(data) {
  const head = new Uint8Array(data, 0, Math.min(2, data.byteLength));
  if (head[0] !== 0x1f || head[1] !== 0x8b) return data;
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/**
 * All figures of a bank, each built when it is asked for.
 * @param {ArrayBuffer} packed
 * @returns {Promise<(number: number) => Figure>}
 */
async function decode(packed) {
  const raw = await unpacked(packed);
  const bytes = new Uint8Array(raw);
  if (bytes.length < 8 || String.fromCharCode(...bytes.subarray(0, 4)) !== "NNB1") throw new Error("this is no bank");
  let at = 8 + new DataView(raw).getUint32(4, true);
  if (at > bytes.length) throw new Error("the bank is cut short");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, at)));
  const offsets = header.pool.map((/** @type {{shape: number[]}} */ { shape }) => {
    const here = at;
    at += 2 * shape.reduce((a, b) => a * b, 1);
    return here;
  });
  if (at > bytes.length) throw new Error("the bank is cut short");
  /** @type {(Float64Array | any[] | undefined)[]} */
  const arrays = new Array(offsets.length);
  /** An array of the pool, decoded when a figure first needs it. @param {number} k */
  const array = (k) => {
    if (arrays[k]) return arrays[k];
    const { shape, min, max } = header.pool[k], start = offsets[k];
    const codes = new Uint16Array(((offsets[k + 1] ?? at) - start) / 2);
    for (let i = 0; i < codes.length; i++) codes[i] = bytes[start + i] | (bytes[start + codes.length + i] << 8);
    for (let axis = shape.length - 1, block = 1; axis >= 0; block *= shape[axis--])
      for (let i = block; i < block * shape[axis]; i++) codes[i] += codes[i - block];
    const step = (max - min) / 65534;
    return arrays[k] = nested(Float64Array.from(codes, (code) => min + code * step), shape);
  };
  const places = /** @type {Map<number, [any, number]>} */ (new Map());
  for (const template of header.templates)
    template.rows.forEach((/** @type {number} */ number, /** @type {number} */ row) => places.set(number, [template, row]));
  return (number) => {
    const place = places.get(number);
    if (!place) throw new Error("the bank lacks this setting");
    return fill(place[0].tree, array, place[0].columns, place[1]);
  };
}

/** @param {Float64Array} flat @param {number[]} shape @returns {any} */
function nested(flat, shape) {
  if (shape.length < 2) return flat;
  const size = flat.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) => nested(flat.subarray(i * size, (i + 1) * size), shape.slice(1)));
}

/**
 * @param {any} tree @param {(k: number) => any} array @param {any[][]} columns @param {number} row
 * @returns {any}
 */
function fill(tree, array, columns, row) {
  if (Array.isArray(tree)) return tree.map((branch) => fill(branch, array, columns, row));
  if (tree === null || typeof tree !== "object") return tree;
  if ("?" in tree) return fill(columns[tree["?"]][row], array, columns, row);
  if ("$" in tree) {
    const whole = array(tree.$);
    return "at" in tree ? whole[tree.at] : "n" in tree ? whole.subarray(0, tree.n) : whole;
  }
  return Object.fromEntries(Object.entries(tree).map(([key, branch]) => [key, fill(branch, array, columns, row)]));
}

/**
 * The host of a page without Python: one shard for each setting of the discrete controls, fetched when first needed.
 * @param {Spec} spec
 * @returns {Host}
 */
function bankHost(spec) {
  /** @type {Map<number, Promise<(number: number) => Figure>>} */
  const shards = new Map();
  return async (places) => {
    let shard = 0, number = 0;
    spec.controls.forEach((control, i) => {
      if (["choice", "toggle", "data", "drawing"].includes(control.kind)) shard = shard * control.stops.length + places[i];
      else number = number * control.stops.length + places[i];
    });
    let bank = shards.get(shard);
    shards.delete(shard); // and in again at the end, so that the first is the one longest unused
    if (!bank) {
      bank = fetch(`${spec.bank}/${shard}.bank`).then((answer) => {
        if (!answer.ok) throw new Error(`the bank is missing (${answer.status})`);
        return answer.arrayBuffer();
      }).then(decode);
      bank.catch(() => shards.delete(shard)); // to be asked for again next time
    }
    shards.set(shard, bank);
    for (const old of shards.keys()) if (shards.size > KEPT) shards.delete(old);
    return (await bank)(number);
  };
}

// Drawing -----------------------------------------------------------------------------------------------------------

/** @type {Promise<Library> | undefined} */
let library;

/** plotly.js, loaded once and only when a widget comes near. @param {string} address @returns {Promise<Library>} */
function loadLibrary(address) {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    const fail = () => {
      library = undefined;
      script.remove();
      reject(new Error("the drawing library could not be loaded"));
    };
    script.onload = () => {
      const { Plotly } = /** @type {any} */ (globalThis);
      if (Plotly?.react) resolve(Plotly);
      else fail();
    };
    script.onerror = fail;
    document.head.append(script);
  });
  return library;
}

/**
 * The layout at a size: panels side by side, or one above the other on a narrow page; colours of the page as it is now.
 * @param {Tree} layout @param {number} width @param {number} height @param {boolean} stacked
 */
function arranged(layout, width, height, stacked) {
  const page = getComputedStyle(document.documentElement);
  const colour = (/** @type {string} */ name) => page.getPropertyValue(name).trim();
  const [ink, muted, rule, paper] = ["ink", "muted", "rule", "paper"].map((name) => colour(`--book-${name}`));
  /** @type {Tree} */
  const out = {
    ...layout, width, height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    font: { family: colour("--book-sans"), size: 12, color: muted }, hovermode: "closest",
    hoverlabel: { bgcolor: paper, bordercolor: muted, font: { color: ink } },
    annotations: layout.annotations.map((/** @type {Tree} */ note) => ({ ...note, font: { ...note.font, color: ink } })),
  };
  /** @type {number[]} */
  const shares = layout.meta.shares;
  const whole = shares.reduce((a, b) => a + b, 0);
  let start = 0;
  shares.forEach((share, i) => {
    const end = i ? String(i + 1) : "";
    const low = start, high = start += stacked ? 1 / shares.length : share / whole;
    const [x0, x1, y0, y1] = stacked ? [0, 1, 1 - high, 1 - low] : [low, high, 0, 1];
    const axis = { gridcolor: rule, zerolinecolor: muted, zerolinewidth: 1, linecolor: muted, fixedrange: true, automargin: false };
    const [x, y] = [layout[`xaxis${end}`], layout[`yaxis${end}`]];
    const title = (/** @type {Tree} */ a, /** @type {number} */ standoff) => ({ ...a.title, standoff });
    out[`xaxis${end}`] = { ...x, ...axis, title: title(x, 6), domain: [x0 + LEFT / width, x1 - RIGHT / width] };
    out[`yaxis${end}`] = { ...y, ...axis, title: title(y, 4), domain: [y0 + BOTTOM / height, y1 - TOP / height] };
    out[`legend${end}`] = { ...layout[`legend${end}`], x: x0 + (LEFT - 6) / width, y: y1 - TOP / height,
      bgcolor: "rgba(0,0,0,0)", itemclick: false, itemdoubleclick: false };
  });
  return out;
}

/** The traces and words at one moment. @param {Figure} figure @param {number} number @returns {[Tree[], string]} */
function atMoment(figure, number) {
  const moment = figure.frames[number];
  if (!moment) return [figure.data, figure.text];
  return [figure.data.map((trace, i) => ({ ...trace, ...moment.data[i] })), moment.text ?? figure.text];
}

// Widgets -----------------------------------------------------------------------------------------------------------

class Widget {
  /** @param {HTMLElement} section */
  constructor(section) {
    this.section = section;
    /** @type {Spec} */
    this.spec = JSON.parse(this.find("script[type='application/json']").textContent ?? "");
    this.host = bankHost(this.spec);
    this.plot = this.find(".explorable-plot");
    this.drawing = this.find(".explorable-drawing");
    this.words = this.find(".explorable-words");
    this.message = this.find(".explorable-message");
    this.status = this.find("[role='status']");
    this.form = /** @type {HTMLFormElement} */ (this.find(".explorable-controls"));
    this.time = /** @type {HTMLInputElement | null} */ (section.querySelector("[data-do='time']"));
    this.places = this.spec.controls.map((control) => control.default);
    /** @type {Figure | undefined} */
    this.figure = undefined;
    this.moment = Infinity; // the last one, however many there are
    this.asked = 0;
    this.drawn = 0;
    this.playing = 0;
    this.runs = 0;
    this.speaking = 0;
    this.writing = 0;
    this.complaint = "";
    this.first = this.words.textContent ?? ""; // what the static picture shows
  }

  /** @param {string} selector @returns {HTMLElement} */
  find(selector) {
    const found = this.section.querySelector(selector);
    if (!(found instanceof HTMLElement)) throw new Error(`the page lacks ${selector}`);
    return found;
  }

  /** Once, when the widget comes near: read the address, listen, draw. */
  start() {
    this.readAddress(new URLSearchParams(location.search), true);
    for (const set of this.form.querySelectorAll("fieldset")) set.disabled = false;
    this.form.addEventListener("input", () => this.moved());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.places = this.spec.controls.map((control) => control.default);
      this.moment = Infinity;
      this.changed();
    });
    this.section.addEventListener("click", (event) => this.clicked(event));
    this.time?.addEventListener("input", () => {
      this.pause();
      this.goTo(Number(this.time?.value));
    });
    let width = this.drawing.clientWidth;
    new ResizeObserver(() => {
      if (this.figure && this.drawing.clientWidth !== width) void this.draw(false);
      width = this.drawing.clientWidth;
    }).observe(this.drawing);
    this.changed(false);
  }

  /**
   * Take the setting from an address. Whatever it says is only compared with what there is, never shown.
   * @param {URLSearchParams} query @param {boolean} complain
   */
  readAddress(query, complain) {
    const own = `${this.section.id}.`, wrong = new Set(), between = new Set();
    this.places = this.spec.controls.map((control) => control.default);
    this.moment = Infinity;
    for (const [key, value] of query) {
      if (!key.startsWith(own)) continue;
      const i = this.spec.controls.findIndex((control) => own + control.name === key);
      if (key === `${own}frame` && this.time) {
        if (/^\d{1,6}$/.test(value) && Number(value) <= Number(this.time.max)) this.moment = Number(value);
        else wrong.add("a moment that there is not");
      } else if (i < 0) wrong.add("a parameter that this widget does not have");
      else {
        const control = this.spec.controls[i];
        const place = placeOf(control, value);
        if (place === undefined) wrong.add(`a value of “${control.label}” that there is not`);
        else this.places[i] = place;
        if (place !== undefined && typeof control.stops[place] === "number" && Number(value) !== control.stops[place])
          between.add(`“${control.label}”`);
      }
    }
    const list = (/** @type {Set<string>} */ set) => [...set].join(", and ");
    this.complaint = !complain ? "" : [
      wrong.size && `The address asks for ${list(wrong)}; what it does not set right stands at its default.`,
      between.size && `The address sets ${list(between)} between two steps, so the nearest is shown.`,
    ].filter(Boolean).join(" ");
  }

  /** Say in the address what is set, so that it can be passed on; not too often, for browsers limit that. */
  writeAddress() {
    clearTimeout(this.writing);
    this.writing = window.setTimeout(() => this.writeAddressNow(), 200);
  }

  writeAddressNow() {
    const query = new URLSearchParams(location.search), own = `${this.section.id}.`;
    for (const key of [...query.keys()]) if (key.startsWith(own)) query.delete(key);
    this.spec.controls.forEach((control, i) => {
      if (this.places[i] !== control.default) query.set(own + control.name, String(control.stops[this.places[i]]));
    });
    const last = (this.figure?.frames.length ?? 0) - 1;
    if (last > 0 && this.moment < last) query.set(`${own}frame`, String(this.moment));
    const text = query.toString();
    history.replaceState(history.state, "", location.pathname + (text ? `?${text}` : "") + location.hash);
  }

  /** The reader has moved a control. */
  moved() {
    const fields = new FormData(this.form);
    this.places = this.spec.controls.map((control, i) =>
      control.kind === "toggle" ? Number(fields.has(control.name)) : Number(fields.get(control.name) ?? this.places[i]));
    this.changed();
  }

  /** The setting is another one: show it on the controls, in the address, and drawn. */
  changed(byReader = true) {
    if (byReader) this.complaint = "";
    this.showControls();
    const asked = ++this.asked;
    this.section.ariaBusy = "true";
    this.host(this.places).then(async (figure) => {
      if (asked !== this.asked) return; // the reader has moved on
      const last = Math.max(figure.frames.length - 1, 0);
      const before = (this.figure?.frames.length ?? 0) - 1;
      this.moment = this.moment >= before && byReader && this.figure && !this.playing ? last : Math.min(this.moment, last);
      this.figure = figure;
      if (byReader) this.writeAddress();
      await this.draw();
      if (asked !== this.asked) return;
      const times = this.section.querySelector(".explorable-time");
      if (times instanceof HTMLFieldSetElement) times.disabled = last < 1;
      this.section.dataset.state = "ready";
      this.section.ariaBusy = "false";
    }).catch((error) => {
      if (asked === this.asked) this.failed(error);
    });
  }

  /** @param {unknown} error */
  failed(error) {
    this.pause();
    this.figure = undefined;
    this.section.dataset.state = "failed";
    this.section.ariaBusy = "false";
    this.words.textContent = this.first;
    this.complaint = "The data of this setting could not be loaded, so the picture shows the widget at its defaults. " +
      `(${error instanceof Error ? error.message : "unknown error"})`;
    this.say("");
  }

  showControls() {
    this.spec.controls.forEach((control, i) => {
      const place = this.places[i];
      for (const field of this.form.querySelectorAll(`[name="${control.name}"]`)) {
        if (field instanceof HTMLSelectElement) field.selectedIndex = place;
        else if (!(field instanceof HTMLInputElement)) continue;
        else if (field.type === "checkbox") field.checked = place === 1;
        else if (field.type === "radio") field.checked = Number(field.value) === place;
        else {
          field.value = String(place);
          field.setAttribute("aria-valuetext", control.shown[place]);
          const shown = field.parentElement?.querySelector("output");
          if (shown) shown.textContent = control.shown[place];
        }
      }
    });
  }

  /** Draw the figure as it stands at the moment. @param {boolean} aloud whether a reader has asked for it */
  async draw(aloud = true) {
    const figure = this.figure;
    if (!figure) return;
    const plotly = await loadLibrary(this.spec.library);
    if (figure !== this.figure || onPaper) return; // another one, or none, was asked for meanwhile
    const stacked = NARROW.matches;
    const height = stacked ? STACKED_ROW * figure.layout.meta.shares.length : ROW;
    const [traces, text] = atMoment(figure, this.moment);
    const layout = arranged(figure.layout, this.drawing.clientWidth, height, stacked);
    await plotly.react(this.plot, traces, layout, { displayModeBar: false, responsive: false, showTips: false,
      displaylogo: false, showSendToCloud: false, plotlyServerURL: "" }); // no chart is sent to another company
    this.say(text, aloud);
    const last = figure.frames.length - 1;
    if (this.time && last > 0) {
      this.time.max = String(last);
      this.time.value = String(this.moment);
      const name = figure.frames[this.moment]?.name ?? "";
      this.time.setAttribute("aria-valuetext", name);
      const shown = this.time.parentElement?.querySelector("output");
      if (shown) shown.textContent = name;
    }
    this.section.dataset.drawn = String(++this.drawn);
  }

  /** Put the result in words, and read it out when the reader has come to rest. @param {string} text */
  say(text, aloud = true) {
    if (text) this.words.textContent = text;
    this.message.textContent = this.complaint;
    this.message.hidden = !this.complaint;
    const known = !this.drawn && !this.complaint; // what was there from the start need not be read out
    if (!aloud || known) return;
    clearTimeout(this.speaking);
    if (this.playing) return;
    this.speaking = window.setTimeout(() => this.status.textContent = `${this.complaint} ${text}`.trim(), QUIET);
  }

  /** @param {MouseEvent} event */
  clicked(event) {
    const target = event.target instanceof Element ? event.target.closest("[data-do], .explorable-trials a") : null;
    if (target instanceof HTMLAnchorElement) {
      event.preventDefault();
      this.pause();
      this.readAddress(new URLSearchParams(target.search), false);
      this.changed();
      this.section.scrollIntoView({ block: "nearest", behavior: "auto" });
    } else if (target instanceof HTMLButtonElement) {
      const play = target.dataset.do === "play" && !this.playing;
      this.pause();
      if (play) this.play();
      if (target.dataset.do === "back") this.goTo(this.moment - 1);
      if (target.dataset.do === "on") this.goTo(this.moment + 1);
    }
  }

  /** @param {number} number */
  goTo(number) {
    const last = (this.figure?.frames.length ?? 0) - 1;
    if (last < 1) return Promise.resolve();
    this.moment = Math.min(Math.max(number, 0), last);
    if (!this.playing) this.writeAddress();
    return this.draw();
  }

  /** From here to the end, or from the start if this is the end; at once where motion is not wanted. */
  play() {
    const last = (this.figure?.frames.length ?? 0) - 1;
    if (last < 1) return;
    if (STILL.matches) return void this.goTo(last);
    if (this.moment >= last) this.moment = -1;
    this.find("[data-do='play']").textContent = "Pause";
    const run = ++this.runs, next = async () => {
      const start = performance.now();
      await this.goTo(this.moment + 1);
      if (run !== this.runs) return; // paused meanwhile
      if (this.moment >= (this.figure?.frames.length ?? 0) - 1) this.pause();
      else this.playing = window.setTimeout(next, Math.max(0, MOMENT - (performance.now() - start)));
    };
    this.playing = window.setTimeout(next, 0);
  }

  pause() {
    if (!this.playing) return;
    clearTimeout(this.playing);
    this.playing = 0;
    this.runs++;
    this.find("[data-do='play']").textContent = "Play";
    this.writeAddress();
    if (this.figure) this.say(atMoment(this.figure, this.moment)[1]);
  }
}

/**
 * The place of a value from an address among a control's stops: the same name, or the nearest number in range.
 * @param {Control} control @param {string} value
 */
function placeOf(control, value) {
  const named = control.stops.findIndex((stop) => String(stop) === value);
  if (typeof control.stops[0] !== "number" || named >= 0) return named < 0 ? undefined : named;
  const stops = /** @type {number[]} */ (control.stops);
  const number = Number(value);
  if (!/^[-+\d.eE]{1,25}$/.test(value) || !(number >= stops[0] && number <= stops[stops.length - 1])) return undefined;
  const distances = stops.map((stop) => Math.abs(stop - number));
  return distances.indexOf(Math.min(...distances));
}

let onPaper = false;
/** @type {Map<Element, Widget>} */
const widgets = new Map();
for (const section of document.querySelectorAll(".explorable"))
  if (section instanceof HTMLElement) widgets.set(section, new Widget(section));

const nearing = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    nearing.unobserve(target);
    widgets.get(target)?.start();
  }
}, { rootMargin: "600px 0px" });
for (const section of widgets.keys()) nearing.observe(section);
document.documentElement.dataset.explorables = "alive"; // or the page says why they are not: book/_ext/explorables.py

const redraw = () => widgets.forEach((widget) => void widget.draw(false));
new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
NARROW.addEventListener("change", redraw);
// On paper stands the picture, so its words stand there too.
addEventListener("beforeprint", () => {
  onPaper = true;
  widgets.forEach((widget) => widget.words.textContent = widget.first);
});
addEventListener("afterprint", () => void (onPaper = false, redraw()));
