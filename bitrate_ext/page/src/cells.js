// @ts-check
// Bits of cells over pixels. A grid S [h, w] is laid out as R S C^T, summed over its terms, where R and C are bands:
// pixel p reads `taps` cells from start[p] on, with weight[tap * pixels + p]. Everything is counted in float64.

import { numbersOf } from "./data.js";
import { Sums } from "./spans.js";

/** @typedef {import("./data.js").LatentDocument} LatentDocument */
/** @typedef {import("./data.js").BandDocument} BandDocument */
/** @typedef {import("./data.js").Numbers} Numbers */
/** @typedef {{start: Numbers, weight: Numbers, taps: number, pixels: number}} Band */
/** @typedef {{rows: Band, columns: Band, sums?: Float64Array}} Term */
/** @typedef {(y: number) => Numbers} Row numbers of a row of pixels */
/**
 * @typedef {{step: number, left: number, top: number, width: number, height: number}} Part blocks of step x step
 * pixels: how many, and which comes first
 */
/** @typedef {Int32Array} Spans rows y and columns from x0 to before x1, three numbers each */

/** Bits of one latent or channel over a picture of width x height pixels. */
export class Layout {
  /**
   * @param {number} height @param {number} width of the picture
   * @param {[number, number]} grid rows and columns of cells
   * @param {Numbers | null} cells bits of each
   * @param {Term[]} terms
   * @param {Numbers | null} raster bits of each pixel, in the place of cells and terms
   */
  constructor(height, width, grid, cells, terms, raster) {
    this.height = height;
    this.width = width;
    this.grid = grid;
    this.cells = cells;
    this.terms = terms;
    this.raster = raster;
    /** @type {Sums | null} */
    this.sums = null;
  }

  /** The bits of one pixel. @param {number} x @param {number} y @returns {number} */
  at(x, y) {
    if (this.raster) return this.raster[y * this.width + x];
    const cells = /** @type {Numbers} */ (this.cells);
    let total = 0;
    for (const { rows, columns } of this.terms)
      for (let i = 0; i < rows.taps; i++) {
        const down = rows.weight[i * rows.pixels + y];
        if (down === 0) continue;
        const from = (rows.start[y] + i) * this.grid[1] + columns.start[x];
        for (let j = 0; j < columns.taps; j++) {
          const across = columns.weight[j * columns.pixels + x];
          if (across !== 0) total += down * across * cells[from + j];
        }
      }
    return total;
  }

  /**
   * Add the bits of a row of pixels.
   * @param {number} y
   * @param {Float64Array} out [width]
   * @param {Map<Term, Float64Array>} across what is kept from row to row
   */
  addRow(y, out, across) {
    const { width } = this;
    if (this.raster) {
      for (let x = 0, from = y * width; x < width; x++) out[x] += this.raster[from + x];
      return;
    }
    for (const term of this.terms) {
      const wide = across.get(term) || this._across(term.columns);
      across.set(term, wide);
      const { rows } = term;
      for (let i = 0; i < rows.taps; i++) {
        const down = rows.weight[i * rows.pixels + y];
        if (down === 0) continue;
        for (let x = 0, from = (rows.start[y] + i) * width; x < width; x++) out[x] += down * wide[from + x];
      }
    }
  }

  /**
   * Its bits over blocks of pixels: the mean of each block of a part of the picture.
   * @param {Part} part
   * @returns {Layout}
   */
  over(part) {
    if (part.step === 1 && part.width === this.width && part.height === this.height) return this;
    const terms = this.terms.map(({ rows, columns }) => ({
      rows: overBlocks(rows, part.step, part.top, part.height),
      columns: overBlocks(columns, part.step, part.left, part.width),
    }));
    const raster = this.raster && meansOf((y) => this._row(y), part, this);
    return new Layout(part.height, part.width, this.grid, this.cells, terms, raster);
  }

  /** A row of the pixels that are held. @param {number} y @returns {Numbers} */
  _row(y) {
    return /** @type {Numbers} */ (this.raster).subarray(y * this.width, (y + 1) * this.width);
  }

  /** S C^T, [h, width]. @param {Band} columns @returns {Float64Array} */
  _across(columns) {
    const [h, w] = this.grid;
    const cells = /** @type {Numbers} */ (this.cells);
    const wide = new Float64Array(h * this.width);
    for (let row = 0; row < h; row++)
      for (let j = 0; j < columns.taps; j++)
        for (let x = 0; x < this.width; x++) {
          const across = columns.weight[j * columns.pixels + x];
          if (across !== 0) wide[row * this.width + x] += across * cells[row * w + columns.start[x] + j];
        }
    return wide;
  }

  /** The bits of a region. @param {Spans} spans @returns {number} */
  sum(spans) {
    if (this.raster) return (this.sums ??= new Sums(this.raster, this.width)).over(spans);
    let total = 0;
    const wide = this.width + 1;
    for (const term of this.terms) {
      const sums = term.sums || (term.sums = this._prefixed(term.columns));
      const { rows } = term;
      for (let s = 0; s < spans.length; s += 3)
        for (let i = 0; i < rows.taps; i++) {
          const down = rows.weight[i * rows.pixels + spans[s]];
          if (down === 0) continue;
          const from = (rows.start[spans[s]] + i) * wide;
          total += down * (sums[from + spans[s + 2]] - sums[from + spans[s + 1]]);
        }
    }
    return total;
  }

