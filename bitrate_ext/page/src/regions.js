// @ts-check
// Regions: drawn or typed in, their bits counted from cells, and copied as CSV, LaTeX or JSON.

import { el, number } from "./dom.js";
import { numbersOf } from "./data.js";
import { decibels } from "./layers.js";
import { texts, toCsv, toJson, toLatex } from "./copying.js";
import { boxOf, countOf, edgesOf, spansOf } from "./spans.js";

/** @typedef {import("./layers.js").Picture} Picture */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./state.js").Region} Region */
/**
 * @typedef {{label: string, pixels: number, values: Record<string, number[]>}} Account of each quantity that of A
 * and, where there is one, of B
 */

const COLOURS = ["#4df", "#fd4", "#f6a", "#8f6", "#fa4", "#b9f"];

/**
 * Draw twice: dark and wide, then in a colour.
 * @param {CanvasRenderingContext2D} context @param {string} ink @param {(width: number) => void} stroke
 */
function outlined(context, ink, stroke) {
  for (const [colour, width] of /** @type {[string, number][]} */ ([
    ["#000", 4],
    [ink, 2],
  ])) {
    context.strokeStyle = colour;
    stroke(width);
  }
}

export class Regions {
  /** @param {Picture} picture @param {State} state @param {import("./stage.js").Stage} stage */
  constructor(picture, state, stage) {
    this.picture = picture;
    this.state = state;
    this.stage = stage;
    /** @type {Int32Array | null} */
    this.mask = null;
    /** @type {"" | "box" | "polygon"} */
    this.drawing = "";
    /** @type {[number, number][]} */
    this.points = [];
    /** @type {Account[]} */
    this.accounts = [];
    /** @type {WeakMap<Region, {path: Path2D, first: [number, number]}>} edges of what masks mark */
    this.known = new WeakMap();
    /** @type {WeakMap<Region, {of: string, account: Account}>} what was counted, of which inputs */
    this.counted = new WeakMap();
    this.turn = 0;
    this.tools = ["box", "polygon"].map((kind) =>
      el("button", { type: "button", "aria-pressed": "false", click: () => this.draw(kind) }, `Draw a ${kind}`),
    );
    this.typed = el("input", {
      type: "text",
      size: 18,
      placeholder: "x y width height",
      "aria-label": "A box in pixels: x, y, width, height",
    });
    this.out = el("div", { class: "scroll" });
    this.copied = el("textarea", { readonly: true, hidden: true, rows: 5, "aria-label": "What was copied" });
    this.told = el("p", { role: "status" });
    const add = el(
      "form",
      { class: "row", submit: (/** @type {Event} */ event) => this.type(event) },
      this.typed,
      el("button", {}, "Add"),
    );
    this.copies = el(
      "p",
      { class: "row copies" },
      "Copy as ",
      ...["CSV", "LaTeX", "JSON"].map((form) => el("button", { type: "button", click: () => this.copy(form) }, form)),
    );
    this.element = el(
      "section",
      { id: "regions" },
      el("h2", {}, "Regions"),
      el("div", { class: "row" }, ...this.tools),
      add,
      this.out,
      this.copies,
      this.copied,
      this.told,
    );
    stage.tool = (kind, x, y) => this.tool(kind, x, y);
    stage.overlays.push((context, toPane) => this.outline(context, toPane));
  }

  /** Read a mask and the regions that it marks. @param {import("./data.js").RegionDocument} told */
  async begin({ groups, named }) {
    this.mask = /** @type {Int32Array} */ (await numbersOf(groups));
    const marked = named.map((one) => ({ kind: /** @type {"mask"} */ ("mask"), points: [], ...one }));
    this.state.regions = [...marked, ...this.state.regions];
    this.stage.redraw();
    await this.update();
  }

  /** @param {string} kind */
  draw(kind) {
    this.drawing = this.drawing === kind ? "" : /** @type {"box" | "polygon"} */ (kind);
    this.points = [];
    this.tools.forEach((one, i) => one.setAttribute("aria-pressed", String(this.drawing === ["box", "polygon"][i])));
    this.told.textContent = {
      "": "",
      box: "Drag over the picture.",
      polygon: "Click corners; a double click or Enter ends it.",
    }[this.drawing];
    this.stage.redraw();
  }

