// @ts-check
// Elements are made here and nowhere else: what a page is told becomes text and attributes, never markup.

/** @typedef {Node | string | number | null | undefined | false} Child */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element of HTML.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [given] attributes; functions are listeners, by the names of their events
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, given = {}, ...children) {
  return /** @type {any} */ (fill(document.createElement(tag), given, children));
}

/**
 * Make an element of SVG.
 * @param {string} tag
 * @param {Record<string, any>} [given]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, given = {}, ...children) {
  return /** @type {SVGElement} */ (fill(document.createElementNS(SVG, tag), given, children));
}

/** @param {Element} made @param {Record<string, any>} given @param {Child[]} children */
function fill(made, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child instanceof Node) made.append(child);
    else if (child !== null && child !== undefined && child !== false) made.append(String(child));
  }
  return made;
}

/** A name that somebody gave: text in its own direction. @param {string} text @returns {HTMLElement} */
export function named(text) {
  return el("bdi", {}, text);
}

/**
 * A choice of one of several.
 * @param {string} label
 * @param {[string, string][]} options
 * @param {(value: string) => void} chosen
 */
export function choice(label, options, chosen) {
  const select = el("select", { "aria-label": label, change: () => chosen(select.value) });
  for (const [value, text] of options) select.append(el("option", { value }, text));
  return select;
}

/**
 * @param {string} text
 * @param {boolean} on
 * @param {(on: boolean) => void} changed
 * @returns {{label: HTMLLabelElement, box: HTMLInputElement}}
 */
export function tick(text, on, changed) {
  const box = el("input", { type: "checkbox", checked: on, change: () => changed(box.checked) });
  return { label: el("label", {}, box, ` ${text}`), box };
}

/**
 * A number with so many digits after the point, its thousands apart.
 * @param {number | null} value
 * @param {number} digits
 * @returns {string}
 */
export function number(value, digits) {
  if (value === null || value === Infinity) return "infinitely many";
  if (Number.isNaN(value)) return "not a number";
  const [whole, part] = value.toFixed(digits).split(".");
  const apart = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return part === undefined ? apart : `${apart}.${part}`;
}

/** A difference with its sign. @param {number} value @param {number} digits @returns {string} */
export function signed(value, digits) {
  return `${value >= 0 ? "+" : ""}${number(value, digits)}`;
}

/** The head of a column; an empty cell where it has no name. @param {Child} name @returns {HTMLElement} */
export function headCell(name) {
  return name === "" ? el("td") : el("th", { scope: "col" }, name);
}

/**
 * A table: heads, and rows of cells.
 * @param {Child[]} heads
 * @param {Child[][]} rows
 * @param {string} [caption]
 * @returns {HTMLTableElement}
 */
export function table(heads, rows, caption) {
  const head = heads.length ? el("thead", {}, el("tr", {}, ...heads.map((one) => headCell(one)))) : null;
  const body = rows.map(([first, ...rest]) =>
    el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((one) => el("td", {}, one))),
  );
  return el("table", {}, caption ? el("caption", {}, caption) : null, head, el("tbody", {}, ...body));
}

/** Have the reader's browser save a file. @param {string} name @param {Blob} content */
export function save(name, content) {
  const link = el("a", { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
