// @ts-check
// What is drawn of the inputs: channels, a histogram of cells, the Lorenz line, profiles of rows and columns.

import { el, number } from "./dom.js";
import { profiles } from "./cells.js";
import { figure } from "./curves.js";

/** @typedef {import("./layers.js").Picture} Picture */
/** @typedef {import("./layers.js").Input} Input */
/** @typedef {import("./state.js").State} State */

const INKS = ["#3b82c4", "#e07b39"];
const BINS = 48;
const LEVELS = 1 << 16; // of the histogram that orders pixels for the Lorenz line

export class Charts {
  /** @param {Picture} picture @param {State} state */
  constructor(picture, state) {
    this.picture = picture;
    this.state = state;
    this.body = el("div", { class: "charts" });
    this.details = el(
      "details",
      { id: "charts", toggle: () => this.update() },
      el("summary", {}, el("h2", {}, "Charts")),
      this.body,
    );
    this.element = el("section", {}, this.details);
    this.key = "";
  }

  async update() {
    const { a, b } = this.state;
    const key = `${a} ${b}`;
    if (!this.details.open || key === this.key) return;
    this.key = key;
    const inputs = [a, ...(b === null ? [] : [b])].map((one) => this.picture.inputs[one]);
    const side = (/** @type {number} */ i) => (inputs.length === 2 ? "AB"[i] : undefined);
    const made = inputs[0].told.latents.flatMap((one, i) =>
      one.channels && one.channels.bits.length ? [this.channels(inputs, i)] : [],
    );
    made.push(...inputs[0].told.latents.flatMap((one) => (one.cells ? [this.histogram(inputs, one.name)] : [])));
    const lines = await Promise.all(
      [a, ...(b === null ? [] : [b])].map(async (one) =>
        lorenz(/** @type {Float32Array} */ (await this.picture.raster(one, "map", null, this.picture.whole))),
      ),
    );
    const tenth = (/** @type {Float64Array} */ line) => line[Math.round(line.length / 10)];
    made.push(
      figure({
        title: "Lorenz line: how few pixels cost how much",
        x: "% of the pixels, the costliest first",
        y: "% of the bits",
        series: lines.map((ys, i) => ({
          xs: Float64Array.from(ys, (_, k) => (100 * k) / (ys.length - 1)),
          ys,
          kind: "line",
          colour: INKS[i],
          name: side(i),
        })),
        note: lines
          .map(
            (ys, i) => `${side(i) ? `${side(i)}: ` : ""}10 % of the pixels cost ${number(tenth(ys), 1)} % of the bits.`,
          )
          .join(" "),
      }),
    );
    const along = inputs.map((one) => profiles([...one.latents.values()]));
    for (const [axis, title] of /** @type {["rows" | "columns", string][]} */ ([
      ["rows", "Rows of pixels"],
      ["columns", "Columns of pixels"],
    ]))
      made.push(
        figure({
          title,
          x: axis === "rows" ? "y, from the top" : "x, from the left",
          y: "bits",
          series: along.map((one, i) => ({ ys: one[axis], kind: "line", colour: INKS[i], name: side(i) })),
        }),
      );
    this.body.replaceChildren(...made);
  }

  /** @param {Input[]} inputs @param {number} place @returns {HTMLElement} */
  channels(inputs, place) {
    const { name, channels } = inputs[0].told.latents[place];
    const { bits, numbers } = /** @type {import("./data.js").ChannelDocument} */ (channels);
    const ys = bits.map((one) => one ?? NaN);
    const note = `${bits.length} channels; a click shows the map of one of the ${numbers.length} that are held.`;
    return figure({
      title: `Channels of ${name}`,
      x: "channel",
      y: "bits",
      note,
      series: [{ ys, kind: "bars", colour: INKS[0] }],
      pointed: (channel) => {
        if (channel === null) return note;
        const held = numbers.includes(channel) ? "" : "; its map is not held";
        return `Channel ${channel}: ${number(bits[channel], 2)} bits${held}.`;
      },
      chosen: (channel) => {
        if (numbers.includes(channel)) this.state.set("look", { layer: `channel:${place}:${channel}` });
      },
    });
  }

  /** @param {Input[]} inputs @param {string} name @returns {HTMLElement} */
  histogram(inputs, name) {
    const cells = inputs.flatMap((one) => one.latents.get(name)?.cells || []);
    let most = 0;
    for (const one of cells) for (const bits of one) if (bits > most && bits < Infinity) most = bits;
    const width = (most || 1) / BINS;
    const counts = cells.map((one) => {
      const found = new Float64Array(BINS);
      for (const bits of one) if (bits >= 0 && bits < Infinity) found[Math.min(BINS - 1, Math.floor(bits / width))]++;
      return found;
    });
    const middles = Float64Array.from(counts[0], (_, i) => (i + 0.5) * width);
    const note = `${number(cells[0].length, 0)} cells, the costliest ${number(most, 2)} bits.`;
    return figure({
      title: `Cells of ${name}`,
      x: "bits of a cell",
      y: "cells",
      note,
      series: counts.map((ys, i) => ({
        xs: middles,
        ys,
        kind: i ? "line" : "bars",
        colour: INKS[i],
        name: counts.length === 2 ? "AB"[i] : undefined,
      })),
      pointed: (bin) => {
        if (bin === null) return note;
        const held = counts.map((one) => number(one[bin], 0)).join(" and ");
        return `${number(bin * width, 2)} to ${number((bin + 1) * width, 2)} bits: ${held} cells.`;
      },
    });
  }
}

/**
 * Per cent of the bits that the first so many pixels have, the costliest first, at 0, 0.1 ... 100 %.
 * @param {Float32Array} values
 * @returns {Float64Array}
 */
export function lorenz(values) {
  let most = 0;
  for (const one of values) if (one > most && one < Infinity) most = one;
  const [counts, sums] = [new Float64Array(LEVELS), new Float64Array(LEVELS)];
  let [total, whole] = [0, 0];
  for (const one of values) {
    if (!(one >= 0 && one < Infinity)) continue;
    const level = Math.min(LEVELS - 1, Math.floor((one / (most || 1)) * LEVELS));
    counts[level]++;
    sums[level] += one;
    whole++;
    total += one;
  }
  const line = new Float64Array(1001);
  let [passed, spent, level] = [0, 0, LEVELS - 1];
  for (let i = 1; i <= 1000; i++) {
    const wanted = (whole * i) / 1000;
    while (level > 0 && passed + counts[level] <= wanted) {
      passed += counts[level];
      spent += sums[level--];
    }
    const part = counts[level] ? (sums[level] * (wanted - passed)) / counts[level] : 0;
    line[i] = total ? Math.min(100, (100 * (spent + part)) / total) : 0;
  }
  return line;
}
