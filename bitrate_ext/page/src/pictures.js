// @ts-check
// What the stage draws: for A and for B the layer in colours, painted anew when what is looked at changes.

import { coloursOf, paint } from "./colour.js";

/** @typedef {import("./layers.js").Picture} Picture */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./colour.js").Scale} Scale */
/** @typedef {import("./cells.js").Part} Part */
/** @typedef {import("./cells.js").Row} Row */

const WHOLE = 1 << 20; // pixels of a layer that is painted as a whole; of larger ones as much as is seen
const REST = 80; // milliseconds without a change of the view, before what is seen is painted anew
const SLICE = 8; // milliseconds of counting at a time
const SAMPLE = 50000; // pixels that tell where a scale ends

export class Painted {
  /** @param {Picture} picture @param {State} state @param {import("./view.js").View} view @param {() => void} done */
  constructor(picture, state, view, done) {
    this.picture = picture;
    this.state = state;
    this.view = view;
    this.done = done;
    this.colours = {
      bits: coloursOf(picture.told.palettes.bits),
      differences: coloursOf(picture.told.palettes.differences),
    };
    this.canvases = [document.createElement("canvas"), document.createElement("canvas")];
    this.shown = [false, false]; // what the canvases hold is wanted
    /** @type {(number | null)[]} pixels beyond the scale; null while they are counted */
    this.beyond = [0, 0];
    this.part = picture.whole; // of the picture, that the canvases hold
    /** @type {Scale} */
    this.scale = { limit: 1, log: false, signed: false };
    /** @type {Map<string, number>} */
    this.limits = new Map();
    this.turn = 0;
    this.waiting = 0;
    this.key = ""; // of what the canvases hold
    this.held = ""; // and of which part of it
  }

  /**
   * The end of the scale where nobody has moved it.
   * @param {Row} row
   * @param {string} layer
   * @param {boolean} signed
   * @returns {number}
   */
  _limit(row, layer, signed) {
    const { inputs, width, height } = this.picture;
    if (!signed && layer !== "error" && this.state.locked) return Math.max(...inputs.map((one) => one.told.limit));
    const key = `${this.state.a} ${this.state.b} ${layer} ${signed}`;
    let limit = this.limits.get(key);
    if (limit === undefined) {
      const step = Math.ceil(Math.sqrt((width * height) / SAMPLE)) | 1; // odd, not to fall in with cells
      const [top, left] = [height, width].map((size) => Math.min(size - 1, (step - 1) / 2));
      const found = [];
      for (let y = top; y < height; y += step) {
        const values = row(y);
        for (let x = left; x < width; x += step) if (Number.isFinite(values[x])) found.push(Math.abs(values[x]));
      }
      const sample = Float32Array.from(found).sort();
      limit = sample[Math.floor(0.995 * (sample.length - 1))] || sample[sample.length - 1] || 1;
      this.limits.set(key, limit);
    }
    return limit;
  }

  /** How much of the picture, in how large blocks, is worth painting for what is seen. @returns {Part} */
  _wanted() {
    const { width, height } = this.picture;
    const dense = window.devicePixelRatio || 1;
    const step = width * height <= WHOLE ? 1 : Math.max(1, Math.floor(1 / (this.view.scale * dense)));
    const [wide, high] = [Math.ceil(width / step), Math.ceil(height / step)];
    if (wide * high <= WHOLE) return { step, left: 0, top: 0, width: wide, height: high };
    const [left, top, right, bottom] = this.view.seen(1.5);
    const from = [Math.floor(left / step), Math.floor(top / step)];
    const size = [Math.ceil(right / step) - from[0], Math.ceil(bottom / step) - from[1]];
    return { step, left: from[0], top: from[1], width: size[0], height: size[1] };
  }

  /** Paint anew once the view rests, where it shows more than is painted. */
  follow() {
    const { part, view } = this;
    const [left, top, right, bottom] = view.seen(1);
    const there =
      left >= part.left * part.step &&
      top >= part.top * part.step &&
      right <= (part.left + part.width) * part.step &&
      bottom <= (part.top + part.height) * part.step;
    clearTimeout(this.waiting);
    if (!there || this._wanted().step < part.step) this.waiting = setTimeout(() => this.update(), REST);
  }

  /** Paint what the state asks for; the last call wins. */
  async update() {
    const turn = ++this.turn;
    clearTimeout(this.waiting);
    const { state, picture } = this;
    const { a, b, layer, mode } = state;
    const against = mode === "difference" ? b : null;
    const signed = against !== null || layer === "gap";
    const part = this._wanted();
    if (state.base === "reconstruction" || layer === "error") {
      await picture.inputs[a].decode();
      if (state.paired && b !== null) await picture.inputs[b].decode();
    }
    const sides = layer === "none" ? [] : [a, ...(state.paired && against === null && b !== null ? [b] : [])];
    const rows = await Promise.all(sides.map((one) => picture.rows(one, layer, against)));
    const values = await Promise.all(sides.map((one) => picture.raster(one, layer, against, part)));
    if (turn !== this.turn) return;
    const first = rows.find((one) => one);
    if (first) this.scale = { limit: state.limit ?? this._limit(first, layer, signed), log: state.log, signed };
    const colours = signed ? this.colours.differences : this.colours.bits;
    const key = JSON.stringify([a, b, layer, mode, this.scale]);
    const held = JSON.stringify(part);
    if (key !== this.key || held !== this.held) {
      const beyond = this.canvases.map((canvas, i) => {
        const own = values[i];
        this.shown[i] = Boolean(own);
        return own ? paint(canvas, own, part.width, colours, this.scale) : 0;
      });
      if (part.width * part.height === picture.width * picture.height) this.beyond = beyond;
      else if (key !== this.key) this._count(rows, key);
    }
    [this.key, this.held, this.part] = [key, held, part];
    this.done();
  }

  /**
   * Count pixels beyond the scale, in slices of time between which the page answers.
   * @param {(Row | null)[]} rows
   * @param {string} key of what is counted, as long as it is looked at
   */
  async _count(rows, key) {
    const { limit } = this.scale;
    const counts = [0, 0];
    this.beyond = [null, null];
    let until = 0; // at once after what is painted is shown
    for (const [i, row] of rows.entries())
      for (let y = 0; row && y < this.picture.height; y++) {
        if (performance.now() > until) {
          await new Promise((done) => setTimeout(done));
          if (this.key !== key) return;
          until = performance.now() + SLICE;
        }
        for (const value of row(y)) if (value > limit || -value > limit) counts[i]++;
      }
    this.beyond = counts;
    this.done();
  }

  /** @param {0 | 1} which @returns {ImageBitmap | null} what lies below the layer */
  base(which) {
    const { state, picture } = this;
    const number = which === 0 ? state.a : state.b;
    if (state.base === "photo") return picture.bitmap || picture.preview;
    return state.base === "reconstruction" && number !== null ? picture.inputs[number].reconstruction : null;
  }
}
