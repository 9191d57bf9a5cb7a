// @ts-check
// Charts as SVG, which follow the page's colours, are read aloud, and can be saved as they are.

import { el, save, svg } from "./dom.js";
import { brief, niceStep } from "./colour.js";

/** @typedef {ArrayLike<number>} Values */
/** @typedef {{xs?: Values, ys: Values, kind: "bars" | "line", colour: string, name?: string}} Series */
/**
 * @typedef {object} Chart
 * @property {string} title
 * @property {string} x what is along its axes
 * @property {string} y
 * @property {Series[]} series
 * @property {string} [note]
 * @property {number} [low] where the vertical axis begins; 0
 * @property {boolean} [slots] whether each place is a slot from its number to the next, as those of bars are
 * @property {number} [cursor] a place of the first series that is marked
 * @property {(place: number | null) => string} [pointed] what is told of a place; of none, the note
 * @property {(place: number) => void} [chosen] called where somebody clicks
 */

const WIDE = 380,
  HIGH = 170,
  LEFT = 44,
  RIGHT = 14,
  TOP = 8,
  BOTTOM = 34;

/** Draw a chart with its title, its note and a button that saves it. @param {Chart} chart @returns {HTMLElement} */
export function figure(chart) {
  const drawn = draw(chart);
  const told = el("p", { class: "note" }, chart.note || "");
  const { pointed, chosen } = chart;
  const place = (/** @type {MouseEvent} */ event) => {
    const box = drawn.getBoundingClientRect();
    const count = chart.series[0].ys.length;
    const at = ((event.clientX - box.left) / box.width) * WIDE;
    return Math.min(count - 1, Math.max(0, Math.floor(((at - LEFT) / (WIDE - LEFT - RIGHT)) * count)));
  };
  if (pointed) {
    drawn.addEventListener("pointermove", (event) => (told.textContent = pointed(place(event))));
    drawn.addEventListener("pointerleave", () => (told.textContent = pointed(null)));
  }
  if (chosen) drawn.addEventListener("click", (event) => chosen(place(event)));
  const button = el("button", { type: "button", class: "small", click: () => saveSvg(drawn, chart.title) }, "SVG");
  return el("figure", {}, el("figcaption", {}, chart.title, " ", button), drawn, told);
}

/** @param {Chart} chart @returns {SVGElement} */
function draw(chart) {
  const { series } = chart;
  const [spanX, spanY] = [WIDE - LEFT - RIGHT, HIGH - TOP - BOTTOM];
  const bars = chart.slots || series[0].kind === "bars";
  const xsOf = (/** @type {Series} */ one) => one.xs || Array.from(one.ys, (_, i) => (bars ? i + 0.5 : i));
  const count = series[0].ys.length;
  const ends = series[0].xs;
  const endX =
    (bars
      ? ends
        ? ends[count - 1] + ends[0]
        : count
      : Math.max(...series.map((one) => Number(xsOf(one)[one.ys.length - 1])))) || 1;
  const told = series.filter((one) => one.name);
  let endY = 0;
  for (const one of series)
    for (let i = 0; i < one.ys.length; i++) if (one.ys[i] > endY && one.ys[i] < Infinity) endY = one.ys[i];
  endY = endY || 1;
  const x = (/** @type {number} */ at) => LEFT + (at / endX) * spanX;
  const low = chart.low || 0;
  const y = (/** @type {number} */ at) => TOP + spanY - ((Math.min(at, endY) - low) / (endY - low)) * spanY;
  const made = svg("svg", {
    viewBox: `0 0 ${WIDE} ${HIGH + (told.length ? 14 : 0)}`,
    role: "img",
    "aria-label": `${chart.title}. ${chart.note || ""}`,
    "font-family": "system-ui, sans-serif",
    "font-size": 10,
  });
  const label = (
    /** @type {number} */ px,
    /** @type {number} */ py,
    /** @type {string} */ text,
    /** @type {Record<string, any>} */ more = {},
  ) => svg("text", { x: px, y: py, fill: "currentColor", "text-anchor": "middle", ...more }, text);
  const stepX = niceStep(endX, 6),
    stepY = niceStep(endY - low, 4);
  for (let at = 0; at <= endX * 1.0001; at += stepX) made.append(label(x(at), HIGH - BOTTOM + 13, brief(at)));
  for (let at = Math.ceil(low / stepY) * stepY; at <= endY * 1.0001; at += stepY)
    made.append(
      svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(at), y2: y(at), stroke: "currentColor", "stroke-opacity": 0.18 }),
      label(LEFT - 4, y(at) + 3, brief(at), { "text-anchor": "end" }),
    );
  made.append(
    label(LEFT + spanX / 2, HIGH - 5, chart.x),
    label(10, TOP + spanY / 2, chart.y, { transform: `rotate(-90 10 ${TOP + spanY / 2})` }),
  );
  for (const one of series) {
    const xs = xsOf(one);
    let path = "";
    if (one.kind === "bars") {
      const half = Math.max(0.3, (0.4 * spanX) / one.ys.length);
      for (let i = 0; i < one.ys.length; i++)
        if (one.ys[i] > 0) {
          const [left, top] = [x(xs[i]) - half, y(one.ys[i])].map((at) => at.toFixed(2));
          path += `M${left} ${y(low)}V${top}h${(2 * half).toFixed(2)}V${y(low)}z`;
        }
      made.append(svg("path", { d: path, fill: one.colour }));
    } else {
      for (const i of thinned(one.ys.length))
        path += `${path ? "L" : "M"}${x(xs[i]).toFixed(2)} ${y(one.ys[i]).toFixed(2)}`;
      made.append(svg("path", { d: path, fill: "none", stroke: one.colour, "stroke-width": 1.5 }));
    }
  }
  if (chart.cursor !== undefined) {
    const at = x(xsOf(series[0])[chart.cursor]);
    made.append(svg("line", { x1: at, x2: at, y1: TOP, y2: HIGH - BOTTOM, stroke: "currentColor", "stroke-width": 1 }));
  }
  let left = LEFT;
  for (const { name, colour } of told) {
    made.append(
      svg("rect", { x: left, y: HIGH + 1, width: 9, height: 9, fill: colour }),
      label(left + 12, HIGH + 9, name || "", { "text-anchor": "start" }),
    );
    left += 26 + 5.5 * String(name).length;
  }
  return made;
}

/** Places of at most a few thousand points of a line. @param {number} count @returns {number[]} */
function thinned(count) {
  const step = Math.max(1, Math.ceil(count / 2000));
  const places = [];
  for (let i = 0; i < count; i += step) places.push(i);
  if (places[places.length - 1] !== count - 1) places.push(count - 1);
  return places;
}

/** @param {SVGElement} drawn @param {string} title */
function saveSvg(drawn, title) {
  const copy = /** @type {SVGElement} */ (drawn.cloneNode(true));
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("color", "#222");
  copy.setAttribute("width", String(2 * WIDE));
  copy.setAttribute("height", String(2 * (HIGH + 14)));
  save(
    `${title.replace(/[^\w]+/g, "-").slice(0, 40)}.svg`,
    new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }),
  );
}
