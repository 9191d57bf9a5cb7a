// @ts-check
// What the file holds: a document of JSON, and blobs of bytes that are inflated when they are first asked for.

/** @typedef {{blob: number, type: "int32" | "float32" | "float64", shape: number[]}} Reference */
/** @typedef {Int32Array | Float32Array | Float64Array} Numbers */
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
 * @property {boolean} exact whether pictures are kept without losses
 * @property {{bits: number[], differences: number[]}} palettes
 * @property {InputDocument[]} inputs
 * @property {{groups: Reference, named: {label: string, groups: number[]}[]} | null} regions
 */
/** @typedef {{name: string, link: boolean, digits?: number, numbers?: Reference, texts?: string[]}} ColumnDocument */
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

/** Wait for what the page opens with: what comes after it in the file is waited for when it is asked for. */
export async function firstPart() {
  const first = new Promise((/** @type {(there: void) => void} */ done) => {
    const observer = new MutationObserver(() => {
      if (!document.getElementById("opens")) return;
      observer.disconnect();
      done();
    });
    observer.observe(document, { childList: true, subtree: true });
  });
  await Promise.race([first, whole]);
}

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

/** @param {number} place @returns {Promise<Uint8Array<ArrayBuffer>>} */
async function blobBytes(place) {
  const found = () => document.getElementById(`blob-${place}`);
  if (!found()?.nextElementSibling) await whole; // what another element follows is there to its end
  if (!found()?.nextElementSibling) await new Promise(() => {}); // never: the file is cut short, which is told
  const text = /** @type {HTMLElement} */ (found()).textContent || "";
  const direct = /** @type {any} */ (Uint8Array).fromBase64;
  if (direct) return direct.call(Uint8Array, text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/**
 * The numbers of a blob: inflated, and their planes of bytes put together.
 * @param {Reference} reference
 * @returns {Promise<Numbers>}
 */
export async function numbersOf(reference) {
  const stream = new Blob([await blobBytes(reference.blob)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const kind = ARRAYS[reference.type];
  const width = kind.BYTES_PER_ELEMENT;
  const count = planes.length / width;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < width; plane++)
    for (let i = 0, from = plane * count, to = plane; i < count; i++, from++, to += width) bytes[to] = planes[from];
  return new kind(bytes.buffer);
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
