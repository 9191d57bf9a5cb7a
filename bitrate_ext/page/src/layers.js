// @ts-check
// The layers of an input: the map, each latent, each channel that is held, squared error, and differences of two
// inputs.

import { numbersOf, pictureOf } from "./data.js";
import { Layout, readLayout, rowsOf, withCells } from "./cells.js";

/** @typedef {import("./data.js").InputDocument} InputDocument */
/** @typedef {import("./data.js").PictureDocument} PictureDocument */
/** @typedef {import("./data.js").Numbers} Numbers */
/** @typedef {import("./cells.js").Part} Part */
/** @typedef {import("./cells.js").Row} Row */

const KEPT = 1 << 23; // pixels of rasters that a page keeps; two in any case
const STRIP = 64; // rows of pixels that are read at once

/** One picture: what several inputs share. */
export class Picture {
  /** @param {PictureDocument} told */
  constructor(told) {
    this.told = told;
    this.width = told.width;
    this.height = told.height;
    /** @type {ImageBitmap | null} the photograph, once it is decoded */
    this.bitmap = null;
    /** @type {ImageBitmap | null} a smaller one, until then */
    this.preview = null;
    /** @type {Promise<ImageBitmap | null> | null} */
    this.decoded = null;
    this.arrived = () => {}; // called when a picture is decoded
    /** @type {Map<string, Float32Array>} */
    this.rasters = new Map();
    /** @type {OffscreenCanvasRenderingContext2D | null} */
    this.window = null;
    this.inputs = told.inputs.map((one) => new Input(one, this));
  }

  async open() {
    await Promise.all(this.inputs.map((one) => one.open()));
  }

  /** Decode the photograph; of a large one wait for its preview alone. */
  async openPhotograph() {
    const { picture, preview } = this.told;
    if (preview !== null) this.preview = await pictureOf(preview);
    const whole = this.photograph();
    if (picture !== null && preview === null) await whole;
  }

  /** The photograph, of 8 bits. @returns {Promise<ImageBitmap | null>} */
  async photograph() {
    if (this.told.picture === null) return null;
    this.decoded ??= pictureOf(this.told.picture);
    this.bitmap = await this.decoded;
    if (this.preview) performance.mark("sharp");
    this.preview = null;
    this.arrived();
    return this.bitmap;
  }

  /** All of its pixels. @returns {Part} */
  get whole() {
    return { step: 1, left: 0, top: 0, width: this.width, height: this.height };
  }

  /**
   * Red, green, blue and alpha of the pixels of a window.
   * @param {ImageBitmap} bitmap
   * @param {number} x
   * @param {number} y
   * @param {number} [width]
   * @param {number} [height]
   * @returns {Uint8ClampedArray}
   */
  pixels(bitmap, x, y, width = 1, height = 1) {
    this.window = this.window || new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const window = /** @type {OffscreenCanvasRenderingContext2D} */ (this.window);
    if (window.canvas.width !== width || window.canvas.height !== height)
      Object.assign(window.canvas, { width, height });
    window.drawImage(bitmap, x, y, width, height, 0, 0, width, height);
    return window.getImageData(0, 0, width, height).data;
  }

  /**
   * Keep rasters that are asked for again.
   * @param {string} key
   * @param {() => Float32Array} make
   * @returns {Float32Array}
   */
  kept(key, make) {
    const found = this.rasters.get(key) || make();
    this.rasters.delete(key);
    this.rasters.set(key, found);
    const most = Math.max(2, Math.floor(KEPT / found.length));
    for (const old of this.rasters.keys()) if (this.rasters.size > most) this.rasters.delete(old);
    return found;
  }

  /**
   * What layer of what input against what other: signed where there is another. Waits for what has to be inflated.
   * @param {number} number @param {string} layer @param {number | null} against @param {Part} part
   * @returns {Promise<Float32Array | null>}
   */
  async raster(number, layer, against, part) {
    const row = await this.rows(number, layer, against, part);
    const { step, left, top, width, height } = part;
    const make = (/** @type {Row} */ read) => {
      const out = new Float32Array(width * height);
      for (let y = 0; y < height; y++) out.set(read(y), y * width);
      return out;
    };
    return row && this.kept([number, layer, against, step, left, top, width, height].join(" "), () => make(row));
  }

