/** One body for a person, and calmer motion; the same as refiner/runtime/streaming/shape.py and smoothing.py. */

import { BONES, FLIP_ORDER, JOINTS } from "./skeleton.js";

// Lengths are counted in bins of a millimetre, up to a metre.
const BIN_M = 0.001;
const BINS = 1000;
// The direction of a shorter bone is undefined.
const SHORTEST_M = 1e-6;
// The cut-off frequencies of the One-Euro filter: of a joint at rest in Hz, its rise with the speed in Hz per m/s, and
// of the speed in Hz.
const MIN_CUTOFF = 4;
const BETA = 16;
const SPEED_CUTOFF = 1;

/** Gives a person the median length of each bone over all frames so far, left and right the same. */
export class RunningShape {
  #counts = Array.from({ length: JOINTS }, () => new Int32Array(BINS));
  #frames = 0;

  /**
   * Learn from one pose, and give it the lengths so far.
   * @param {Float32Array} pose x, y, z of the 17 joints in metres
   * @returns {Float32Array}
   */
  apply(pose) {
    const lengths = boneLengths(pose);
    lengths.forEach((length, joint) => {
      this.#counts[joint][Math.min(Math.max(Math.trunc(length / BIN_M), 0), BINS - 1)] += 1;
    });
    this.#frames += 1;
    const target = this.#lengths();
    const pooled = Float64Array.from(pose);
    for (const [parent, joint] of BONES) {
      const factor = lengths[joint] > SHORTEST_M ? target[joint] / lengths[joint] : 1;
      for (let axis = 0; axis < 3; axis++) {
        const [from, to] = [3 * parent + axis, 3 * joint + axis];
        pooled[to] = pooled[from] + factor * (pose[to] - pose[from]);
      }
    }
    return Float32Array.from(pooled);
  }

  #lengths() {
    const medians = this.#counts.map((counts) => {
      let below = 0;
      const bin = counts.findIndex((count) => 2 * (below += count) >= this.#frames);
      return (bin + 0.5) * BIN_M;
    });
    return medians.map((length, joint) => 0.5 * (length + medians[FLIP_ORDER[joint]]));
  }
}

/** @param {Float32Array} pose */
function boneLengths(pose) {
  const lengths = new Float64Array(JOINTS);
  for (const [parent, joint] of BONES) {
    const axes = [0, 1, 2].map((axis) => pose[3 * joint + axis] - pose[3 * parent + axis]);
    lengths[joint] = Math.sqrt(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2);
  }
  return lengths;
}

/** The One-Euro filter on every coordinate, at a constant frame rate (Casiez et al., CHI 2012). */
export class OneEuro {
  #fps;
  /** @type {Float64Array | null} */
  #filtered = null;
  #speed = new Float64Array(0);

  /** @param {number} fps the frame rate of the poses that `apply` gets */
  constructor(fps) {
    this.#fps = fps;
  }

  /** Make the next pose the first one. */
  reset() {
    this.#filtered = null;
  }

  /**
   * Smooth the next pose. The first pose stays as it is.
   * @param {Float32Array} pose metres
   * @returns {Float32Array}
   */
  apply(pose) {
    if (this.#filtered === null) {
      this.#filtered = Float64Array.from(pose);
      this.#speed = new Float64Array(pose.length);
      return pose;
    }
    const filtered = this.#filtered;
    pose.forEach((value, index) => {
      const change = value - filtered[index];
      this.#speed[index] += this.#weight(SPEED_CUTOFF) * (change * this.#fps - this.#speed[index]);
      filtered[index] += this.#weight(MIN_CUTOFF + BETA * Math.abs(this.#speed[index])) * change;
    });
    return Float32Array.from(filtered);
  }

  /** @param {number} cutoff Hz */
  #weight(cutoff) {
    return 1 / (1 + this.#fps / (2 * Math.PI * cutoff));
  }
}
