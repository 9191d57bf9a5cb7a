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
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        if (mask[y * width + x] !== region.value) continue;
        const from = x;
        while (x < width && mask[y * width + x] === region.value) x++;
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

/** @param {Int32Array} spans @returns {number} pixels */
export function countOf(spans) {
  let count = 0;
  for (let s = 0; s < spans.length; s += 3) count += spans[s + 2] - spans[s + 1];
  return count;
}

/**
 * @param {ArrayLike<number>} values of pixels
 * @param {Int32Array} spans
 * @param {number} width
 * @returns {number} their sum in a region
 */
export function sumOver(values, spans, width) {
  let sum = 0;
  for (let s = 0; s < spans.length; s += 3)
    for (let i = spans[s] * width + spans[s + 1], end = spans[s] * width + spans[s + 2]; i < end; i++) sum += values[i];
  return sum;
}