  /**
   * Reads a layer by rows: of the whole picture, or means of blocks of a part of it.
   * @param {number} number @param {string} layer @param {number | null} [against] @param {Part} [part]
   * @returns {Promise<Row | null>}
   */
  async rows(number, layer, against = null, part = this.whole) {
    if (against !== null)
      return apart(await this.rows(number, layer, null, part), await this.rows(against, layer, null, part));
    if (layer === "gap")
      return apart(await this.rows(number, "map", null, part), await this.rows(number, "beside:estimated", null, part));
    const input = this.inputs[number];
    if (layer === "error") {
      const errors = await input.squaredError();
      return errors && rowsOf([errors.over(part)], 3 * 255 * 255);
    }
    const layouts = await input.layouts(layer);
    return layouts && rowsOf(layouts.map((one) => one.over(part)));
  }
}

/** Reads how far two are apart. @param {Row | null} one @param {Row | null} other @returns {Row | null} */
function apart(one, other) {
  return (
    one &&
    other &&
    ((y) => {
      const values = other(y);
      return one(y).map((value, x) => value - values[x]);
    })
  );
}

/** The bits of one input. */
export class Input {
  /** @param {InputDocument} told @param {Picture} picture */
  constructor(told, picture) {
    this.told = told;
    this.picture = picture;
    /** @type {Map<string, Layout>} */
    this.latents = new Map();
    /** @type {Map<string, Promise<import("./data.js").Numbers>>} */
    this.channels = new Map();
    /** @type {Map<string, Numbers>} cells of what is known beside the bits, once they are there */
    this.beside = new Map();
    /** @type {Promise<ImageBitmap> | null} */
    this.decoded = null;
    /** @type {ImageBitmap | null} */
    this.reconstruction = null;
    /** @type {Layout | null} */
    this.errors = null;
  }

  async open() {
    const { height, width } = this.picture;
    for (const one of await Promise.all(
      this.told.latents.map(
        async (one) => /** @type {[string, Layout]} */ ([one.name, await readLayout(one, height, width)]),
      ),
    ))
      this.latents.set(...one);
  }

  /** The layers that can be asked for, with words for them. @returns {[string, string][]} */
  layers() {
    /** @type {[string, string][]} */
    const found = [["map", "bits, all latents"]];
    for (const what of ["expected", "estimated"]) {
      const held = this.told.latents.filter((one) => one.beside[what]);
      const of = held.length === this.told.latents.length ? "all latents" : held.map((one) => one.name).join(", ");
      if (held.length && held.every((one) => one.terms.length)) found.push([`beside:${what}`, `${what} bits, ${of}`]);
    }
    if (found.some(([layer]) => layer === "beside:estimated")) found.push(["gap", "gap, coded - estimated"]);
    this.told.latents.forEach((one, i) => found.push([`latent:${i}`, `bits of ${one.name}`]));
    if (this.told.reconstruction !== null && this.picture.told.picture !== null) found.push(["error", "squared error"]);
    this.told.latents.forEach((one, i) => {
      const held = one.channels && one.channels.cells && one.terms.length ? one.channels.numbers.length : 0;
      if (held > 1) found.push([`held:${i}`, `the ${held} costliest channels of ${one.name}`]);
      if (one.channels && held)
        for (const number of one.channels.numbers)
          found.push([`channel:${i}:${number}`, `channel ${number} of ${one.name}`]);
    });
    return found;
  }

