// @ts-check
// What the stage draws beside pictures: padding, cells, the pin.

/** @typedef {import("./stage.js").Stage} Stage */

/**
 * Hatch what the codec sees beyond the picture.
 * @param {CanvasRenderingContext2D} context
 * @param {Stage} stage
 * @param {number} number
 */
export function drawPadding(context, stage, number) {
  const { canvas, crop } = stage.picture.inputs[number].told;
  if (canvas[0] === crop[2] && canvas[1] === crop[3]) return;
  const { view } = stage;
  const [left, top] = view.toPane(-crop[1], -crop[0]);
  context.save();
  context.beginPath();
  context.rect(left, top, canvas[1] * view.scale, canvas[0] * view.scale);
  context.clip();
  context.strokeStyle = stage.ink("--faint");
  context.strokeRect(left, top, canvas[1] * view.scale, canvas[0] * view.scale);
  context.beginPath();
  for (let at = -view.high; at < view.wide; at += 8) {
    context.moveTo(at, view.high);
    context.lineTo(at + view.high, 0);
  }
  context.stroke();
  context.restore();
}

/** @param {CanvasRenderingContext2D} context @param {Stage} stage @param {number} number */
export function drawCells(context, stage, number) {
  const { view } = stage;
  const { crop } = stage.picture.inputs[number].told;
  const [high, wide] = stage.cellSize();
  if (Math.min(high, wide) * view.scale < 4) return;
  context.strokeStyle = "rgba(255,255,255,0.45)";
  context.lineWidth = 1;
  context.beginPath();
  const line = (
    /** @type {number} */ cell,
    /** @type {number} */ before,
    /** @type {number} */ end,
    /** @type {boolean} */ across,
  ) => {
    const [bottomX, bottomY] = view.toPane(stage.picture.width, stage.picture.height);
    const [topX, topY] = view.toPane(0, 0);
    for (let at = Math.ceil(before / cell) * cell - before; at <= end; at += cell) {
      const [x, y] = view.toPane(at, at).map((one) => Math.round(one) + 0.5);
      context.moveTo(across ? x : topX, across ? topY : y);
      context.lineTo(across ? x : bottomX, across ? bottomY : y);
    }
  };
  line(wide, crop[1], stage.picture.width, true);
  line(high, crop[0], stage.picture.height, false);
  context.stroke();
}

/**
 * Frame the pinned pixel and its cell.
 * @param {CanvasRenderingContext2D} context
 * @param {Stage} stage
 * @param {number} x
 * @param {number} y
 */
export function drawPin(context, stage, x, y) {
  const { crop } = stage.picture.inputs[stage.state.a].told;
  const [high, wide] = stage.cellSize();
  const [left, top] = [
    Math.floor((x + crop[1]) / wide) * wide - crop[1],
    Math.floor((y + crop[0]) / high) * high - crop[0],
  ];
  for (const [colour, width] of /** @type {[string, number][]} */ ([
    ["#000", 4],
    ["#4df", 2],
  ])) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(...stage.view.toPane(left, top), wide * stage.view.scale, high * stage.view.scale);
    context.strokeRect(...stage.view.toPane(x, y), Math.max(2, stage.view.scale), Math.max(2, stage.view.scale));
  }
}
