// @ts-check
// Accounts of regions as text, on the page and for other programs.

import { number, signed } from "./dom.js";

/** @typedef {import("./regions.js").Account} Account */

/**
 * Accounts as rows of columns with names.
 * @param {Account[]} accounts
 * @returns {{label: string, columns: [string, number][]}[]}
 */
function flat(accounts) {
  return accounts.map(({ label, pixels, values }) => {
    /** @type {[string, number][]} */
    const columns = [["pixels", pixels]];
    for (const [name, one] of Object.entries(values))
      columns.push(
        ...one.map(
          (value, i) => /** @type {[string, number]} */ ([one.length === 2 ? `${"AB"[i]} ${name}` : name, value]),
        ),
      );
    return { label, columns };
  });
}

/** @param {Account[]} accounts @returns {string} */
export function toCsv(accounts) {
  const quoted = (/** @type {string} */ text) =>
    `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replace(/"/g, '""')}"`;
  const rows = flat(accounts);
  const lines = rows.map(({ label, columns }) => [quoted(label), ...columns.map(([, value]) => value)].join(","));
  return [["region", ...rows[0].columns.map(([name]) => name)].map(quoted).join(","), ...lines, ""].join("\r\n");
}

/** @param {Account[]} accounts @returns {string} */
export function toLatex(accounts) {
  const marks = /** @type {Record<string, string>} */ ({
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
  });
  const plain = (/** @type {string} */ text) =>
    text.replace(/[\\~^&%$#_{}]/g, (one) => marks[one] || `\\${one}`).replace(/\s+/g, " ");
  const rows = flat(accounts);
  const line = (/** @type {string[]} */ cells) => `${cells.map(plain).join(" & ")} \\\\`;
  const digits = (/** @type {string} */ name) => (name === "pixels" ? 0 : name.endsWith("per pixel") ? 4 : 2);
  const lines = rows.map(({ label, columns }) =>
    line([label, ...columns.map(([name, value]) => value.toFixed(digits(name)))]),
  );
  const heads = line(["region", ...rows[0].columns.map(([name]) => name)]);
  return [
    `\\begin{tabular}{l${"r".repeat(rows[0].columns.length)}}`,
    "\\hline",
    heads,
    "\\hline",
    ...lines,
    "\\hline",
    "\\end{tabular}",
    "",
  ].join("\n");
}

/** @param {Account[]} accounts @returns {string} */
export function toJson(accounts) {
  return JSON.stringify(
    flat(accounts).map(({ label, columns }) => ({ region: label, ...Object.fromEntries(columns) })),
    null,
    2,
  );
}

/**
 * A quantity in words: of A, of B, and their difference.
 * @param {string} name
 * @param {number[]} values
 * @returns {string[]}
 */
export function texts(name, values) {
  const digits = name === "bits per pixel" ? 4 : 2;
  const own = values.map((one) => (name === "PSNR, dB" && one === Infinity ? "exact" : number(one, digits)));
  const apart = values[0] - values[1]; // nothing where both are exact
  return values.length === 2 ? [...own, Number.isFinite(apart) ? signed(apart, digits) : ""] : own;
}
