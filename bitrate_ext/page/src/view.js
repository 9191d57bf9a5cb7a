// @ts-check
// What of the picture is seen: its middle, and how many pixels of the screen a pixel has.

export const MOST = 128; // pixels of the screen a pixel

export class View {
  /** @param {number} width @param {number} height of the picture */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.x = width / 2;
    this.y = height / 2;
    this.scale = 1;
    this.fitted = true; // to the stage, and again when it changes
    this.wide = 1; // of the pane, pixels of the screen
    this.high = 1;
  }

  /** @param {number} wide @param {number} high of the pane */
  resize(wide, high) {
    this.wide = Math.max(1, wide);
    this.high = Math.max(1, high);
    if (this.fitted) this.fit();
  }

  least() {
    return Math.min(1, 0.5 * this.fitting());
  }

  fitting() {
    return 0.96 * Math.min(this.wide / this.width, this.high / this.height);
  }

  fit() {
    Object.assign(this, { x: this.width / 2, y: this.height / 2, scale: this.fitting(), fitted: true });
  }

  /**
   * Zoom, a place of the pane staying where it is.
   * @param {number} factor
   * @param {number} [left]
   * @param {number} [top]
   */
  zoom(factor, left = this.wide / 2, top = this.high / 2) {
    const [x, y] = this.toPicture(left, top);
    this.scale = Math.min(MOST, Math.max(this.least(), this.scale * factor));
    this.place(x - (left - this.wide / 2) / this.scale, y - (top - this.high / 2) / this.scale);
  }

  /** @param {number} right @param {number} down pixels of the screen */
  pan(right, down) {
    this.place(this.x - right / this.scale, this.y - down / this.scale);
  }

  /** @param {number} x @param {number} y that come to the middle */
  place(x, y) {
    this.x = Math.min(this.width, Math.max(0, x));
    this.y = Math.min(this.height, Math.max(0, y));
    this.fitted = false;
  }

  /**
   * What is seen, or a part as many times as wide and high around it: left, top, right, bottom, in the picture.
   * @param {number} times
   * @returns {[number, number, number, number]}
   */
  seen(times) {
    const [wide, high] = [this.wide, this.high].map((one) => (times * one) / (2 * this.scale));
    const clip = (/** @type {number} */ at, /** @type {number} */ most) => Math.min(most, Math.max(0, at));
    return [
      clip(this.x - wide, this.width),
      clip(this.y - high, this.height),
      clip(this.x + wide, this.width),
      clip(this.y + high, this.height),
    ];
  }

  /** Move as little as needed to see a pixel. @param {number} x @param {number} y */
  reveal(x, y) {
    const [left, top] = this.toPane(x + 0.5, y + 0.5);
    const rim = Math.min(24, this.wide / 4, this.high / 4);
    const move = (/** @type {number} */ at, /** @type {number} */ size) =>
      at < rim ? rim - at : at > size - rim ? size - rim - at : 0;
    const [right, down] = [move(left, this.wide), move(top, this.high)];
    if (right || down) this.pan(right, down);
  }

  /** @param {number} left @param {number} top of the pane @returns {[number, number]} */
  toPicture(left, top) {
    return [this.x + (left - this.wide / 2) / this.scale, this.y + (top - this.high / 2) / this.scale];
  }

  /** @param {number} x @param {number} y @returns {[number, number]} */
  toPane(x, y) {
    return [this.wide / 2 + (x - this.x) * this.scale, this.high / 2 + (y - this.y) * this.scale];
  }
}
