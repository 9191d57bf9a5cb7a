// @ts-check
// A video: bits of each frame over time, and the picture page of the frame that is chosen.

import { el, named, number } from "./dom.js";
import { figure } from "./curves.js";
import { State, fromFragment } from "./state.js";
import { View } from "./view.js";
import { picturePage } from "./viewer.js";

/** @typedef {import("./data.js").VideoDocument} VideoDocument */

const INKS = ["#3b82c4", "#e07b39", "#4a9d5b", "#a05fb4", "#b0413e", "#7a7f87"];

/** @param {VideoDocument} told @param {HTMLElement} page */
export async function videoPage(told, page) {
  const video = new Video(told);
  page.replaceChildren(el("header", {}, el("h1", {}, named(told.title)), video.controls, video.charts), video.holder);
  page.hidden = false;
  await video.open();
}

class Video {
  /** @param {VideoDocument} told */
  constructor(told) {
    this.told = told;
    this.count = told.frames.length;
    this.latents = [...new Set(told.frames.flatMap((one) => one.inputs[0].latents.map((latent) => latent.name)))];
    this.totals = Float64Array.from(told.frames, (one) => one.inputs[0].total ?? NaN);
    /** @type {Awaited<ReturnType<typeof picturePage>> | null} */
    this.viewer = null;
    this.frame = 0;
    this.turn = Promise.resolve();
    this.holder = el("div");
    this.charts = el("div", { class: "charts wide" });
    const seek = () => this.seek(Number(this.slider.value));
    this.slider = el("input", {
      type: "range",
      min: 0,
      max: this.count - 1,
      step: 1,
      "aria-label": "Frame",
      input: seek,
    });
    this.words = el("span", { role: "status" });
    const step = (/** @type {string} */ text, /** @type {string} */ label, /** @type {number} */ by) =>
      el("button", { type: "button", "aria-label": label, click: () => this.seek(this.frame + by) }, text);
    this.controls = el(
      "div",
      { class: "row frames" },
      step("\u2039", "The frame before", -1),
      this.slider,
      step("\u203a", "The next frame", 1),
      this.words,
    );
  }

  async open() {
    const { width, height } = this.told.frames[0];
    const [state, view] = [new State(), new View(width, height)];
    fromFragment(location.hash.slice(1), state, view, { inputs: 1, layers: [] });
    this.frame = Math.min(this.count - 1, state.frame);
    await this.show();
  }

  /** @param {number} frame */
  seek(frame) {
    this.frame = Math.min(this.count - 1, Math.max(0, frame));
    const wanted = this.frame;
    this.turn = this.turn.then(async () => {
      if (wanted === this.frame) await this.show();
    });
  }

  async show() {
    const { told, frame } = this;
    this.slider.value = String(frame);
    const kind = told.kinds ? `, ${told.kinds[frame]}` : "";
    const bits = `${number(this.totals[frame], 2)} bits`;
    this.words.textContent = `Frame ${frame} of ${this.count}, ${number(frame / told.rate, 3)} s${kind}: ${bits}`;
    this.draw();
    const kept = this.viewer || undefined;
    if (this.viewer) this.viewer.close();
    this.viewer = await picturePage({ ...told.frames[frame], palettes: told.frames[0].palettes }, this.holder, kept);
    this.viewer.state.set("view", { frame });
  }

  draw() {
    const { told, frame } = this;
    const chosen = (/** @type {number} */ place) => this.seek(place);
    const cursor = frame;
    const mean = this.totals.reduce((sum, one) => sum + one, 0) / this.count;
    const peak = this.totals.indexOf(Math.max(...this.totals));
    const rate = (mean * told.rate) / 1000;
    const factor = number(this.totals[peak] / mean, 2);
    const means = `Mean ${number(mean, 2)} bits a frame, ${number(rate, 2)} kbit/s`;
    const note = `${means}; peak factor ${factor}, frame ${peak}.`;
    const pointed = (/** @type {number | null} */ place) =>
      place === null ? note : `Frame ${place}: ${number(this.totals[place], 2)} bits.`;
    /** @type {import("./curves.js").Series[]} */
    const series = this.stacked().map(({ name, ys }, i) => ({ ys, name, kind: "bars", colour: INKS[i % INKS.length] }));
    const xs = Float64Array.from(this.totals, (_, i) => i + 0.5);
    series.push({
      xs,
      ys: averages(this.totals, Math.round(told.rate)),
      kind: "line",
      colour: "currentColor",
      name: "mean of a second",
    });
    const groups = told.kinds && this.groups(told.kinds);
    if (groups) series.push({ xs, ys: groups, kind: "line", colour: "#c33", name: "mean of a group" });
    const made = [
      figure({ title: "Bits of each frame", x: "frame", y: "bits", series, note, pointed, chosen, cursor }),
    ];
    const ys = told.frames.map((one) => one.inputs[0].psnr ?? NaN);
    const least = Math.min(...ys.filter(Number.isFinite));
    if (least < Infinity)
      made.push(
        figure({
          title: "PSNR of each frame",
          x: "frame",
          y: "dB",
          low: Math.floor(least) - 1,
          slots: true,
          series: [{ ys, kind: "line", colour: INKS[0] }],
          chosen,
          cursor,
        }),
      );
    this.charts.replaceChildren(...made);
  }

  /**
   * Latents one upon the other: the sum of all first, which the others are drawn over.
   * @returns {{name: string, ys: Float64Array}[]}
   */
  stacked() {
    const sums = new Float64Array(this.count);
    const found = this.latents.map((name) => {
      this.told.frames.forEach(
        (one, i) => (sums[i] += one.inputs[0].latents.find((latent) => latent.name === name)?.bits ?? 0),
      );
      return { name, ys: sums.slice() };
    });
    return found.reverse();
  }

  /**
   * The mean of each frame's group, which a frame of the first one's kind begins.
   * @param {string[]} kinds
   * @returns {Float64Array}
   */
  groups(kinds) {
    const means = new Float64Array(this.count);
    for (let from = 0; from < this.count;) {
      let to = from + 1;
      while (to < this.count && kinds[to] !== kinds[0]) to++;
      const group = this.totals.subarray(from, to);
      means.fill(group.reduce((sum, one) => sum + one, 0) / group.length, from, to);
      from = to;
    }
    return means;
  }
}

/** Means of so many values, up to each. @param {Float64Array} values @param {number} count @returns {Float64Array} */
export function averages(values, count) {
  let sum = 0;
  return values.map((one, i) => {
    sum += one - (i >= count ? values[i - count] : 0);
    return sum / Math.min(i + 1, Math.max(1, count));
  });
}
