// @ts-check
// The ledger of each input, warnings, how the page came to be, and what can be saved of it.

import { el, named, number, save, table } from "./dom.js";
import { brief, valueAt } from "./colour.js";

/** @typedef {import("./layers.js").Picture} Picture */
/** @typedef {import("./data.js").InputDocument} InputDocument */
/** @typedef {import("./dom.js").Child} Child */

/** @param {Picture} picture @returns {HTMLElement} */
export function accountSection(picture) {
  const { told } = picture;
  const facts = Object.entries({ ...told.facts, "written by": `bitrate-ext ${told.version}` });
  return el(
    "section",
    { id: "account" },
    el(
      "details",
      { open: true },
      el("summary", {}, el("h2", {}, "Ledger")),
      el("div", { class: "scroll" }, ...told.inputs.map(ledger)),
    ),
    el(
      "details",
      {},
      el("summary", {}, el("h2", {}, "How it came to be")),
      el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, named(name)), el("dd", {}, named(value))])),
    ),
  );
}

/**
 * What is to be known of the numbers; nothing where there is nothing.
 * @param {Picture} picture
 * @returns {HTMLElement | null}
 */
export function warningSection(picture) {
  const warned = picture.told.inputs.filter((one) => one.warnings.length);
  const count = warned.reduce((sum, one) => sum + one.warnings.length, 0);
  const each = warned.map((one) =>
    el(
      "div",
      {},
      el("h3", {}, named(one.name || one.kind)),
      el("ul", {}, ...one.warnings.map((line) => el("li", {}, named(line)))),
    ),
  );
  return count
    ? el(
        "section",
        { class: "warnings" },
        el("details", {}, el("summary", {}, el("h2", {}, count === 1 ? "One warning" : `${count} warnings`)), ...each),
      )
    : null;
}

/** Every bit of one input. @param {InputDocument} told @returns {HTMLElement} */
function ledger(told) {
  const share = (/** @type {number | null} */ bits) =>
    bits === null || !told.total ? "" : `${number((100 * bits) / told.total, 2)} %`;
  /** @type {Child[][]} */
  const rows = told.latents.flatMap((one) => [
    [named(one.name), number(one.bits, 2), share(one.bits)],
    ...Object.entries(one.beside).map(([what, { total }]) => [
      el("span", { class: "part" }, named(one.name), `, ${what}`),
      number(total, what === "escapes" ? 0 : 2),
      "",
    ]),
  ]);
  rows.push(
    ...Object.entries(told.elsewhere).map(
      ([what, bits]) => /** @type {Child[]} */ ([named(what), number(bits, 2), share(bits)]),
    ),
  );
  rows.push(
    ["all", number(told.total, 2), share(told.total)],
    ["of them in the padding", number(told.padding, 2), share(told.padding)],
  );
  if (told.file_bytes !== null)
    rows.push([
      `the file, ${number(told.file_bytes, 0)} bytes`,
      number(8 * told.file_bytes, 0),
      told.closes ? "closes" : "DOES NOT CLOSE",
    ]);
  const made = table(["", "bits", "share"], rows);
  made.prepend(el("caption", {}, named(told.name || "bits"), `, ${told.kind}`));
  return made;
}

/**
 * Save what the stage shows, with the scale below it.
 * @param {import("./stage.js").Stage} stage
 * @param {import("./pictures.js").Painted} painted
 * @param {HTMLCanvasElement} bar
 */
export function saveView(stage, painted, bar) {
  const { canvas } = stage;
  const dense = window.devicePixelRatio || 1;
  const [strip, wide] = [40 * dense, Math.min(canvas.width - 40 * dense, 420 * dense)];
  const out = el("canvas", { width: canvas.width, height: canvas.height + strip });
  const context = /** @type {CanvasRenderingContext2D} */ (out.getContext("2d"));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, out.width, out.height);
  context.drawImage(canvas, 0, 0);
  if (painted.shown[0]) {
    context.drawImage(bar, 20 * dense, canvas.height + 6 * dense, wide, 12 * dense);
    context.fillStyle = "#222";
    context.font = `${11 * dense}px system-ui, sans-serif`;
    context.fillText(brief(valueAt(0, painted.scale)), 20 * dense, canvas.height + 32 * dense);
    context.textAlign = "right";
    const unit = stage.state.layer === "error" ? "mean squared error" : "bits per pixel";
    context.fillText(`${brief(painted.scale.limit)} ${unit}`, 20 * dense + wide, canvas.height + 32 * dense);
  }
  out.toBlob((blob) => blob && save("view.png", blob));
}

/** Save the numbers of the page. @param {Picture} picture @param {object[]} regions */
export function saveNumbers(picture, regions) {
  const { told } = picture;
  const inputs = told.inputs.map(
    ({ name, kind, total, bpp, padding, elsewhere, file_bytes, closes, warnings, latents }) => ({
      name,
      kind,
      total,
      bpp,
      padding,
      elsewhere,
      file_bytes,
      closes,
      warnings,
      latents: latents.map((one) => ({
        name: one.name,
        bits: one.bits,
        ...Object.fromEntries(Object.entries(one.beside).map(([what, { total }]) => [what, total])),
        channels: one.channels && one.channels.bits,
      })),
    }),
  );
  const text = JSON.stringify(
    { title: told.title, facts: told.facts, width: told.width, height: told.height, inputs, regions },
    null,
    2,
  );
  save("numbers.json", new Blob([text], { type: "application/json" }));
}
