// @ts-check
// Puts the page together once the file is there.

import { el } from "./dom.js";
import { numbersOf, readDocument, trouble } from "./data.js";
import { Picture } from "./layers.js";
import { View } from "./view.js";
import { State, fromFragment, toFragment } from "./state.js";
import { Painted } from "./pictures.js";
import { Stage } from "./stage.js";
import { Probe } from "./probe.js";
import { Regions } from "./regions.js";
import { Charts } from "./charts.js";
import { accountSection, saveNumbers, saveView, warningSection } from "./account.js";
import { heading, scaleBar, toolbar } from "./controls.js";
import { folderPage } from "./folder.js";

const WRITE_STATE = 250; // milliseconds after the last change

/** @param {import("./data.js").PictureDocument} told @param {HTMLElement} page */
async function picturePage(told, page) {
  const picture = new Picture(told);
  const state = new State();
  const view = new View(told.width, told.height);
  if (told.inputs.length > 1) Object.assign(state, { b: 1, mode: "slider" });
  if (told.picture === null) state.base = "none";
  const layers = picture.inputs.flatMap((one) => one.layers().map(([name]) => name));
  fromFragment(location.hash.slice(1), state, view, { inputs: told.inputs.length, layers });
  const painted = new Painted(picture, state, () => {
    scale.update();
    stage.redraw();
  });
  const stage = new Stage(state, view, painted);
  const [head, tools, scale] = [heading(picture, state), toolbar(picture, state, stage), scaleBar(painted, state)];
  const [probe, regions, charts] = [new Probe(picture, state), new Regions(picture, state, stage), new Charts(picture, state)];
  stage.hovered = (x, y) => probe.point(x, y);
  stage.canvas.addEventListener("pointerleave", () => probe.show());
  const save = el("div", { class: "row", id: "save" }, "Save ",
    el("button", { type: "button", click: () => saveView(stage, painted, scale.bar) }, "the view, PNG"),
    el("button", { type: "button", click: () => saveNumbers(picture, regions.accounts) }, "the numbers, JSON"));
  page.replaceChildren(
    el("main", {},
      el("div", { class: "left" }, head.element, tools.element, stage.canvas, scale.element, save),
      el("div", { class: "right" }, ...[warningSection(picture), probe.element, regions.element, charts.element, accountSection(picture)].filter((one) => one !== null))));
  let writing = 0;
  const write = () => {
    clearTimeout(writing);
    writing = setTimeout(() => history.replaceState(null, "", `#${toFragment(state, view)}`), WRITE_STATE);
  };
  const look = async () => {
    head.update();
    tools.update();
    await painted.update();
    await Promise.all([probe.build(), charts.update()]);
  };
  let inputs = "";
  const follow = (/** @type {string} */ what) => {
    if (what === "look") look();
    if (what === "pin") probe.show();
    const pair = `${state.a} ${state.b}`;
    if (what === "regions" || (what === "look" && pair !== inputs)) regions.update();
    inputs = pair;
    stage.redraw();
    write();
  };
  state.listeners.push(follow);
  window.addEventListener("hashchange", () => location.reload());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => stage.redraw());
  if (told.mask) regions.mask = /** @type {Int32Array} */ (await numbersOf(told.mask));
  await picture.open();
  head.update();
  tools.update();
  page.hidden = false;
  await painted.update();
  const shown = regions.mask ? maskRegions(regions.mask, told.mask_names) : [];
  state.regions = [...shown, ...state.regions];
  regions.update();
  probe.build();
}

/** @param {Int32Array} mask @param {Record<string, string>} names @returns {import("./state.js").Region[]} */
function maskRegions(mask, names) {
  const values = [...new Set(mask)].filter((one) => one !== 0).sort((one, other) => one - other);
  return values.map((value) => ({ kind: "mask", points: [], value, label: names[value] || `label ${value}` }));
}

async function open() {
  const status = /** @type {HTMLElement} */ (document.getElementById("status"));
  const page = /** @type {HTMLElement} */ (document.getElementById("page"));
  const wrong = trouble();
  if (wrong) {
    status.textContent = wrong;
    return;
  }
  try {
    const told = readDocument();
    if (told.page === "folder") await folderPage(told, page);
    else await picturePage(told, page);
    page.hidden = false;
    status.remove();
    document.documentElement.dataset.usable = String(Math.round(performance.now()));
  } catch (error) {
    page.hidden = true;
    status.textContent = `The page cannot be shown: ${error}. The file may be damaged; write it anew.`;
  }
}

document.addEventListener("DOMContentLoaded", open);
