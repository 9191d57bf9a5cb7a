// @ts-check
// What the file holds: a document of JSON, and blobs of bytes that are inflated when they are first asked for.

/**
 * @typedef {{blob: number | "first", start?: number, type: "int32" | "float32" | "float64", shape: number[]}} Reference
 * numbers that are a blob, or lie in the first one from a byte on
 */
/** @typedef {Int32Array | Uint32Array | Float32Array | Float64Array} Numbers */
/** @typedef {{start: Reference, weight: Reference, taps: number}} BandDocument */
/** @typedef {{bits: (number | null)[], numbers: number[], cells: Reference | null}} ChannelDocument */
/**
 * @typedef {object} LatentDocument
 * @property {string} name
 * @property {number | null} bits
 * @property {[number, number]} grid
 * @property {Reference | null} raster
 * @property {Reference | null} cells
 * @property {{rows: BandDocument, columns: BandDocument}[]} terms
 * @property {ChannelDocument | null} channels
 * @property {Record<string, {cells: Reference, total: number | null}>} beside what else is known of its cells
 */
/**
 * @typedef {object} InputDocument
 * @property {string} name
 * @property {string} kind
 * @property {[number, number]} canvas
 * @property {[number, number, number, number]} crop
 * @property {number | null} total
 * @property {number | null} bpp
 * @property {number | null} padding
 * @property {Record<string, number | null>} elsewhere
 * @property {number | null} file_bytes
 * @property {boolean | null} closes
 * @property {number | null} psnr of 8 bits, dB
 * @property {string[]} warnings
 * @property {number} limit
 * @property {number | null} reconstruction
 * @property {LatentDocument[]} latents
 */
/**
 * @typedef {object} PictureDocument
 * @property {"picture"} page
 * @property {string} title
 * @property {string} version
 * @property {Record<string, string>} facts
 * @property {number} width
 * @property {number} height
 * @property {number | null} picture
 * @property {number | null} preview a smaller copy of it, which is there before it
 * @property {boolean} exact whether pictures are kept without losses
 * @property {{bits: number[], differences: number[]}} palettes
 * @property {InputDocument[]} inputs
 * @property {RegionDocument | null} regions
 */
/** @typedef {{groups: Reference, named: {label: string, groups: number[]}[]}} RegionDocument the group of each pixel */
/**
 * @typedef {{name: string, link: boolean, digits?: number, numbers?: Reference, texts?: number,
 * lengths?: Reference}} ColumnDocument
 */
/** @typedef {{row: number, picture: number}} Thumbnail */
/**
 * @typedef {{page: "folder", title: string, version: string, count: number, columns: ColumnDocument[], by: string,
 * ends: Thumbnail[][]}} FolderDocument
 */

/**
 * @typedef {object} VideoDocument
 * @property {"video"} page
 * @property {string} title
 * @property {number} rate frames a second
 * @property {string[] | null} kinds of frames
 * @property {PictureDocument[]} frames
 */

const ARRAYS = { int32: Int32Array, float32: Float32Array, float64: Float64Array };

/** Settles when the whole file is there. @type {Promise<void>} */
const whole = new Promise((done) => document.addEventListener("DOMContentLoaded", () => done()));

/**
 * Wait until an element is there to its end, which another one follows, or until the whole file is.
 * @param {string} id
 */
async function arrived(id) {
  const there = () => document.getElementById(id)?.nextElementSibling;
  if (there()) return;
  const followed = new Promise((/** @type {(there: void) => void} */ done) => {
    const observer = new MutationObserver(() => {
      if (!there()) return;
      observer.disconnect();
      done();
    });
    observer.observe(document, { childList: true, subtree: true });
  });
  await Promise.race([followed, whole]);
}

/** Wait for what the page opens with: what comes after it in the file is waited for when it is asked for. */
export const firstPart = () => arrived("opens");

/** Wait for the end of the file; say so where it has none. @returns {Promise<string>} */
export async function cutShort() {
  await whole;
  return document.getElementById("end")
    ? ""
    : "This file is cut short: its end is missing. Copy it again, or write it anew.";
}

/** Say why this page cannot be shown here; empty where it can. @returns {string} */
export function trouble() {
  if (typeof DecompressionStream === "undefined")
    return (
      "This browser has no DecompressionStream, which this page needs: Chrome or Edge 80, Firefox 113, " +
      "Safari 16.4 or later have it."
    );
  if (!document.createElement("canvas").getContext("2d")) return "This browser draws no canvas, which this page needs.";
  return "";
}

/** @returns {PictureDocument | FolderDocument | VideoDocument} */
export function readDocument() {
  return JSON.parse(/** @type {HTMLElement} */ (document.getElementById("data")).textContent || "");
}

/** @param {number | "first"} place @returns {Promise<Uint8Array<ArrayBuffer>>} */
async function blobBytes(place) {
  const id = `blob-${place}`;
  await arrived(id);
  const found = document.getElementById(id);
  if (!found?.nextElementSibling) return new Promise(() => {}); // never: the file is cut short, which is told
  const text = found.textContent || "";
  const direct = /** @type {any} */ (Uint8Array).fromBase64;
  if (direct) return direct.call(Uint8Array, text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/** @param {number | "first"} place @returns {Promise<Uint8Array>} */
async function inflated(place) {
  const stream = new Blob([await blobBytes(place)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @type {Promise<Uint8Array> | null} */
let first = null;

/**
 * Numbers of a blob, whose planes of bytes are put together.
 * @param {Reference} reference
 * @returns {Promise<Numbers>}
 */
export async function numbersOf({ blob, start = 0, type, shape }) {
  const kind = ARRAYS[type];
  const width = kind.BYTES_PER_ELEMENT;
  const count = shape.reduce((product, one) => product * one, 1);
  const planes = await (blob === "first" ? (first ??= inflated(blob)) : inflated(blob));
  const bytes = new Uint8Array(count * width);
  for (let plane = 0, from = start; plane < width; plane++)
    for (let i = 0, to = plane; i < count; i++, from++, to += width) bytes[to] = planes[from];
  return new kind(bytes.buffer);
}

/**
 * What gives each of the texts that are a blob together; they stay bytes until they are asked for.
 * @param {number} place
 * @param {Reference} lengths
 * @returns {Promise<(row: number) => string>}
 */
export async function textsOf(place, lengths) {
  const bytes = await inflated(place);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const ends = Uint32Array.from(await numbersOf(lengths));
  for (let i = 1; i < ends.length; i++) ends[i] += ends[i - 1];
  return (row) => decoder.decode(bytes.subarray(row && ends[row - 1], ends[row]));
}

/** A picture as a file. @param {number} place @returns {Promise<Blob>} */
export async function fileOf(place) {
  const bytes = await blobBytes(place);
  const kinds = /** @type {Record<number, string>} */ ({ 0x89: "image/png", 0xff: "image/jpeg" });
  return new Blob([bytes], { type: kinds[bytes[0]] || "image/webp" });
}

/** A picture, its colours as they are in the file. @param {number} place @returns {Promise<ImageBitmap>} */
export async function pictureOf(place) {
  return createImageBitmap(await fileOf(place), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}
