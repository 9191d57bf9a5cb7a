// @ts-check
// What is under the pointer, or under the pin: a pixel's colours and bits, its cells, and their costliest channels.

import { el, named, number, signed } from "./dom.js";

/** @typedef {import("./layers.js").Picture} Picture */
/** @typedef {import("./layers.js").Input} Input */
/** @typedef {import("./state.js").State} State */

const BARS = 10;
const NAMED = 3; // latents of one grid that are told by name

/**
 * Row and column of the cell that a pixel belongs to.
 * @param {Input} input
 * @param {[number, number]} grid
 * @param {number} x
 * @param {number} y
 * @returns {[number, number]}
 */
export function cellOf(input, grid, x, y) {
  const { canvas, crop } = input.told;
  return [Math.floor(((y + crop[0]) * grid[0]) / canvas[0]), Math.floor(((x + crop[1]) * grid[1]) / canvas[1])];
}

/** Names of the latents of each grid, the first few. @param {Input} input @returns {[string, [number, number]][]} */
function gridsOf(input) {
  /** @type {Map<string, [string[], [number, number]]>} */
  const found = new Map();
  for (const { name, grid } of input.told.latents) {
    const [names] = found.get(String(grid)) || [[]];
    found.set(String(grid), [[...names, name], grid]);
  }
  return [...found.values()].map(([names, grid]) => {
    const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : "";
    return [names.slice(0, NAMED).join(", ") + more, grid];
  });
}

export class Probe {
  /** @param {Picture} picture @param {State} state */
  constructor(picture, state) {
    this.picture = picture;
    this.state = state;
    this.place = el("p", { class: "place" });
    this.body = el("div", { class: "scroll" });
    this.bars = el("div", { class: "bars" });
    this.element = el("section", { id: "probe" }, el("h2", {}, "Pixel and cell"), this.place, this.body, this.bars);
    /** @type {{node: Text, value: (x: number, y: number) => string}[]} */
    this.entries = [];
    /** @type {{latent: string, numbers: number[], cells: import("./data.js").Numbers, grid: [number, number]}[]} */
    this.channels = [];
    /** @type {HTMLElement[][]} */
    this.barRows = [];
    /** @type {[string, [number, number]][]} what is told of where cells are, of latents of each grid */
    this.grids = [];
    this.key = "";
    this.decoded = ""; // of which inputs the reconstructions are
    this.resting = true; // nobody asks for a pixel
    /** @type {[number, number]} */
    this.last = [0, 0];
  }

  /** Make the tables for the inputs that are shown. */
  async build() {
    const { a, b } = this.state;
    const key = `${a} ${b}`;
    if (key === this.key) return;
    this.key = key;
    this.grids = gridsOf(this.picture.inputs[a]);
    const inputs = [a, ...(b === null ? [] : [b])].map((one) => this.picture.inputs[one]);
    this.entries = [];
    const heads = inputs.length === 2 ? ["A", "B", "A - B"] : ["value"];
    const head = el("thead", {}, el("tr", {}, el("td"), ...heads.map((one) => el("th", { scope: "col" }, one))));
    const body = el("tbody");
    const colour = (
      /** @type {Input | Picture} */ { decoded },
      /** @type {ImageBitmap | null} */ bitmap,
      /** @type {number} */ x,
      /** @type {number} */ y,
    ) => {
      if (bitmap) return this.picture.pixels(bitmap, x, y).slice(0, 3).join(" ");
      return decoded ? "decoding" : "when asked";
    };
    const row = (/** @type {Node | string} */ title, /** @type {((x: number, y: number) => string)[]} */ values) => {
      const cells = values.map((value) => {
        const node = document.createTextNode("");
        this.entries.push({ node, value });
        return el("td", {}, node);
      });
      while (cells.length < heads.length) cells.push(el("td"));
      body.append(el("tr", {}, el("th", { scope: "row" }, title), ...cells));
    };
    const pair = (
      /** @type {((x: number, y: number) => number | undefined)[]} */ values,
      /** @type {number} */ digits,
    ) => {
      const own = values.map((value) => (/** @type {number} */ x, /** @type {number} */ y) => {
        const found = value(x, y);
        return found === undefined ? "" : number(found, digits);
      });
      const apart = (/** @type {number} */ x, /** @type {number} */ y) => {
        const [one, other] = values.map((value) => value(x, y));
        return one === undefined || other === undefined ? "" : signed(one - other, digits);
      };
      return values.length === 2 ? [...own, apart] : own;
    };
    const group = (/** @type {string} */ title) =>
      body.append(el("tr", { class: "group" }, el("th", { scope: "rowgroup", colspan: heads.length + 1 }, title)));
    group("This pixel");
    const { picture, exact } = this.picture.told;
    if (picture !== null)
      row(`photograph${exact ? "" : ", a copy with losses"}, R G B`, [
        (x, y) => colour(this.picture, this.picture.bitmap, x, y),
      ]);
    if (inputs.some((one) => one.told.reconstruction !== null))
      row(
        "reconstruction, R G B",
        inputs.map((one) => (x, y) => (one.told.reconstruction === null ? "" : colour(one, one.reconstruction, x, y))),
      );
    row(
      "bits per pixel, all",
      pair(
        inputs.map((one) => (x, y) => [...one.latents.values()].reduce((sum, layout) => sum + layout.at(x, y), 0)),
        4,
      ),
    );
    const names = [...new Set(inputs.flatMap((one) => one.told.latents.map((latent) => latent.name)))];
    for (const name of names)
      row(
        el("span", {}, "of ", named(name)),
        pair(
          inputs.map((one) => (x, y) => one.latents.get(name)?.at(x, y)),
          4,
        ),
      );
    const celled = names.filter((name) => inputs.some((one) => one.latents.get(name)?.cells));
    if (celled.length) group("Its cells, bits");
    const cell = (/** @type {string} */ name, /** @type {string} */ what) =>
      inputs.map((one) => (/** @type {number} */ x, /** @type {number} */ y) => {
        const layout = one.latents.get(name);
        const cells = what ? one.beside.get(`${what} ${name}`) : layout?.cells;
        if (!layout || !cells) return undefined;
        const [i, j] = cellOf(one, layout.grid, x, y);
        return cells[i * layout.grid[1] + j];
      });
    for (const name of celled) {
      row(named(name), pair(cell(name, ""), 3));
      const known = inputs.flatMap((one) => one.told.latents.filter((latent) => latent.name === name));
      for (const what of new Set(known.flatMap((one) => Object.keys(one.beside))))
        row(
          el("span", { class: "part" }, named(name), `, ${what}`),
          pair(cell(name, what), what === "escapes" ? 0 : 3),
        );
    }
    this.body.replaceChildren(el("table", {}, head, body));
    this.show();
    await new Promise((done) => setTimeout(done)); // what is there can be used before the rest is inflated
    await Promise.all([this._openChannels(inputs[0]), ...inputs.map((one) => one.openBeside())]);
    this.show();
  }

