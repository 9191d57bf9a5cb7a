// @ts-check
// The stage: picture and layer on a canvas, moved by wheel, pointer, touch and keys.

import { el } from "./dom.js";
import { drawCells, drawPadding, drawPin } from "./marks.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./view.js").View} View */
/** @typedef {import("./pictures.js").Painted} Painted */

const BLINK = 600; // milliseconds of each

export class Stage {
  /** @param {State} state @param {View} view @param {Painted} painted */
  constructor(state, view, painted) {
    this.state = state;
    this.view = view;
    this.painted = painted;
    this.picture = painted.picture;
    this.canvas = el("canvas", {
      id: "stage",
      tabindex: 0,
      role: "application",
      "aria-label":
        "The picture and its bits. Arrows move the pin by a cell, with Shift they move the picture; plus and minus " +
        "zoom; 0 fits, 1 is a pixel a pixel; Enter pins the middle, Escape takes the pin away.",
    });
    /** @type {(x: number, y: number) => void} */
    this.hovered = () => {};
    /**
     * Takes pointers from the stage while a region is drawn. @type {((kind: string, x: number, y: number) =>
     * boolean)}
     */
    this.tool = () => false;
    /**
     * Draws over everything. @type {((context: CanvasRenderingContext2D, toPane: (x: number, y: number) => [number,
     * number], scale: number) => void)[]}
     */
    this.overlays = [];
    this.second = false; // of blinking
    this.waiting = 0;
    /** @type {Map<number, [number, number]>} */
    this.pointers = new Map();
    this.moved = 0;
    this.dragsSplit = false;
    this.listen();
    this.timer = setInterval(() => this.state.mode === "blink" && this.state.paired && this.blink(), BLINK);
  }

  /** Stop what goes on by itself. */
  close() {
    clearInterval(this.timer);
  }

  blink() {
    this.second = !this.second;
    this.redraw();
  }

