// @ts-check
// What is looked at, in one place: who changes it says so, and all others follow. It lives in the URL's fragment, too.

/** @typedef {{kind: "box" | "polygon" | "mask", points: [number, number][], label: string, groups?: number[]}} Region */
/** @typedef {"single" | "slider" | "side" | "blink" | "difference"} Mode */

export const MODES = /** @type {[Mode, string][]} */ ([
  ["single", "A alone"],
  ["slider", "slider"],
  ["side", "side by side"],
  ["blink", "blink"],
  ["difference", "A - B, signed"],
]);

/**
 * What a layer shows: what of one quantity has one scale.
 * @param {string} layer @param {Mode} mode
 * @returns {"bits" | "error" | "apart"}
 */
export function quantityOf(layer, mode) {
  return mode === "difference" || layer === "gap" ? "apart" : layer === "error" ? "error" : "bits";
}

export class State {
  constructor() {
    this.a = 0;
    /** @type {number | null} */
    this.b = null;
    /** @type {Mode} */
    this.mode = "single";
    this.layer = "map";
    this.base = "photo"; // or "reconstruction", "none"
    this.opacity = 0.6;
    this.log = false;
    /** @type {number | null} the end of the scale, where it was moved; bits per pixel */
    this.limit = null;
    this.locked = true; // one scale for all layers
    this.grid = false;
    this.split = 0.5;
    /** @type {[number, number] | null} */
    this.pin = null;
    /** @type {Region[]} */
    this.regions = [];
    /** @type {((what: string) => void)[]} */
    this.listeners = [];
    /** @type {((what: string) => void)[]} who stays when another picture comes */
    this.others = [];
    this.frame = 0; // of a video
    /** @type {Partial<State>} what differs where a page opens from what is written here */
    this.start = {};
  }

  /** Change, and say what: "look", "view", "pin" or "regions". @param {string} what @param {Partial<State>} [values] */
  set(what, values = {}) {
    Object.assign(this, values);
    for (const one of this.listeners) one(what);
  }

  /** Whether two inputs are shown. */
  get paired() {
    return this.b !== null && this.mode !== "single";
  }
}

/** @param {State} state @param {import("./view.js").View} view @returns {string} */
export function toFragment(state, view) {
  const parts = new URLSearchParams();
  const plain = Object.assign(new State(), state.start);
  for (const name of /** @type {const} */ ([
    "a",
    "b",
    "mode",
    "layer",
    "base",
    "opacity",
    "log",
    "limit",
    "locked",
    "grid",
    "split",
    "frame",
  ]))
    if (state[name] !== plain[name]) parts.set(name, String(state[name]));
  if (state.pin) parts.set("pin", state.pin.join(","));
  if (!view.fitted) parts.set("view", [view.x, view.y, view.scale].map((one) => Number(one.toFixed(3))).join(","));
  for (const { kind, points, label } of state.regions)
    if (kind !== "mask")
      parts.append("region", [kind, label, ...points.flat()].map((one) => encodeURIComponent(one)).join(" "));
  return parts.toString();
}

/**
 * Take what a fragment says, as far as it makes sense here.
 * @param {string} text @param {State} state @param {import("./view.js").View} view
 * @param {{inputs: number, layers: string[]}} known
 */
export function fromFragment(text, state, view, known) {
  const parts = new URLSearchParams(text);
  const value = (/** @type {string} */ name, /** @type {number} */ low, /** @type {number} */ high) => {
    const found = Number(parts.get(name) || NaN);
    return found >= low && found <= high ? found : null;
  };
  state.a = Math.floor(value("a", 0, known.inputs - 1) || 0);
  const b = value("b", 0, known.inputs - 1);
  if (parts.has("b")) state.b = b === null ? null : Math.floor(b);
  const mode = MODES.find(([one]) => one === parts.get("mode"));
  if (parts.has("mode") && mode) state.mode = mode[0];
  const layer = parts.get("layer");
  if (layer !== null && (layer === "none" || known.layers.includes(layer))) state.layer = layer;
  const base = parts.get("base");
  if (base && ["photo", "reconstruction", "none"].includes(base)) state.base = base;
  state.opacity = value("opacity", 0, 1) ?? state.opacity;
  state.split = value("split", 0, 1) ?? state.split;
  state.frame = Math.floor(value("frame", 0, 1e9) || 0);
  state.limit = value("limit", 1e-9, 1e9);
  state.log = parts.get("log") === "true";
  state.locked = parts.get("locked") !== "false";
  state.grid = parts.get("grid") === "true";
  const pin = numbersIn(parts.get("pin"), ",");
  if (pin.length === 2)
    state.pin = [
      Math.min(view.width - 1, Math.max(0, Math.floor(pin[0]))),
      Math.min(view.height - 1, Math.max(0, Math.floor(pin[1]))),
    ];
  const seen = numbersIn(parts.get("view"), ",");
  if (seen.length === 3 && seen[2] > 0) {
    view.scale = Math.min(128, seen[2]);
    view.place(seen[0], seen[1]);
  }
  for (const one of parts.getAll("region")) {
    const [kind, label, ...rest] = one.split(" ");
    const flat = numbersIn(rest.join(" "), " ");
    /** @type {[number, number][]} */
    const points = [];
    for (let i = 0; i + 1 < flat.length; i += 2) points.push([flat[i], flat[i + 1]]);
    const whole = flat.length % 2 === 0 && flat.length === rest.length;
    if (whole && ((kind === "box" && points.length === 2) || (kind === "polygon" && points.length > 2)))
      state.regions.push({ kind, points, label: decodeURIComponent(label) });
  }
}

/** @param {string | null} text @param {string} between @returns {number[]} */
function numbersIn(text, between) {
  return (text || "").split(between).filter(Boolean).map(Number).filter(Number.isFinite);
}