  /** @param {Input} input */
  async _openChannels(input) {
    const found = await Promise.all(
      input.told.latents.map(async (one, i) => {
        const cells = await input.channelCells(i);
        return cells && one.channels
          ? { latent: one.name, numbers: one.channels.numbers, cells, grid: one.grid }
          : null;
      }),
    );
    this.channels = found.flatMap((one) => (one ? [one] : []));
    const count = this.channels.reduce((sum, { numbers }) => sum + numbers.length, 0);
    this.barRows = Array.from({ length: Math.min(BARS, count) }, () => [el("bdi"), el("i"), el("span")]);
    this.bars.replaceChildren(
      this.channels.length ? el("h3", {}, "Costliest channels of its cells, bits", this.state.b !== null && ", A") : "",
      ...this.barRows.map((one) => el("div", { class: "bar" }, one[0], el("span", { class: "track" }, one[1]), one[2])),
    );
  }

  /** Tell of the pin, or of nothing. */
  show() {
    const { width, height } = this.picture;
    if (this.state.pin) return this.point(...this.state.pin);
    this.resting = true;
    this.at(Math.floor(width / 2), Math.floor(height / 2));
    this.place.textContent += ". This is the middle: point at the picture; a click pins, arrows move the pin.";
  }

  /** Tell once more of what was told. */
  again() {
    if (this.resting) this.show();
    else this.at(...this.last);
  }

  /** Tell of a pixel that somebody asks for. @param {number} x @param {number} y */
  point(x, y) {
    this.resting = false;
    if (this.decoded !== this.key) {
      this.decoded = this.key;
      for (const one of [this.state.a, this.state.b]) if (one !== null) this.picture.inputs[one].decode();
    }
    this.at(x, y);
  }

  /** Tell of a pixel. @param {number} x @param {number} y */
  at(x, y) {
    const { width, height } = this.picture;
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    this.last = [x, y];
    const input = this.picture.inputs[this.state.a];
    const cells = this.grids.map(([names, grid]) => `${names} ${cellOf(input, grid, x, y).join(", ")}`);
    this.place.textContent = `x ${x}, y ${y}; row and column of the cell: ${cells.join("; ")}`;
    for (const { node, value } of this.entries) node.data = value(x, y);
    if (!this.barRows.length) return;
    /** @type {[number, string][]} */
    const found = [];
    for (const { latent, numbers, cells: bits, grid } of this.channels) {
      const [i, j] = cellOf(input, grid, x, y);
      const size = grid[0] * grid[1];
      const at = i * grid[1] + j;
      numbers.forEach((channel, place) => found.push([bits[place * size + at], `${latent}:${channel}`]));
    }
    found.sort((one, other) => other[0] - one[0]);
    const most = found[0] ? found[0][0] : 1;
    this.barRows.forEach(([name, bar, value], i) => {
      const [bits, channel] = found[i] || [0, ""];
      name.textContent = channel;
      bar.style.width = `${channel && most > 0 ? Math.max(0, (100 * bits) / most) : 0}%`;
      value.textContent = channel ? number(bits, 3) : "";
    });
  }
}
