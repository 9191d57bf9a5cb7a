// @ts-check
// Regions as spans of pixels: of each row those from x0 to before x1. A pixel belongs to a polygon where its middle
// does.

/** @typedef {import("./state.js").Region} Region */

/**
 * Whole pixels of a box between two corners.
 * @param {[number, number][]} points
 * @param {number} width
 * @param {number} height
 * @returns {[number, number, number, number]} left, top, right, bottom; right and bottom are the first beyond
 */
export function boxOf(points, width, height) {
  const clip = (/** @type {number} */ at, /** @type {number} */ most) => Math.min(most, Math.max(0, at));
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  return [
    clip(Math.floor(Math.min(...xs)), width),
    clip(Math.floor(Math.min(...ys)), height),
    clip(Math.ceil(Math.max(...xs)), width),
    clip(Math.ceil(Math.max(...ys)), height),
  ];
}

/**
 * @param {Region} region
 * @param {number} width
 * @param {number} height
 * @param {Int32Array | null} mask
 * @returns {Int32Array}
 */
export function spansOf(region, width, height, mask) {
  /** @type {number[]} */
  const spans = [];
  if (region.kind === "mask" && mask) {
    const own = new Set(region.groups);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        if (!own.has(mask[y * width + x])) continue;
        const from = x;
        while (x < width && own.has(mask[y * width + x])) x++;
        spans.push(y, from, x);
      }
  } else if (region.kind === "box") {
    const [left, top, right, bottom] = boxOf(region.points, width, height);
    for (let y = top; y < bottom; y++) if (right > left) spans.push(y, left, right);
  } else if (region.kind === "polygon") {
    const [, top, , bottom] = boxOf(region.points, width, height);
    for (let y = top; y < bottom; y++) spans.push(...crossings(region.points, y, width));
  }
  return Int32Array.from(spans);
}

/**
 * The spans of one row of a polygon, by the even-odd rule.
 * @param {[number, number][]} points
 * @param {number} y
 * @param {number} width
 * @returns {number[]}
 */
function crossings(points, y, width) {
  const middle = y + 0.5;
  /** @type {number[]} */
  const found = [];
  points.forEach(([x0, y0], i) => {
    const [x1, y1] = points[(i + 1) % points.length];
    if (y0 <= middle !== y1 <= middle) found.push(x0 + ((middle - y0) / (y1 - y0)) * (x1 - x0));
  });
  found.sort((one, other) => one - other);
  /** @type {number[]} */
  const spans = [];
  for (let i = 0; i + 1 < found.length; i += 2) {
    const [from, to] = [found[i], found[i + 1]].map((at) => Math.min(width, Math.max(0, Math.ceil(at - 0.5))));
    if (to > from) spans.push(y, from, to);
  }
  return spans;
}

/**
 * The edges between pixels inside and outside.
 * @param {Int32Array} spans
 * @param {number} height
 * @returns {Path2D}
 */
export function edgesOf(spans, height) {
  /** @type {number[][]} */
  const rows = Array.from({ length: height + 1 }, () => []);
  for (let s = 0; s < spans.length; s += 3) rows[spans[s]].push(spans[s + 1], spans[s + 2]);
  const path = new Path2D();
  const line = (/** @type {number[]} */ [fromX, fromY, toX, toY]) => (path.moveTo(fromX, fromY), path.lineTo(toX, toY));
  const open = new Map(); // of each column's edge that goes on: where it began
  rows.forEach((ends, y) => {
    const turns = [...ends, ...(y ? rows[y - 1] : [])].sort((one, other) => one - other);
    for (let i = 0; i + 1 < turns.length; i += 2) if (turns[i] < turns[i + 1]) line([turns[i], y, turns[i + 1], y]);
    const here = new Set(ends);
    for (const x of here) if (!open.has(x)) open.set(x, y);
    for (const [x, from] of [...open])
      if (!here.has(x)) {
        line([x, from, x, y]);
        open.delete(x);
      }
  });
  return path;
}

/** @param {Int32Array} spans @returns {number} pixels */
export function countOf(spans) {
  let count = 0;
  for (let s = 0; s < spans.length; s += 3) count += spans[s + 2] - spans[s + 1];
  return count;
}

const BLOCK = 64; // pixels whose sum is kept

/** Sums of numbers of pixels over regions, of which most pixels are not visited. */
export class Sums {
  /** @param {import("./data.js").Numbers} values @param {number} width */
  constructor(values, width) {
    this.values = values;
    this.width = width;
    this.blocks = Math.floor(width / BLOCK);
    this.before = new Float64Array((values.length / width) * (this.blocks + 1)); // in its row, of each block
    for (let row = 0, to = 0; row * width < values.length; row++, to++)
      for (let block = 0; block < this.blocks; block++, to++) {
        const from = row * width + block * BLOCK;
        this.before[to + 1] = this.before[to] + this._each(from, from + BLOCK);
      }
  }

  /** @param {number} from @param {number} end @returns {number} */
  _each(from, end) {
    let sum = 0;
    for (let i = from; i < end; i++) sum += this.values[i];
    return sum;
  }

  /** @param {Int32Array} spans @returns {number} */
  over(spans) {
    const { width, blocks, before } = this;
    let sum = 0;
    for (let s = 0; s < spans.length; s += 3) {
      const [row, first, end] = [spans[s] * width, spans[s + 1], spans[s + 2]];
      const [from, to] = [Math.ceil(first / BLOCK), Math.floor(end / BLOCK)];
      if (from >= to) sum += this._each(row + first, row + end);
      else {
        const kept = spans[s] * (blocks + 1);
        sum += before[kept + to] - before[kept + from];
        sum += this._each(row + first, row + from * BLOCK) + this._each(row + to * BLOCK, row + end);
      }
    }
    return sum;
  }
}
