// @ts-check
// A table of many pictures: only the rows that are seen are in the page; sorted by typed arrays, filtered by words.

import { el, named, number } from "./dom.js";
import { brief } from "./colour.js";
import { fileOf, numbersOf, textsOf } from "./data.js";
import { figure } from "./curves.js";

/**
 * @typedef {{name: string, link: boolean, digits: number, number: ((row: number) => number) | null,
 * text: ((row: number) => string) | null}} Column
 */

const ROW = 26; // pixels
const MARGIN = 12; // rows beyond those that are seen
const BINS = 40;
const MISSING = -(2 ** 31);

/** @param {import("./data.js").FolderDocument} told @param {HTMLElement} page */
export async function folderPage(told, page) {
  /** @type {Column[]} */
  const columns = await Promise.all(
    told.columns.map(async (one) => ({
      name: one.name,
      link: one.link,
      digits: one.digits || 0,
      text: one.texts === undefined || !one.lengths ? null : await textsOf(one.texts, one.lengths),
      number: one.numbers ? await columnOf(one.numbers, one.digits || 0) : null,
    })),
  );
  const folder = new Folder(columns, told.count);
  const strips = ["Fewest", "Most"].map((word, i) => folder.strip(word, told.ends[i] || [], told.by));
  page.replaceChildren(
    el("header", {}, el("h1", {}, named(told.title))),
    el("main", { class: "folder" }, el("div", { class: "strips" }, ...strips), folder.element),
  );
  page.hidden = false;
  folder.update();
}

/**
 * What gives each number of a column, as it is shown; NaN where one is missing.
 * @param {import("./data.js").Reference} reference
 * @param {number} digits
 * @returns {Promise<(row: number) => number>}
 */
async function columnOf(reference, digits) {
  const kept = await numbersOf(reference);
  if (kept instanceof Float64Array) return (row) => kept[row];
  const unit = 10 ** digits;
  return (row) => (kept[row] === MISSING ? NaN : kept[row] / unit);
}

class Folder {
  /** @param {Column[]} columns @param {number} count */
  constructor(columns, count) {
    this.columns = columns;
    this.shown = columns.filter((one) => !one.link);
    this.link = columns.find((one) => one.link && one.text);
    this.count = count;
    this.sorted = -1;
    this.down = false;
    /** @type {string[] | null} */
    this.words = null;
    this.order = Uint32Array.from({ length: count }, (_, i) => i);
    this.visible = this.order;
    this.filter = el("input", {
      type: "search",
      placeholder: "kodim, bpp > 0.5",
      "aria-label": "Words that rows must hold, or a column, a sign and a number",
      input: () => this.narrow(),
    });
    this.told = el("span", { role: "status" });
    this.heads = this.shown.map((one, i) =>
      el(
        "th",
        { scope: "col", "aria-sort": "none" },
        el("button", { type: "button", click: () => this.sort(i) }, named(one.name)),
      ),
    );
    this.body = el("tbody");
    this.space = [el("div"), el("div")];
    const table = el(
      "table",
      { class: "many", "aria-rowcount": count + 1 },
      el("thead", {}, el("tr", {}, ...this.heads)),
      this.body,
    );
    this.scroller = el(
      "div",
      { class: "many-rows", tabindex: 0, role: "region", "aria-label": "Pictures", scroll: () => this.draw() },
      this.space[0],
      table,
      this.space[1],
    );
    this.chart = el("div", { class: "charts" });
    this.element = el(
      "div",
      {},
      el("div", { class: "row" }, el("label", {}, "Filter ", this.filter), this.told),
      this.scroller,
      this.chart,
    );
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  /**
   * Sort by a column: the other way round when it is asked for again; what is missing comes last.
   * @param {number} place
   */
  sort(place) {
    this.down = this.sorted === place ? !this.down : Boolean(this.shown[place].number);
    this.sorted = place;
    const { number: value, text } = this.shown[place];
    const sign = this.down ? -1 : 1;
    const order = Array.from({ length: this.count }, (_, i) => i);
    if (value) {
      const keys = Float64Array.from(order, (row) => (Number.isNaN(value(row)) ? Infinity : sign * value(row)));
      this.order = Uint32Array.from(order.sort((i, j) => (keys[i] < keys[j] ? -1 : keys[i] > keys[j] ? 1 : i - j)));
    } else if (text) {
      const texts = order.map(text);
      const { compare } = new Intl.Collator("en", { numeric: true });
      this.order = Uint32Array.from(order.sort((i, j) => sign * compare(texts[i], texts[j]) || i - j));
    }
    this.heads.forEach((one, i) =>
      one.setAttribute("aria-sort", i !== place ? "none" : this.down ? "descending" : "ascending"),
    );
    this.narrow();
  }

  /** Keep the rows that hold each word, and whose numbers are as "column > number" says. */
  narrow() {
    const text = this.filter.value.trim();
    /** @type {((row: number) => boolean)[]} */
    const tests = [];
    const rest = text.replace(/(\S+)\s*(<=|>=|<|>|=)\s*(-?[\d.]+(?:e-?\d+)?)/gi, (whole, name, sign, value) => {
      const column = this.shown.find((one) => one.number && one.name.toLowerCase().startsWith(name.toLowerCase()));
      if (!column) return whole;
      const [of, than] = [/** @type {(row: number) => number} */ (column.number), Number(value)];
      tests.push(
        (row) =>
          ({
            "<": of(row) < than,
            ">": of(row) > than,
            "<=": of(row) <= than,
            ">=": of(row) >= than,
            "=": of(row) === than,
          })[/** @type {"<"} */ (sign)],
      );
      return "";
    });
    const words = rest.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) {
      const all = this.words || (this.words = this._rowTexts());
      tests.push((row) => words.every((word) => all[row].includes(word)));
    }
    this.visible = tests.length ? this.order.filter((row) => tests.every((test) => test(row))) : this.order;
    this.scroller.scrollTop = 0;
    this.update();
  }

