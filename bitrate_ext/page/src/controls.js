// @ts-check
// The head of the page, and what chooses layers, scales and inputs.

import { choice, el, headCell, named, number, signed, tick } from "./dom.js";
import { brief, coloursOf, valueAt } from "./colour.js";
import { MODES, quantityOf } from "./state.js";

/** @typedef {import("./layers.js").Picture} Picture */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./state.js").Mode} Mode */
/** @typedef {import("./pictures.js").Painted} Painted */

/**
 * Title, and the inputs beside each other.
 * @param {Picture} picture
 * @param {State} state
 * @returns {{element: HTMLElement, update: () => void}}
 */
export function heading(picture, state) {
  const { told } = picture;
  const body = el("tbody");
  const several = told.inputs.length > 1;
  const filed = told.inputs.some((one) => one.file_bytes !== null);
  const heads = [
    "",
    ...(several ? ["what made the bits"] : ["made by"]),
    "bits",
    "bits per pixel",
    "PSNR, dB",
    ...(filed ? ["bytes"] : []),
  ];
  const element = el(
    "header",
    {},
    el("h1", {}, named(told.title)),
    el(
      "div",
      { class: "scroll" },
      el("table", { id: "inputs" }, el("thead", {}, el("tr", {}, ...heads.map(headCell))), body),
    ),
  );
  const options = told.inputs.map(
    (one, i) => /** @type {[string, string]} */ ([String(i), `${one.name || one.kind} (${one.kind})`]),
  );
  const a = choice("Input A", options, (value) => state.set("look", { a: Number(value) }));
  const b = choice("Input B", [["", "none"], ...options], (value) =>
    state.set("look", {
      b: value === "" ? null : Number(value),
      mode: value === "" ? "single" : state.mode === "single" ? "slider" : state.mode,
    }),
  );
  const only = el("span", {}, named(told.inputs[0].name), `, ${told.inputs[0].kind}`);
  const row = (/** @type {string} */ letter, /** @type {Node | null} */ who) => {
    const cells = heads.slice(2).map(() => el("td"));
    const made = el("tr", {}, el("th", { scope: "row" }, letter), el("td", {}, who), ...cells);
    body.append(made);
    const show = (/** @type {string[]} */ texts) => cells.forEach((one, i) => (one.textContent = texts[i] ?? ""));
    return { made, show };
  };
  const rows = several ? [row("A", a), row("B", b), row("A - B", null)] : [row("A", only)];
  const digits = [2, 4, 2, 0];
  const values = (/** @type {number} */ place) => {
    const { total, bpp, psnr, file_bytes } = told.inputs[place];
    return [total, bpp, psnr, file_bytes];
  };
  const texts = (/** @type {number} */ place) => {
    const { psnr, file_bytes, reconstruction } = told.inputs[place];
    const found = values(place).map((one, i) => number(one, digits[i]));
    if (psnr === null) found[2] = reconstruction === null ? "" : "exact";
    if (file_bytes === null) found[3] = "";
    return found;
  };
  const update = () => {
    a.value = String(state.a);
    b.value = state.b === null ? "" : String(state.b);
    rows[0].show(texts(state.a));
    if (!several) return;
    rows[2].made.hidden = state.b === null;
    rows[1].show(state.b === null ? [] : texts(state.b));
    if (state.b === null) return;
    const other = values(state.b);
    rows[2].show(values(state.a).map((one, i) => apart(one, other[i], digits[i])));
  };
  return { element, update };
}

/**
 * What is shown, and how.
 * @param {Picture} picture
 * @param {State} state
 * @param {import("./stage.js").Stage} stage
 * @returns {{element: HTMLElement, update: () => void}}
 */
export function toolbar(picture, state, stage) {
  /** Colours of another quantity, or unlocked, begin anew. @param {string} next @param {Mode} way */
  const limit = (next, way) =>
    state.locked && quantityOf(next, way) === quantityOf(state.layer, state.mode) ? state.limit : null;
  const layer = choice("Layer", [], (value) => state.set("look", { layer: value, limit: limit(value, state.mode) }));
  /** @type {number | null} */
  let listed = null; // the input whose layers are in the list
  const bases = /** @type {[string, string][]} */ ([
    ["photo", "photograph"],
    ["reconstruction", "reconstruction"],
    ["none", "nothing"],
  ]);
  const base = choice(
    "Below it",
    bases.filter(
      ([one]) =>
        one === "none" ||
        (one === "photo"
          ? picture.told.picture !== null
          : picture.told.inputs.some((input) => input.reconstruction !== null)),
    ),
    (value) => state.set("look", { base: value }),
  );
  const slide = (/** @type {string} */ label, /** @type {"opacity" | "split"} */ name) => {
    const made = el("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.01,
      "aria-label": label,
      input: () => state.set("look", { [name]: Number(made.value) }),
    });
    return made;
  };
  const [opacity, split] = [slide("Opacity of the layer", "opacity"), slide("Where the slider is", "split")];
  const mode = choice("How A and B are shown", MODES, (value) => {
    const way = /** @type {Mode} */ (value);
    state.set("look", { mode: way, limit: limit(state.layer, way) });
  });
  const grid = tick("cells", state.grid, (on) => state.set("look", { grid: on }));
  const press = (/** @type {string} */ text, /** @type {string} */ label, /** @type {() => void} */ act) =>
    el(
      "button",
      {
        type: "button",
        "aria-label": label,
        click: () => {
          act();
          state.set("view");
        },
      },
      text,
    );
  const { view } = stage;
  const pair = el(
    "span",
    { class: "row", hidden: true },
    el("label", {}, "Shown as ", mode),
    el("label", {}, "divider ", split),
  );
  const element = el(
    "div",
    { class: "row", id: "toolbar" },
    el("label", {}, "Layer ", layer),
    el("label", {}, "over ", base),
    el("label", {}, "opacity ", opacity),
    grid.label,
    pair,
    el(
      "span",
      { class: "row" },
      press("+", "Zoom in", () => view.zoom(1.5)),
      press("\u2212", "Zoom out", () => view.zoom(1 / 1.5)),
      press("Fit", "Fit the picture", () => view.fit()),
      press("1:1", "1:1, a pixel of the picture is one of the screen", () => view.zoom(1 / view.scale)),
    ),
  );
  const update = () => {
    if (listed !== state.a)
      layer.replaceChildren(
        ...[...picture.inputs[state.a].layers(), ["none", "nothing"]].map(([value, text]) =>
          el("option", { value }, text),
        ),
      );
    listed = state.a;
    layer.value = state.layer;
    base.value = state.base;
    opacity.value = String(state.opacity);
    split.value = String(state.split);
    mode.value = state.mode;
    grid.box.checked = state.grid;
    pair.hidden = state.b === null;
    /** @type {HTMLElement} */ (split.parentElement).hidden = state.mode !== "slider";
  };
  return { element, update };
}