  /** @param {Event} event */
  type(event) {
    event.preventDefault();
    const [x, y, width, height] = (this.typed.value.match(/\d+/g) || []).map(Number);
    if (!(width > 0 && height > 0 && x < this.picture.width && y < this.picture.height)) {
      const size = `${this.picture.width} x ${this.picture.height}`;
      this.told.textContent = `A box is x y width height, whole numbers inside of ${size} pixels: 16 32 100 50.`;
      return;
    }
    this.typed.value = "";
    this.add({
      kind: "box",
      points: [
        [x, y],
        [x + width, y + height],
      ],
      label: "",
    });
  }

  /** @param {Region} region */
  add(region) {
    const taken = this.state.regions.map((one) => one.label);
    let count = this.state.regions.length + 1;
    while (taken.includes(`region ${count}`)) count++;
    this.told.textContent = "";
    this.state.set("regions", {
      regions: [...this.state.regions, { ...region, label: region.label || `region ${count}` }],
    });
  }

  /**
   * Take a pointer from the stage while drawing.
   * @param {string} kind
   * @param {number} x
   * @param {number} y
   * @returns {boolean}
   */
  tool(kind, x, y) {
    if (!this.drawing) return false;
    const at = /** @type {[number, number]} */ ([x, y].map((one) => Math.round(one * 2) / 2));
    if (kind === "escape") this.draw(this.drawing);
    else if (this.drawing === "box") {
      if (kind === "down") this.points = [at, at];
      else if (kind === "move" && this.points.length) this.points[1] = at;
      else if (kind === "up" && this.points.length) {
        const [left, top, right, bottom] = boxOf(this.points, this.picture.width, this.picture.height);
        this.draw("box");
        if (right - left > 1 || bottom - top > 1)
          this.add({
            kind: "box",
            points: [
              [left, top],
              [right, bottom],
            ],
            label: "",
          });
      }
    } else if (kind === "up") this.points.push(at);
    else if (kind === "double" || kind === "enter") {
      const points = this.points.filter(
        ([px, py], i) => i === 0 || px !== this.points[i - 1][0] || py !== this.points[i - 1][1],
      );
      this.draw("polygon");
      if (points.length > 2) this.add({ kind: "polygon", points, label: "" });
    }
    this.stage.redraw();
    return true;
  }

  /** @param {CanvasRenderingContext2D} context @param {(x: number, y: number) => [number, number]} toPane */
  outline(context, toPane) {
    const drawn = /** @type {Region} */ ({ kind: this.drawing || "box", points: this.points, label: "" });
    [...this.state.regions, drawn].forEach((one, i) => {
      const ink = COLOURS[i % COLOURS.length];
      if (one.kind === "mask") this.edges(context, toPane, one, ink);
      if (!one.points.length) return;
      let { points } = one;
      if (one.kind === "box") {
        const [[x0, y0], [x1, y1]] = points;
        points = [
          [x0, y0],
          [x1, y0],
          [x1, y1],
          [x0, y1],
        ];
      }
      context.beginPath();
      points.forEach((point, k) => context[k ? "lineTo" : "moveTo"](...toPane(...point)));
      if (one !== drawn || one.kind === "box") context.closePath();
      outlined(context, ink, (width) => {
        context.lineWidth = width;
        context.stroke();
      });
      this.tag(context, one.label, toPane(...points[0]), ink);
    });
  }