  _rowTexts() {
    const texts = this.shown.flatMap((one) => one.text || []);
    return Array.from({ length: this.count }, (_, row) =>
      texts
        .map((text) => text(row))
        .join("\n")
        .toLowerCase(),
    );
  }

  update() {
    this.told.textContent = `${number(this.visible.length, 0)} of ${number(this.count, 0)} pictures`;
    this.draw();
    const column =
      this.shown[this.sorted] ||
      this.shown.find((one) => one.name.toLowerCase() === "bpp") ||
      this.shown.find((one) => one.number);
    if (column && column.number) this.chart.replaceChildren(this.distribution(column, column.number));
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - MARGIN);
    const last = Math.min(this.visible.length, first + Math.ceil(this.scroller.clientHeight / ROW) + 2 * MARGIN);
    this.space[0].style.height = `${first * ROW}px`;
    this.space[1].style.height = `${(this.visible.length - last) * ROW}px`;
    const rows = [];
    for (let i = first; i < last; i++) {
      const row = this.visible[i];
      rows.push(el("tr", { "aria-rowindex": i + 2 }, ...this.shown.map((one, k) => this.cell(one, row, k === 0))));
    }
    this.body.replaceChildren(...rows);
  }

  /** @param {Column} column @param {number} row @param {boolean} first */
  cell(column, row, first) {
    const text = column.number ? this.textOf(column, row) : named(this.textOf(column, row));
    if (first) return el("th", { scope: "row" }, this.linked(row, text));
    return el("td", { class: column.number ? null : "text" }, text);
  }

  /** @param {Column} column @param {number} row @returns {string} */
  textOf(column, row) {
    const value = column.number ? column.number(row) : 0;
    return column.text ? column.text(row) : Number.isNaN(value) ? "" : number(value, column.digits);
  }

  /**
   * What leads to a row's page, where it has one.
   * @param {number} row
   * @param {...import("./dom.js").Child} children
   * @returns {HTMLElement}
   */
  linked(row, ...children) {
    const target = this.link && this.link.text ? this.link.text(row) : "";
    const parts = target.split("/"); // of pages beside this one: encoded, no part empty, they lead nowhere else
    return parts.every((part) => part && part !== "..")
      ? el("a", { href: `./${parts.map(encodeURIComponent).join("/")}` }, ...children)
      : el("span", {}, ...children);
  }

  /**
   * Pictures at one end of a column.
   * @param {string} word
   * @param {import("./data.js").Thumbnail[]} ends
   * @param {string} by
   */
  strip(word, ends, by) {
    const column = this.shown.find((one) => one.name === by);
    const each = ends.map(({ row, picture }) => {
      const image = el("img", { alt: "" });
      fileOf(picture).then((file) => (image.src = URL.createObjectURL(file)));
      const link = this.linked(row, image, named(this.textOf(this.shown[0], row)));
      return el("li", {}, link, column && this.textOf(column, row));
    });
    return each.length > 0 && el("section", {}, el("h2", {}, `${word} `, named(by)), el("ul", {}, ...each));
  }

  /** @param {Column} column @param {(row: number) => number} value */
  distribution(column, value) {
    const values = Float64Array.from(this.visible, value)
      .filter(Number.isFinite)
      .sort();
    const most = Math.max(1e-12, values[values.length - 1] || 0);
    const counts = new Float64Array(BINS);
    for (const one of values) counts[Math.max(0, Math.min(BINS - 1, Math.floor((one / most) * BINS)))]++;
    const at = (/** @type {number} */ part) => brief(values[Math.round(part * (values.length - 1))] ?? NaN);
    return figure({
      title: `Distribution of ${column.name}`,
      x: column.name,
      y: "pictures",
      note: values.length ? `Median ${at(0.5)}, from ${at(0)} to ${at(1)}.` : "No numbers.",
      series: [
        {
          xs: Float64Array.from(counts, (_, i) => ((i + 0.5) * most) / BINS),
          ys: counts,
          kind: "bars",
          colour: "#3b82c4",
        },
      ],
    });
  }
}
