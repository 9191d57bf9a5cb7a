// @ts-check
// What the stage draws: for A and for B the layer in colours, painted anew when what is looked at changes.

import { coloursOf, paint } from "./colour.js";

/** @typedef {import("./layers.js").Picture} Picture */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./colour.js").Scale} Scale */

export class Painted {
  /** @param {Picture} picture @param {State} state @param {() => void} done */
  constructor(picture, state, done) {
    this.picture = picture;
    this.state = state;
    this.done = done;
    this.colours = {
      bits: coloursOf(picture.told.palettes.bits),
      differences: coloursOf(picture.told.palettes.differences),
    };
    this.canvases = [document.createElement("canvas"), document.createElement("canvas")];
    this.shown = [false, false]; // what the canvases hold is wanted
    this.beyond = [0, 0]; // pixels beyond the scale
    /** @type {Scale} */
    this.scale = { limit: 1, log: false, signed: false };
    /** @type {Map<string, number>} */
    this.limits = new Map();
    this.turn = 0;
    this.key = "";
  }

  /**
   * The end of the scale where nobody has moved it.
   * @param {Float32Array} values
   * @param {string} layer
   * @param {boolean} signed
   * @returns {number}
   */
  _limit(values, layer, signed) {
    const { inputs } = this.picture;
    if (!signed && layer !== "error" && this.state.locked) return Math.max(...inputs.map((one) => one.told.limit));
    const key = `${this.state.a} ${this.state.b} ${layer} ${signed}`;
    let limit = this.limits.get(key);
    if (limit === undefined) {
      const step = Math.max(1, Math.floor(values.length / 50000));
      const sample = values
        .filter((_, i) => i % step === 0)
        .map(Math.abs)
        .filter(Number.isFinite)
        .sort();
      limit = sample[Math.floor(0.995 * (sample.length - 1))] || sample[sample.length - 1] || 1;
      this.limits.set(key, limit);
    }
    return limit;
  }

  /** Paint what the state asks for; the last call wins. */
  async update() {
    const turn = ++this.turn;
    const { state, picture } = this;
    const { a, b, layer, mode } = state;
    const against = mode === "difference" ? b : null;
    const signed = against !== null || layer === "gap";
    if (state.base === "reconstruction" || layer === "error") {
      await picture.inputs[a].decode();
      if (state.paired && b !== null) await picture.inputs[b].decode();
    }
    const own = layer === "none" ? null : await picture.raster(a, layer, against);
    const other = layer !== "none" && state.paired && against === null && b !== null ? await picture.raster(b, layer) : null;
    if (turn !== this.turn) return;
    const first = own || other;
    if (first) this.scale = { limit: state.limit ?? this._limit(first, layer, signed), log: state.log, signed };
    const colours = signed ? this.colours.differences : this.colours.bits;
    const key = JSON.stringify([a, b, layer, mode, this.scale]);
    if (key !== this.key)
      [own, other].forEach((values, i) => {
        this.shown[i] = values !== null;
        this.beyond[i] = values ? paint(this.canvases[i], values, picture.width, colours, this.scale) : 0;
      });
    this.key = key;
    this.done();
  }

  /** @param {0 | 1} which @returns {ImageBitmap | null} what lies below the layer */
  base(which) {
    const { state, picture } = this;
    const number = which === 0 ? state.a : state.b;
    if (state.base === "photo") return picture.bitmap;
    return state.base === "reconstruction" && number !== null ? picture.inputs[number].reconstruction : null;
  }
}