  /**
   * What a layer of bits is laid out from; null where it is none, or not held.
   * @param {string} layer
   * @returns {Promise<Layout[] | null>}
   */
  async layouts(layer) {
    const [kind, latent, channel] = layer.split(":");
    if (kind === "map") return [...this.latents.values()];
    if (kind === "beside") {
      await this.openBeside();
      const held = this.told.latents.filter((one) => one.beside[latent] && one.terms.length);
      const cells = (/** @type {string} */ name) => /** @type {Numbers} */ (this.beside.get(`${latent} ${name}`));
      const found = held.map(({ name }) => withCells(/** @type {Layout} */ (this.latents.get(name)), cells(name)));
      return found.length ? found : null;
    }
    const told = this.told.latents[Number(latent)];
    const layout = told && this.latents.get(told.name);
    if (kind === "latent") return layout ? [layout] : null;
    if (kind === "held" && layout) {
      const all = await this.channelCells(Number(latent));
      return all && [withCells(layout, sumOfChannels(all, layout.grid[0] * layout.grid[1]))];
    }
    const place = told && told.channels ? told.channels.numbers.indexOf(Number(channel)) : -1;
    if (kind !== "channel" || !layout || place < 0) return null;
    const cells = await this.channelCells(Number(latent));
    const size = layout.grid[0] * layout.grid[1];
    return cells && [withCells(layout, cells.subarray(place * size, (place + 1) * size))];
  }

  /**
   * Cells of the channels that are held, [channels * h * w].
   * @param {number} latent
   * @returns {Promise<import("./data.js").Numbers | null>}
   */
  async channelCells(latent) {
    const told = this.told.latents[latent];
    if (!told.channels || !told.channels.cells) return null;
    if (!this.channels.has(told.name)) this.channels.set(told.name, numbersOf(told.channels.cells));
    return /** @type {Promise<import("./data.js").Numbers>} */ (this.channels.get(told.name));
  }

  /** Inflate what is known of cells beside their bits. */
  async openBeside() {
    await Promise.all(
      this.told.latents.flatMap(({ name, beside }) =>
        Object.entries(beside).map(async ([what, { cells }]) => {
          if (!this.beside.has(`${what} ${name}`)) this.beside.set(`${what} ${name}`, await numbersOf(cells));
        }),
      ),
    );
  }

  /** The reconstruction, of 8 bits. @returns {Promise<ImageBitmap | null>} */
  async decode() {
    if (this.told.reconstruction === null) return null;
    this.decoded = this.decoded || pictureOf(this.told.reconstruction);
    this.reconstruction = await this.decoded;
    this.picture.arrived();
    return this.reconstruction;
  }

  /** Squared error of each pixel, added over red, green and blue of 8 bits. @returns {Promise<Layout | null>} */
  async squaredError() {
    const { picture } = this;
    const [other, bitmap] = await Promise.all([this.decode(), picture.photograph()]);
    if (!other || !bitmap) return null;
    if (!this.errors) {
      const { width, height } = picture;
      const errors = new Uint32Array(width * height);
      for (let y = 0, i = 0; y < height; y += STRIP) {
        const [a, b] = [bitmap, other].map((one) =>
          picture.pixels(/** @type {ImageBitmap} */ (one), 0, y, width, Math.min(STRIP, height - y)),
        );
        for (let j = 0; j < a.length; i++, j += 4)
          errors[i] = (a[j] - b[j]) ** 2 + (a[j + 1] - b[j + 1]) ** 2 + (a[j + 2] - b[j + 2]) ** 2;
      }
      this.errors = new Layout(height, width, [0, 0], null, [], errors);
    }
    return this.errors;
  }
}

/** Cells of all channels held, added up. @param {Numbers} cells @param {number} size @returns {Float64Array} */
function sumOfChannels(cells, size) {
  const sums = new Float64Array(size);
  for (let i = 0; i < cells.length; i++) sums[i % size] += cells[i];
  return sums;
}

/**
 * PSNR in dB of a sum of squared errors of 8 bits over so many pixels of three colours.
 * @param {number} sum
 * @param {number} pixels
 * @returns {number}
 */
export function decibels(sum, pixels) {
  return 10 * Math.log10((3 * pixels * 255 * 255) / sum);
}