  /**
   * Outline what a mask marks.
   * @param {CanvasRenderingContext2D} context
   * @param {(x: number, y: number) => [number, number]} toPane
   * @param {Region} region
   * @param {string} ink
   */
  edges(context, toPane, region, ink) {
    const { width, height } = this.picture;
    let known = this.known.get(region);
    if (!known) {
      const spans = spansOf(region, width, height, this.mask);
      known = { path: edgesOf(spans, height), first: [spans[1], spans[0]] };
      this.known.set(region, known);
    }
    const { path, first } = known;
    const [[left, top], [right]] = [toPane(0, 0), toPane(1, 0)];
    context.save();
    context.translate(left, top);
    context.scale(right - left, right - left);
    outlined(context, ink, (line) => {
      context.lineWidth = line / (right - left);
      context.stroke(path);
    });
    context.restore();
    this.tag(context, region.label, toPane(...first), ink);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {string} label
   * @param {[number, number]} at
   * @param {string} ink
   */
  tag(context, label, [x, y], ink) {
    if (!label) return;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "left";
    context.fillStyle = "rgba(0,0,0,0.7)";
    context.fillRect(x, y - 17, context.measureText(label).width + 8, 17);
    context.fillStyle = ink;
    context.fillText(label, x + 4, y - 4);
  }

  /** Count one region: of A, and of B where there is one. @param {Region} region @returns {Promise<Account>} */
  async account(region) {
    const of = `${this.state.a} ${this.state.b}`;
    const counted = this.counted.get(region);
    if (counted?.of === of) return { ...counted.account, label: region.label };
    const { width, height } = this.picture;
    const spans = spansOf(region, width, height, this.mask);
    const pixels = countOf(spans);
    const sides = [this.state.a, ...(this.state.b === null ? [] : [this.state.b])].map(
      (one) => this.picture.inputs[one],
    );
    const names = [...new Set(sides.flatMap((one) => [...one.latents.keys()]))];
    const latents = names.map((name) => sides.map((one) => one.latents.get(name)?.sum(spans) ?? 0));
    const bits = sides.map((_, i) => latents.reduce((sum, one) => sum + one[i], 0));
    /** @type {Record<string, number[]>} */
    const values = {
      bits,
      "share of all bits, %": bits.map((one, i) => (one === 0 ? 0 : (100 * one) / (sides[i].told.total ?? NaN))),
      "bits per pixel": bits.map((one) => one / pixels),
    };
    const errors = await Promise.all(sides.map((one) => one.squaredError()));
    if (errors.some(Boolean)) values["PSNR, dB"] = errors.map((one) => (one ? decibels(one.sum(spans), pixels) : NaN));
    names.forEach((name, i) => (values[`bits of ${name}`] = latents[i]));
    const account = { label: region.label, pixels, values };
    this.counted.set(region, { of, account });
    return account;
  }

  async update() {
    const turn = ++this.turn;
    const accounts = await Promise.all(this.state.regions.map((one) => this.account(one)));
    if (turn !== this.turn) return;
    this.accounts = accounts;
    this.copies.hidden = !accounts.length;
    const paired = accounts.length && accounts[0].values.bits.length === 2;
    const wide = paired ? 3 : 1;
    const heads = accounts.map((_, i) =>
      el(
        "td",
        { colspan: wide },
        this.labelField(i),
        el(
          "button",
          { type: "button", class: "small", "aria-label": "Remove this region", click: () => this.remove(i) },
          "\u00d7",
        ),
      ),
    );
    const sides = accounts.flatMap(() => ["A", "B", "A - B"].map((one) => el("th", { scope: "col" }, one)));
    const rows = Object.keys(accounts[0]?.values || {}).map((name) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, el("bdi", {}, name)),
        ...accounts.flatMap(({ values }) => texts(name, values[name])).map((one) => el("td", {}, one)),
      ),
    );
    const pixels = el(
      "tr",
      {},
      el("th", { scope: "row" }, "pixels"),
      ...accounts.map((one) => el("td", { colspan: wide }, number(one.pixels, 0))),
    );
    this.out.replaceChildren(
      accounts.length
        ? el(
            "table",
            {},
            el("thead", {}, el("tr", {}, el("td"), ...heads), paired ? el("tr", {}, el("td"), ...sides) : null),
            el("tbody", {}, pixels, ...rows),
          )
        : el("p", { class: "faint" }, "None yet."),
    );
  }

  /** @param {number} place */
  labelField(place) {
    const change = () => {
      this.state.regions[place].label = field.value;
      this.accounts[place].label = field.value;
      this.state.set("view");
    };
    const field = el("input", {
      type: "text",
      size: 10,
      value: this.state.regions[place].label,
      "aria-label": "Label of the region",
      change,
    });
    return field;
  }

  /** @param {number} place */
  remove(place) {
    this.state.set("regions", { regions: this.state.regions.filter((_, i) => i !== place) });
  }

  /** @param {string} form */
  async copy(form) {
    const text = { CSV: toCsv, LaTeX: toLatex, JSON: toJson }[/** @type {"CSV" | "LaTeX" | "JSON"} */ (form)](
      this.accounts,
    );
    this.copied.hidden = false;
    this.copied.value = text;
    try {
      await navigator.clipboard.writeText(text);
      this.told.textContent = `${form} copied.`;
    } catch {
      this.copied.select();
      this.told.textContent = `The browser gives no clipboard; the ${form} is marked above, to be copied.`;
    }
  }
}