  /** Sums of S C^T over the columns before each, [h, width + 1]. @param {Band} columns @returns {Float64Array} */
  _prefixed(columns) {
    const values = this._across(columns);
    const sums = new Float64Array(this.grid[0] * (this.width + 1));
    for (let row = 0; row < this.grid[0]; row++)
      for (let x = 0, to = row * (this.width + 1); x < this.width; x++)
        sums[to + x + 1] = sums[to + x] + values[row * this.width + x];
    return sums;
  }
}

/**
 * A band of blocks of so many pixels, each the mean of its own; the last one may have fewer.
 * @param {Band} band
 * @param {number} step
 * @param {number} from
 * @param {number} pixels how many blocks
 * @returns {Band}
 */
function overBlocks(band, step, from, pixels) {
  const start = new Int32Array(pixels);
  let taps = 0;
  const each = (/** @type {(p: number, i: number, share: number) => void} */ visit) => {
    for (let p = 0; p < pixels; p++) {
      const [first, end] = [(from + p) * step, Math.min(band.pixels, (from + p + 1) * step)];
      for (let i = first; i < end; i++) visit(p, i, 1 / (end - first));
    }
  };
  start.fill(2 ** 31 - 1);
  each((p, i) => (start[p] = Math.min(start[p], band.start[i])));
  each((p, i) => (taps = Math.max(taps, band.start[i] + band.taps - start[p])));
  const weight = new Float64Array(taps * pixels);
  each((p, i, share) => {
    for (let tap = 0, to = band.start[i] - start[p]; tap < band.taps; tap++, to++)
      weight[to * pixels + p] += share * band.weight[tap * band.pixels + i];
  });
  return { start, weight, taps, pixels };
}

/**
 * Means of blocks of what is read by rows of pixels.
 * @param {Row} row
 * @param {Part} part
 * @param {{width: number, height: number}} size of the picture
 * @returns {Float32Array}
 */
function meansOf(row, part, size) {
  const { step, left, top, width, height } = part;
  const [out, sums] = [new Float32Array(width * height), new Float64Array(width)];
  for (let v = 0; v < height; v++) {
    const [first, end] = [(top + v) * step, Math.min(size.height, (top + v + 1) * step)];
    sums.fill(0);
    for (let y = first; y < end; y++) {
      const values = row(y);
      for (let u = 0, x = left * step; u < width; u++)
        for (const next = Math.min(size.width, x + step); x < next; x++) sums[u] += values[x];
    }
    for (let u = 0; u < width; u++)
      out[v * width + u] = sums[u] / ((end - first) * Math.min(step, size.width - (left + u) * step));
  }
  return out;
}

/** @param {BandDocument} band @returns {Promise<Band>} */
async function readBand(band) {
  const [start, weight] = await Promise.all([numbersOf(band.start), numbersOf(band.weight)]);
  return { start, weight, taps: band.taps, pixels: start.length };
}

/**
 * Read a latent's layout.
 * @param {LatentDocument} latent
 * @param {number} height
 * @param {number} width
 * @returns {Promise<Layout>}
 */
export async function readLayout(latent, height, width) {
  const terms = latent.terms.map(async (one) => {
    const [rows, columns] = await Promise.all([readBand(one.rows), readBand(one.columns)]);
    return { rows, columns };
  });
  const [cells, raster] = await Promise.all([
    latent.cells && numbersOf(latent.cells),
    latent.raster && numbersOf(latent.raster),
  ]);
  return new Layout(height, width, latent.grid, cells, await Promise.all(terms), raster);
}

/** The same cells' places with other bits in them. @param {Layout} layout @param {Numbers} cells @returns {Layout} */
export function withCells(layout, cells) {
  const terms = layout.terms.map(({ rows, columns }) => ({ rows, columns }));
  return new Layout(layout.height, layout.width, layout.grid, cells, terms, null);
}

/**
 * Read bits by rows of pixels, each into the same numbers.
 * @param {Layout[]} layouts
 * @param {number} [of] what counts as one
 * @returns {Row}
 */
export function rowsOf(layouts, of = 1) {
  const { width } = layouts[0];
  const [sums, row] = [new Float64Array(width), new Float32Array(width)];
  const across = new Map();
  return (y) => {
    sums.fill(0);
    for (const layout of layouts) layout.addRow(y, sums, across);
    for (let x = 0; x < width; x++) row[x] = sums[x] / of; // several times as fast as row.set
    return row;
  };
}

/**
 * Bits of each row and of each column of pixels.
 * @param {Layout[]} layouts
 * @returns {{rows: Float64Array, columns: Float64Array}}
 */
export function profiles(layouts) {
  const { height, width } = layouts[0];
  const rows = new Float64Array(height);
  const columns = new Float64Array(width);
  for (const layout of layouts) {
    const spans = new Int32Array(3);
    for (let y = 0; y < height; y++) {
      spans.set([y, 0, width]);
      rows[y] += layout.sum(spans);
    }
    if (layout.raster) {
      for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) columns[x] += layout.raster[i];
      continue;
    }
    for (const { rows: down, columns: across } of layout.terms) {
      const heights = new Float64Array(layout.grid[0]);
      for (let i = 0; i < down.taps; i++)
        for (let y = 0; y < height; y++) heights[down.start[y] + i] += down.weight[i * height + y];
      const wide = layout._across(across);
      for (let row = 0; row < heights.length; row++)
        if (heights[row] !== 0) for (let x = 0; x < width; x++) columns[x] += heights[row] * wide[row * width + x];
    }
  }
  return { rows, columns };
}
