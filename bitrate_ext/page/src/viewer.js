// @ts-check
// One picture: its stage, and all that tells of it.

import { el } from "./dom.js";
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

const WRITE_STATE = 250; // milliseconds after the last change

/**
 * Fill an element with what there is to see of one picture.
 * @param {import("./data.js").PictureDocument} told
 * @param {HTMLElement} page
 * @param {{state: State, view: View}} [kept] of another picture of this size, which it replaces
 * @returns {Promise<{state: State, view: View, close: () => void}>}
 */
export async function picturePage(told, page, kept) {
  const picture = new Picture(told);
  const state = kept ? kept.state : new State();
  const view = kept ? kept.view : new View(told.width, told.height);
  if (!kept && told.inputs.length > 1) state.start = { b: 1, mode: "slider" };
  Object.assign(state, kept ? {} : state.start);
  if (told.picture === null) state.base = "none";
  const layers = picture.inputs.flatMap((one) => one.layers().map(([name]) => name));
  if (!kept) fromFragment(location.hash.slice(1), state, view, { inputs: told.inputs.length, layers });
  const painted = new Painted(picture, state, view, () => {
    scale.update();
    stage.redraw();
  });
  const stage = new Stage(state, view, painted);
  const [head, tools, scale] = [heading(picture, state), toolbar(picture, state, stage), scaleBar(painted, state)];
  const [probe, regions, charts] = [
    new Probe(picture, state),
    new Regions(picture, state, stage),
    new Charts(picture, state),
  ];
  stage.hovered = (x, y) => probe.point(x, y);
  stage.canvas.addEventListener("pointerleave", () => probe.show());
  const save = el(
    "div",
    { class: "row", id: "save" },
    "Save ",
    el("button", { type: "button", click: () => saveView(stage, painted, scale.bar) }, "the view, PNG"),
    el("button", { type: "button", click: () => saveNumbers(picture, regions.accounts) }, "the numbers, JSON"),
  );
  page.replaceChildren(
    el(
      "main",
      {},
      el("div", { class: "left" }, head.element, tools.element, stage.canvas, scale.element, save),
      el(
        "div",
        { class: "right" },
        ...[warningSection(picture), probe.element, regions.element, charts.element, accountSection(picture)].filter(
          (one) => one !== null,
        ),
      ),
    ),
  );
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
  state.listeners = [follow, ...state.others];
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => stage.redraw());
  picture.arrived = () => {
    stage.redraw();
    probe.again();
  };
  const [photograph, cells] = [picture.openPhotograph(), picture.open()]; // while the page is laid out here
  head.update();
  tools.update();
  page.hidden = false;
  stage.measure();
  await cells;
  await Promise.all([painted.update(), photograph]);
  stage.redraw();
  if (told.regions) regions.begin(told.regions);
  else regions.update();
  probe.build();
  return { state, view, close: () => stage.close() };
}