/**
 * The colour bar, whose end can be moved.
 * @param {Painted} painted
 * @param {State} state
 * @returns {{element: HTMLElement, bar: HTMLCanvasElement, update: () => void}}
 */
export function scaleBar(painted, state) {
  const bar = el("canvas", { width: 256, height: 1, class: "colours" });
  const handle = el("div", {
    class: "handle",
    tabindex: 0,
    role: "slider",
    "aria-label": "End of the scale; arrows move it, Home resets it",
  });
  const [low, middle, high] = [el("span"), el("span"), el("span")];
  const beyond = el("span", { id: "beyond" });
  const log = tick("logarithmic", state.log, (on) => state.set("look", { log: on }));
  const lock = tick("one scale for all layers", state.locked, (on) => state.set("look", { locked: on, limit: null }));
  const move = (/** @type {number} */ limit) => state.set("look", { limit: Math.min(1e6, Math.max(1e-6, limit)) });
  let [from, start] = [0, 0];
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    [from, start] = [event.clientX, painted.scale.limit];
  });
  handle.addEventListener("pointermove", (event) => start && move(start * 2 ** ((event.clientX - from) / 80)));
  handle.addEventListener("pointerup", () => (start = 0));
  handle.addEventListener("dblclick", () => state.set("look", { limit: null }));
  handle.addEventListener("keydown", (event) => {
    const step = {
      ArrowRight: 1.05,
      ArrowUp: 1.05,
      ArrowLeft: 1 / 1.05,
      ArrowDown: 1 / 1.05,
      PageUp: 1.5,
      PageDown: 1 / 1.5,
    }[event.key];
    if (step) move(painted.scale.limit * step);
    else if (event.key === "Home") state.set("look", { limit: null });
    else return;
    event.preventDefault();
  });
  const element = el(
    "div",
    { id: "scale" },
    el("div", { class: "bar-line" }, bar, handle),
    el("div", { class: "ends" }, low, middle, high),
    el("div", { class: "row" }, beyond, log.label, lock.label),
  );
  const palette = (/** @type {boolean} */ signed) => {
    const context = /** @type {CanvasRenderingContext2D} */ (bar.getContext("2d", { willReadFrequently: true }));
    const image = context.createImageData(256, 1);
    new Uint32Array(image.data.buffer).set(
      coloursOf(signed ? painted.picture.told.palettes.differences : painted.picture.told.palettes.bits),
    );
    context.putImageData(image, 0, 0);
  };
  const update = () => {
    const { scale } = painted;
    element.hidden = !painted.shown.some(Boolean);
    palette(scale.signed);
    const unit = state.layer === "error" ? "mean squared error, of 1" : "bits per pixel";
    low.textContent = scale.log && !scale.signed ? `${brief(valueAt(0, scale))} or less` : brief(valueAt(0, scale));
    middle.textContent = brief(valueAt(0.5, scale));
    high.textContent = `${brief(scale.limit)} ${unit}`;
    handle.setAttribute("aria-valuenow", String(scale.limit));
    handle.setAttribute("aria-valuetext", `${brief(scale.limit)} ${unit}`);
    const pixels = painted.picture.width * painted.picture.height;
    const parts = painted.beyond.map((count) => `${number((100 * (count ?? NaN)) / pixels, 2)} %`);
    const two = state.paired && state.mode !== "difference";
    const told = painted.shown.map((held, i) =>
      held ? `${"AB"[i]} ${parts[i]}` : `${"AB"[i]} does not hold this layer`,
    );
    const words = `Beyond the scale: ${two ? told.join(", ") : parts[0]} of the pixels.`;
    beyond.textContent = painted.beyond.includes(null) ? "Pixels beyond the scale are being counted." : words;
    log.box.checked = scale.log;
    log.box.disabled = scale.signed;
    lock.box.checked = state.locked;
  };
  return { element, bar, update };
}

/** @param {number | null} one @param {number | null} other @param {number} digits @returns {string} their difference */
function apart(one, other, digits) {
  return one === null || other === null ? "" : signed(one - other, digits);
}
