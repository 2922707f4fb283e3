/**
 * The first steps for each frame: check it, convert it to the 17 joints, guess missing joints; the same as
 * refiner/runtime/streaming/intake.py for frames whose 3D pose a lifter makes.
 */

import { InputError, UnitError } from "./errors.js";
import { JOINTS, confidenceToH36m17, toH36m17 } from "./skeleton.js";

// Joints may lie outside of the image, but within this multiple of its longer side.
const LARGEST_PIXEL_RATIO = 20;
// Shares of the image lie within this distance of 0; most coordinates must, before a frame is refused.
const LARGEST_NORMALISED = 2;
const USUAL_SHARE = 0.9;
// A share of the joints outside of the image, by more than this share of its size, that no camera explains.
const MOST_OUTSIDE = 0.2;
const OUTSIDE_BY = 0.05;
// The root mean square distance of the joints from their mean, in pixels: a person of about 25 pixels.
const LEAST_SPREAD_PX = 8;
/** A frame with fewer visible joints than this cannot be used. */
export const LEAST_JOINTS = 6;
// The body of an unknown person, x and y in metres: standing, facing the camera, arms down.
const STANDING = [
  [0, 0],
  [-0.13, 0],
  [-0.14, 0.44],
  [-0.15, 0.86],
  [0.13, 0],
  [0.14, 0.44],
  [0.15, 0.86],
  [0, -0.24],
  [0, -0.49],
  [0, -0.57],
  [0, -0.69],
  [0.15, -0.44],
  [0.2, -0.17],
  [0.22, 0.07],
  [-0.15, -0.44],
  [-0.2, -0.17],
  [-0.22, 0.07],
];

/**
 * A checked frame in the 17 joints: x and y of each joint, NaN where it is missing, and its confidence from 0 to 1;
 * whether many joints lie outside of the image, and whether the person has hardly any pixels.
 * @typedef {{pixels: Float64Array, confidence: Float64Array, outside: boolean, small: boolean}} Observation
 *
 * A frame whose missing joints were guessed: x, y and confidence of each joint, and which joints were guessed.
 * @typedef {{keypoints: Float64Array, infilled: boolean[]}} CompleteFrame
 *
 * A coordinate or a confidence as a detector or JSON writes it; null and NaN mark missing values.
 * @typedef {number | null} Value
 */

/**
 * Check one frame and mark missing joints.
 *
 * A joint is missing where a coordinate is not finite or lies far outside of the image, where both coordinates are
 * exactly 0 or exactly -1, as detectors write it, or where its confidence is not above 0.
 *
 * @param {ReadonlyArray<ReadonlyArray<Value>>} pose2d x and y of each joint in pixels
 * @param {ReadonlyArray<Value> | null} confidence of each joint, 0 to 1; null stands for 1
 * @param {import("./lens.js").Lens} lens
 * @param {import("./skeleton.js").JointSet} joints the joint set of the frame
 * @returns {Observation}
 */
export function observe(pose2d, confidence, lens, joints) {
  const pixels = coordinates(pose2d, joints);
  if (confidence !== null && (!Array.isArray(confidence) || confidence.length !== joints.joints)) {
    throw new InputError(`the confidence has ${confidence?.length} values; expected ${joints.joints}`);
  }
  const limit = LARGEST_PIXEL_RATIO * Math.max(lens.width, lens.height);
  const scores = new Float64Array(joints.joints);
  /** @type {number[]} */
  const finite = [];
  for (let joint = 0; joint < joints.joints; joint++) {
    const [x, y] = [pixels[2 * joint], pixels[2 * joint + 1]];
    const marked = (x === 0 && y === 0) || (x === -1 && y === -1);
    if (!marked && Number.isFinite(x) && Number.isFinite(y)) finite.push(Math.abs(x), Math.abs(y));
    const score = confidence === null ? 1 : number(confidence[joint], "the confidence");
    const seen = !marked && Math.abs(x) <= limit && Math.abs(y) <= limit && score > 0;
    scores[joint] = seen ? Math.min(score, 1) : 0;
    if (!seen) pixels[2 * joint] = pixels[2 * joint + 1] = NaN;
  }
  if (finite.length >= 2 * LEAST_JOINTS && quantile(finite, USUAL_SHARE) <= LARGEST_NORMALISED) {
    throw new UnitError(
      `the 2D pose lies within ${Math.max(...finite).toFixed(2)} of 0, which looks like shares of the image; ` +
        "expected pixels: multiply by the image's width and height",
    );
  }
  const converted = toH36m17(pixels, joints);
  return { pixels: converted, confidence: confidenceToH36m17(scores, joints), ...place(converted, lens) };
}

/**
 * Whether many joints lie outside of the image, and whether the person is small in it.
 * @param {Float64Array} pixels
 * @param {import("./lens.js").Lens} lens
 */
