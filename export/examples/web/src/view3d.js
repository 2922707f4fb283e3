/** The 3D skeleton on a floor, seen from a point that sways slowly, or that the user drags. */

import { colourOf } from "./colours.js";
import { BONES, JOINTS } from "./skeleton.js";

// The viewer's distance from the person and the height of what the canvas shows at that distance, metres.
const DISTANCE_M = 5;
const SHOWN_M = 2.2;
// The floor: half its width, and the distance of its lines; metres.
const FLOOR_M = 1.5;
const GRID_M = 0.5;
// The view sways by this angle to either side, radians, in this time, seconds.
const SWAY = 0.5;
const SWAY_S = 10;
const TILT = 0.2;
const MOST_TILT = 1.4;
// Radians for a pixel that the user drags.
const DRAG = 0.01;
// The share by which the floor and the place of the person follow each frame.
const FOLLOW = 0.08;
const FEET = [3, 6];

/** @typedef {[number, number, number]} Point a place in the picture and its distance */

export class View3D {
  #canvas;
  #context;
  /** @type {Float32Array | null} */
  #pose = null;
  /** @type {Float32Array | null} */
  #other = null;
  #faded = false;
  /** @type {number | null} */
  #floor = null;
  #turn = 0;
  #tilt = TILT;
  #dragged = false;
  #still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      if (!this.#dragged) this.#turn = this.#angle();
      this.#dragged = true;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons === 0) return;
      this.#turn += DRAG * event.movementX;
      this.#tilt = Math.min(Math.max(this.#tilt + DRAG * event.movementY, -0.2), MOST_TILT);
    });
    canvas.addEventListener("dblclick", () => this.resume());
    const frame = () => {
      this.#draw();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  /** Sway again, after the user dragged the view. */
  resume() {
    this.#dragged = false;
    this.#tilt = TILT;
  }

  /**
   * Show a pose.
   * @param {Float32Array | null} pose x, y, z of the joints in metres, root at 0; null for an empty floor
   * @param {Float32Array | null} other another pose, drawn in grey behind it
   * @param {boolean} faded draw it faintly, because it is not sure
   */
  show(pose, other, faded) {
    this.#pose = pose;
    this.#other = other;
    this.#faded = faded;
    if (pose === null) return;
    const feet = Math.max(...FEET.map((joint) => pose[3 * joint + 1]));
    this.#floor = this.#floor === null ? feet : this.#floor + FOLLOW * (feet - this.#floor);
  }

  #angle() {
    if (this.#dragged || this.#still) return this.#turn;
    return SWAY * Math.sin((2 * Math.PI * performance.now()) / (1000 * SWAY_S));
  }

  #draw() {
    const canvas = this.#canvas;
    const ratio = Math.min(devicePixelRatio, 2);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = this.#context;
    context.clearRect(0, 0, width, height);
    context.lineCap = "round";
    const style = getComputedStyle(canvas);
    const ground = this.#floor ?? 0.9;
    const project = this.#projection(width, height, ground);
    context.strokeStyle = style.getPropertyValue("--grid");
    context.lineWidth = ratio;
    context.globalAlpha = 1;
    for (let line = -FLOOR_M; line <= FLOOR_M + 1e-9; line += GRID_M) {
      this.#line(project(line, ground, -FLOOR_M), project(line, ground, FLOOR_M));
      this.#line(project(-FLOOR_M, ground, line), project(FLOOR_M, ground, line));
    }
    if (this.#pose === null) return;
    const scale = height / SHOWN_M;
    // The shadow of the body.
    context.strokeStyle = style.getPropertyValue("--shadow");
    context.lineWidth = 0.05 * scale;
    for (const [parent, joint] of BONES) {
      const [from, to] = [parent, joint].map((at) => {
        const pose = /** @type {Float32Array} */ (this.#pose);
        return project(pose[3 * at], ground, pose[3 * at + 2]);
      });
      this.#line(from, to);
    }
    if (this.#other !== null) this.#body(this.#other, project, 0.018 * scale, () => style.getPropertyValue("--other"));
    context.globalAlpha = this.#faded ? 0.4 : 1;
    this.#body(this.#pose, project, 0.05 * scale, colourOf);
    context.globalAlpha = 1;
  }

  /**
   * Draw the bones of a pose, those behind first.
   * @param {Float32Array} pose
   * @param {(x: number, y: number, z: number) => Point} project
   * @param {number} thickness pixels
   * @param {(joint: number) => string} colour
   */
  #body(pose, project, thickness, colour) {
    const points = Array.from({ length: JOINTS }, (_, joint) => {
      return project(pose[3 * joint], pose[3 * joint + 1], pose[3 * joint + 2]);
    });
    const bones = BONES.toSorted(([, a], [, b]) => points[b][2] - points[a][2]);
    const context = this.#context;
    for (const [parent, joint] of bones) {
      context.strokeStyle = colour(joint);
      context.lineWidth = (thickness * DISTANCE_M) / points[joint][2];
      this.#line(points[parent], points[joint]);
    }
  }

  /**
   * @param {number} width
   * @param {number} height
   * @param {number} ground
   * @returns {(x: number, y: number, z: number) => Point}
   */
  #projection(width, height, ground) {
    const turn = this.#angle();
    const [cosine, sine] = [Math.cos(turn), Math.sin(turn)];
    const [up, across] = [Math.cos(this.#tilt), Math.sin(this.#tilt)];
    const scale = Math.min(height / SHOWN_M, width / (2 * FLOOR_M)) * DISTANCE_M;
    // The middle of the picture lies half-way up a standing person.
    const middle = ground - 0.8;
    return (x, y, z) => {
      const [right, away, down] = [cosine * x + sine * z, cosine * z - sine * x, y - middle];
      const distance = DISTANCE_M + up * away + across * down;
      return [
        width / 2 + (scale * right) / distance,
        height / 2 + (scale * (up * down - across * away)) / distance,
        distance,
      ];
    };
  }

  /**
   * @param {Point} from
   * @param {Point} to
   */
  #line(from, to) {
    this.#context.beginPath();
    this.#context.moveTo(from[0], from[1]);
    this.#context.lineTo(to[0], to[1]);
    this.#context.stroke();
  }
}
