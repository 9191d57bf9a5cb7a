// @ts-check
// Colours of bits: a table of 256, a scale from zero to its end, linear or logarithmic; what is beyond is counted.

/** @typedef {{limit: number, log: boolean, signed: boolean}} Scale */

export const DECADES = 3; // of a logarithmic scale, below its end
const BROKEN = 0xff8c8c8c; // of what is not a number

/** Colours as the canvas keeps them, one number each. @param {number[]} palette @returns {Uint32Array} */
export function coloursOf(palette) {
  const colours = new Uint32Array(256);
  for (let i = 0; i < 256; i++)
    colours[i] = (0xff000000 | (palette[3 * i + 2] << 16) | (palette[3 * i + 1] << 8) | palette[3 * i]) >>> 0;
  return colours;
}

/**
 * Where a value lies on a scale: 0 at its beginning, 1 at its end.
 * @param {number} value
 * @param {Scale} scale
 * @returns {number}
 */
export function placeOf(value, scale) {
  if (scale.signed) return 0.5 + value / (2 * scale.limit);
  if (!scale.log) return value / scale.limit;
  return value <= 0 ? 0 : 1 + Math.log10(value / scale.limit) / DECADES;
}

/** The value at a place of a scale. @param {number} place @param {Scale} scale @returns {number} */
export function valueAt(place, scale) {
  if (scale.signed) return (2 * place - 1) * scale.limit;
  return scale.log ? scale.limit * 10 ** ((place - 1) * DECADES) : place * scale.limit;
}

/**
 * Paint values on a canvas of their own size; return how many pixels lie beyond the scale.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} values
 * @param {number} width
 * @param {Uint32Array} colours
 * @param {Scale} scale
 * @returns {number}
 */
export function paint(canvas, values, width, colours, scale) {
  const height = values.length / width;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const kept = { willReadFrequently: true }; // in memory, where values are
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", kept));
  const strip = Math.max(1, Math.min(height, Math.floor((1 << 20) / width)));
  const image = context.createImageData(width, strip);
  const pixels = new Uint32Array(image.data.buffer);
  const { limit, log } = scale;
  const factor = scale.signed ? 128 / limit : 256 / limit;
  const offset = scale.signed ? 128 : 0;
  const perLog = 256 / DECADES;
  let beyond = 0;
  for (let top = 0; top < height; top += strip) {
    const count = Math.min(strip, height - top) * width;
    for (let i = 0, from = top * width; i < count; i++, from++) {
      const value = values[from];
      const level = log && !scale.signed ? 256 + perLog * Math.log10(value / limit) : offset + factor * value;
      if (value > limit || -value > limit) beyond++;
      pixels[i] = level >= 256 ? colours[255] : level >= 0 ? colours[level | 0] : level < 0 ? colours[0] : BROKEN;
    }
    context.putImageData(image, 0, top);
  }
  return beyond;
}

/**
 * A round number of steps for axes and scales: 1, 2 or 5 times a power of ten.
 * @param {number} end
 * @param {number} most
 * @returns {number}
 */
export function niceStep(end, most) {
  const raw = end / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999) || 10 * power;
}

/** A number in few letters, for axes. @param {number} value @returns {string} */
export function brief(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}