function place(pixels, { width, height }) {
  const seen = Array.from({ length: JOINTS }, (_, joint) => [pixels[2 * joint], pixels[2 * joint + 1]]).filter(
    ([x]) => !Number.isNaN(x),
  );
  if (seen.length < LEAST_JOINTS) return { outside: false, small: false };
  /** @param {number} value @param {number} size */
  const beyond = (value, size) => value < -OUTSIDE_BY * size || value > (1 + OUTSIDE_BY) * size;
  const outside = seen.filter(([x, y]) => beyond(x, width) || beyond(y, height)).length > MOST_OUTSIDE * seen.length;
  const spread = [0, 1].map((axis) => {
    const mean = seen.reduce((sum, point) => sum + point[axis], 0) / seen.length;
    return seen.reduce((sum, point) => sum + (point[axis] - mean) ** 2, 0) / seen.length;
  });
  return { outside, small: spread[0] + spread[1] < LEAST_SPREAD_PX ** 2 };
}

/**
 * @param {ReadonlyArray<ReadonlyArray<Value>>} pose2d
 * @param {import("./skeleton.js").JointSet} joints
 */
function coordinates(pose2d, joints) {
  if (!Array.isArray(pose2d) || pose2d.length !== joints.joints) {
    const found = Array.isArray(pose2d) ? `${pose2d.length} joints` : `no array`;
    throw new InputError(`the 2D pose is ${found}; expected the ${joints.joints} joints of ${joints.name}`);
  }
  const pixels = new Float64Array(2 * joints.joints);
  pose2d.forEach((point, joint) => {
    if (!Array.isArray(point) || point.length !== 2) {
      throw new InputError(`joint ${joint} of the 2D pose is ${JSON.stringify(point)}; expected x and y in pixels`);
    }
    pixels[2 * joint] = number(point[0], `joint ${joint} of the 2D pose`);
    pixels[2 * joint + 1] = number(point[1], `joint ${joint} of the 2D pose`);
  });
  return pixels;
}

/**
 * A number; NaN for null, as JSON writes a missing value.
 * @param {unknown} value
 * @param {string} name
 */
function number(value, name) {
  if (value === null) return NaN;
  if (typeof value !== "number") throw new InputError(`${name} holds ${JSON.stringify(value)}; expected numbers`);
  return value;
}

/**
 * The quantile of some values, interpolated linearly.
 * @param {number[]} values
 * @param {number} share
 */
function quantile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/** Guesses the missing joints of one person: they move as the visible ones do on average. */
export class Infilling {
  /** @type {Float64Array | null} */
  #last = null;

  /** Forget the person. */
  reset() {
    this.#last = null;
  }

  /**
   * Guess the missing joints of a frame. The result is kept for the guesses of the next frame.
   * @param {Observation} seen
   * @returns {CompleteFrame | null} null where fewer than `LEAST_JOINTS` joints were seen
   */
  complete(seen) {
    const infilled = Array.from({ length: JOINTS }, (_, joint) => {
      return Number.isNaN(seen.pixels[2 * joint]) || Number.isNaN(seen.pixels[2 * joint + 1]);
    });
    const visible = infilled.flatMap((missing, joint) => (missing ? [] : [joint]));
    if (visible.length < LEAST_JOINTS) return null;
    const pixels = seen.pixels.slice();
    if (visible.length < JOINTS) {
      const guess = this.#guess(seen.pixels, visible);
      infilled.forEach((missing, joint) => {
        if (missing) pixels.set(guess.subarray(2 * joint, 2 * joint + 2), 2 * joint);
      });
    }
    this.#last = pixels;
    const keypoints = new Float64Array(3 * JOINTS);
    for (let joint = 0; joint < JOINTS; joint++) {
      keypoints[3 * joint] = pixels[2 * joint];
      keypoints[3 * joint + 1] = pixels[2 * joint + 1];
      keypoints[3 * joint + 2] = infilled[joint] ? 0 : seen.confidence[joint];
    }
    return { keypoints, infilled };
  }

  /**
   * A guess for all joints, from the last frame, or from a standing body in weak perspective.
   * @param {Float64Array} seen
   * @param {number[]} visible
   * @returns {Float64Array}
   */
  #guess(seen, visible) {
    const last = this.#last;
    /** @param {(joint: number) => number} value */
    const mean = (value) => visible.reduce((sum, joint) => sum + value(joint), 0) / visible.length;
    if (last !== null) {
      const moved = [0, 1].map((axis) => mean((joint) => seen[2 * joint + axis] - last[2 * joint + axis]));
      return last.map((value, index) => value + moved[index % 2]);
    }
    const centre = [0, 1].map((axis) => mean((joint) => STANDING[joint][axis]));
    const target = [0, 1].map((axis) => mean((joint) => seen[2 * joint + axis]));
    let spread = 0;
    let product = 0;
    for (const joint of visible) {
      for (const axis of [0, 1]) {
        const flat = STANDING[joint][axis] - centre[axis];
        spread += flat * flat;
        product += flat * (seen[2 * joint + axis] - target[axis]);
      }
    }
    const scale = spread > 0 ? product / spread : 1;
    return Float64Array.from(STANDING.flat(), (value, index) => {
      return target[index % 2] + scale * (value - centre[index % 2]);
    });
  }
}
