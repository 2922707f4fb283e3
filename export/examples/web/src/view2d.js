/** The picture with the 2D skeleton that the lifter gets. */

import { colourOf } from "./colours.js";
import { BONES, JOINTS } from "./skeleton.js";

// The longer side of the canvas, in pixels.
const LONGER = 960;
// Joints that the detector hardly sees stay faintly visible.
const FAINT = 0.25;

export class View2D {
  #canvas;
  #context;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  }

  /**
   * Draw a picture of a video and the joints of a person.
   * @param {HTMLVideoElement} video
   * @param {import("./intake.js").Observation | null} seen the 17 joints; null without a person
   */
  draw(video, seen) {
    const scale = LONGER / Math.max(video.videoWidth, video.videoHeight);
    const [width, height] = [Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
      /** @type {HTMLElement} */ (this.#canvas.parentElement).style.aspectRatio = `${width} / ${height}`;
    }
    const context = this.#context;
    context.globalAlpha = 1;
    context.drawImage(video, 0, 0, width, height);
    if (seen === null) return;
    /** @param {number} joint @returns {[number, number]} */
    const at = (joint) => [seen.pixels[2 * joint] * scale, seen.pixels[2 * joint + 1] * scale];
    const sure = Array.from(seen.confidence, (confidence) => FAINT + (1 - FAINT) * confidence);
    const known = Array.from({ length: JOINTS }, (_, joint) => Number.isFinite(at(joint)[0]));
    context.lineCap = "round";
    for (const [parent, joint] of BONES) {
      if (!known[parent] || !known[joint]) continue;
      context.globalAlpha = Math.min(sure[parent], sure[joint]);
      for (const [colour, thickness] of /** @type {[string, number][]} */ ([["#0b1220", 9], [colourOf(joint), 6]])) {
        context.strokeStyle = colour;
        context.lineWidth = thickness;
        context.beginPath();
        context.moveTo(...at(parent));
        context.lineTo(...at(joint));
        context.stroke();
      }
    }
    for (let joint = 0; joint < JOINTS; joint++) {
      if (!known[joint]) continue;
      context.globalAlpha = sure[joint];
      context.fillStyle = "#ffffff";
      context.strokeStyle = colourOf(joint);
      context.lineWidth = 3;
      context.beginPath();
      context.arc(...at(joint), 5, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }
}