  listen() {
    const { canvas } = this;
    new ResizeObserver(() => this.redraw()).observe(canvas);
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const [left, top] = this.inPane(event);
        this.view.zoom(2 ** ((-event.deltaY * (event.deltaMode ? 16 : 1)) / 240), left, top);
        this.state.set("view");
      },
      { passive: false },
    );
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event, true));
    canvas.addEventListener("pointercancel", (event) => this.release(event, false));
    canvas.addEventListener("dblclick", (event) => this.tool("double", ...this.pixelAt(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Where a pointer is in its pane, pixels of the screen. @param {MouseEvent} event @returns {[number, number]} */
  inPane(event) {
    const box = this.canvas.getBoundingClientRect();
    const left = event.clientX - box.left;
    return [this.panes === 2 && left >= this.view.wide ? left - this.view.wide : left, event.clientY - box.top];
  }

  /** @param {MouseEvent} event @returns {[number, number]} */
  pixelAt(event) {
    return this.view.toPicture(...this.inPane(event));
  }

  get panes() {
    return this.state.mode === "side" && this.state.paired ? 2 : 1;
  }

  /** @param {PointerEvent} event */
  press(event) {
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.inPane(event);
    this.pointers.set(event.pointerId, at);
    this.moved = 0;
    this.dragsSplit =
      this.state.mode === "slider" && this.state.paired && Math.abs(at[0] - this.state.split * this.view.wide) < 12;
    this.tool("down", ...this.pixelAt(event));
  }

  /** @param {PointerEvent} event */
  move(event) {
    const [left, top] = this.inPane(event);
    const [x, y] = this.view.toPicture(left, top);
    const last = this.pointers.get(event.pointerId);
    if (!last) {
      this.tool("move", x, y);
      this.hovered(Math.floor(x), Math.floor(y));
      return;
    }
    this.moved += Math.hypot(left - last[0], top - last[1]);
    if (this.dragsSplit) {
      this.state.set("look", { split: Math.min(1, Math.max(0, left / this.view.wide)) });
    } else if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, one]) => one);
      const factor =
        Math.hypot(left - other[0], top - other[1]) / Math.max(1, Math.hypot(last[0] - other[0], last[1] - other[1]));
      this.view.zoom(factor, other[0], other[1]);
      this.state.set("view");
    } else if (!this.tool("move", x, y)) {
      this.view.pan(left - last[0], top - last[1]);
      this.state.set("view");
    }
    this.pointers.set(event.pointerId, [left, top]);
  }

  /** @param {PointerEvent} event @param {boolean} whole */
  release(event, whole) {
    const single = this.pointers.size === 1;
    this.pointers.delete(event.pointerId);
    const [x, y] = this.pixelAt(event);
    if (this.tool("up", x, y) || !whole || !single || this.moved > 5 || this.dragsSplit) return;
    if (this.inside(x, y)) this.state.set("pin", { pin: [Math.floor(x), Math.floor(y)] });
  }

  /** @param {number} x @param {number} y */
  inside(x, y) {
    return x >= 0 && y >= 0 && x < this.picture.width && y < this.picture.height;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { view, state } = this;
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
      event.key
    ] || [0, 0];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if ((right || down) && event.shiftKey) view.pan(-60 * right, -60 * down);
    else if (right || down) this.step(right, down);
    else if (event.key === "+" || event.key === "=") view.zoom(1.25);
    else if (event.key === "-") view.zoom(0.8);
    else if (event.key === "0") view.fit();
    else if (event.key === "1") view.zoom(1 / view.scale);
    else if (event.key === "Enter" && !this.tool("enter", 0, 0))
      state.set("pin", { pin: [Math.floor(view.x - 1e-6), Math.floor(view.y - 1e-6)] });
    else if (event.key === "Escape" && !this.tool("escape", 0, 0)) state.set("pin", { pin: null });
    else if (event.key === "b" && state.paired && state.mode === "blink") this.blink();
    else if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    state.set("view");
  }

  /** Move the pin to the next cell of the finest latent. @param {number} right @param {number} down */
  step(right, down) {
    const { state, picture } = this;
    const [high, wide] = this.cellSize();
    const [x, y] = state.pin || [Math.floor(this.view.x), Math.floor(this.view.y)];
    const clip = (/** @type {number} */ at, /** @type {number} */ size) =>
      Math.min(size - 1, Math.max(0, Math.floor(at)));
    const pin = /** @type {[number, number]} */ ([
      clip(x + right * wide, picture.width),
      clip(y + down * high, picture.height),
    ]);
    this.view.reveal(...pin);
    state.set("pin", { pin });
  }

  /** Height and width of the finest latent's cells, pixels. @returns {[number, number]} */
  cellSize() {
    const { told } = this.picture.inputs[this.state.a];
    const grids = told.latents.map((one) => one.grid).sort((one, other) => other[0] * other[1] - one[0] * one[1]);
    return [told.canvas[0] / grids[0][0], told.canvas[1] / grids[0][1]];
  }

  redraw() {
    if (!this.waiting) this.waiting = requestAnimationFrame(() => this.draw());
  }

  /** Fit to the room on the page. @returns {[number, number, number]} width and height, pixels of the screen each */
  measure() {
    const { canvas, view } = this;
    const dense = window.devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(wide * dense) || canvas.height !== Math.round(high * dense))
      Object.assign(canvas, { width: Math.round(wide * dense), height: Math.round(high * dense) });
    view.resize(wide / this.panes, high);
    return [wide, high, dense];
  }

  draw() {
    this.waiting = 0;
    const { canvas, view, state } = this;
    const [wide, high, dense] = this.measure();
    this.painted.follow();
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, wide, high);
    const both = state.paired && state.mode !== "difference";
    if (both && state.mode === "side") {
      this.pane(context, 0, 0, view.wide);
      this.pane(context, 1, view.wide, view.wide);
      context.fillStyle = this.ink("--ink");
      context.fillRect(view.wide - 0.5, 0, 1, high);
    } else if (both && state.mode === "slider") {
      const at = state.split * view.wide;
      this.pane(context, 0, 0, at);
      this.pane(context, 1, at, view.wide - at, 0);
      context.fillStyle = "#fff";
      context.fillRect(at - 1.5, 0, 3, high);
      context.fillStyle = "#000";
      context.fillRect(at - 0.5, 0, 1, high);
    } else this.pane(context, both && state.mode === "blink" && this.second ? 1 : 0, 0, view.wide);
  }

  /**
   * Draw A or B into a part of the canvas.
   * @param {CanvasRenderingContext2D} context
   * @param {0 | 1} which
   * @param {number} start
   * @param {number} room
   * @param {number} [origin] of the view
   */
  pane(context, which, start, room, origin = start) {
    const { view, painted, picture, state } = this;
    context.save();
    context.beginPath();
    context.rect(start, 0, room, view.high);
    context.clip();
    context.translate(origin, 0);
    const [x, y] = view.toPane(0, 0);
    const size = /** @type {const} */ ([picture.width * view.scale, picture.height * view.scale]);
    drawPadding(context, this, state.b !== null && which ? state.b : state.a);
    context.imageSmoothingEnabled = view.scale < 1;
    context.imageSmoothingQuality = "medium";
    const base = painted.base(which);
    context.fillStyle = "#000";
    context.fillRect(x, y, ...size);
    if (base) context.drawImage(base, x, y, ...size);
    if (painted.shown[which]) {
      context.globalAlpha = base ? state.opacity : 1;
      const { step, left, top, width, height } = painted.part; // its last blocks may be cut
      const [wide, high] = [
        Math.min(width, picture.width / step - left),
        Math.min(height, picture.height / step - top),
      ];
      const block = step * view.scale;
      const from = view.toPane(left * step, top * step);
      context.drawImage(painted.canvases[which], 0, 0, wide, high, ...from, wide * block, high * block);
      context.globalAlpha = 1;
    }
    if (state.grid) drawCells(context, this, state.b !== null && which ? state.b : state.a);
    if (state.pin) drawPin(context, this, ...state.pin);
    for (const one of this.overlays) one(context, (px, py) => view.toPane(px, py), view.scale);
    if (state.paired && state.mode !== "difference")
      this.letter(context, which === 0 ? "A" : "B", which === 0 ? 8 : start - origin + room - 30);
    context.restore();
  }

  /** @param {CanvasRenderingContext2D} context @param {string} text @param {number} left */
  letter(context, text, left) {
    context.fillStyle = "rgba(0,0,0,0.7)";
    context.fillRect(left, 8, 22, 22);
    context.fillStyle = "#fff";
    context.font = "bold 15px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(text, left + 11, 24);
  }

  /** @param {string} name @returns {string} */
  ink(name) {
    return getComputedStyle(this.canvas).getPropertyValue(name);
  }
}
