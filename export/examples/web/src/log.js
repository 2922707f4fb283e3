/**
 * What the page saves: the frames that went in and the refined ones, in the fields of the messages of refiner-stream.
 *
 * Each entry of `frames` is a message that `refiner-stream --joints mediapipe33 --lifter bundled` reads.
 */

import { JOINTS } from "./skeleton.js";

// Ten minutes at 30 frames a second; the log then drops its oldest frames.
const MOST_FRAMES = 18_000;

/**
 * @typedef {import("./refiner.js").Frame} Frame
 * @typedef {import("./refiner.js").RefinedFrame} RefinedFrame
 *
 * @typedef {{timestamp: number, pose_2d: (number | null)[][], confidence: (number | null)[] | null}} SavedInput
 * @typedef {{timestamp: number, status: string, reasons: string[], pose_3d: number[][], given_3d: number[][],
 *   infilled: number[]}} SavedFrame
 */

/** @param {Frame} frame @returns {SavedInput} */
export function savedInput({ timestamp, pose2d, confidence }) {
  return {
    timestamp,
    pose_2d: pose2d.map((point) => [...point]),
    confidence: confidence === null ? null : [...confidence],
  };
}

/** @param {SavedInput} saved @returns {Frame} */
export function frameOf({ timestamp, pose_2d, confidence }) {
  return { timestamp, pose2d: pose_2d, confidence };
}

/** @param {RefinedFrame} frame @returns {SavedFrame} */
export function savedFrame({ timestamp, status, reasons, pose3d, given3d, infilled }) {
  return {
    timestamp,
    status,
    reasons,
    pose_3d: rows(pose3d),
    given_3d: rows(given3d),
    infilled: infilled.flatMap((guessed, joint) => (guessed ? [joint] : [])),
  };
}

/** The frames of one run of the page. */
export class Log {
  /** @type {SavedInput[]} */
  #frames = [];
  /** @type {SavedFrame[]} */
  #refined = [];
  #dropped = 0;
  #about;

  /**
   * @param {import("./lens.js").Lens} lens
   * @param {import("./refiner.js").Options} options
   */
  constructor(lens, options) {
    this.#about = {
      joints: options.joints,
      image_size: [lens.width, lens.height],
      focal_length: lens.focalLength,
      focal_length_stated: lens.stated,
      pool_shape: options.poolShape === true,
      smoothing: options.smoothing === true,
    };
  }

  /** The number of frames that it holds. */
  get frames() {
    return this.#frames.length;
  }

  /**
   * @param {Frame} frame
   * @param {RefinedFrame[]} refined
   */
  add(frame, refined) {
    this.#frames.push(savedInput(frame));
    this.#refined.push(...refined.map(savedFrame));
    if (this.#frames.length > MOST_FRAMES) {
      this.#frames.shift();
      this.#dropped += 1;
      while (this.#refined.length && this.#refined[0].timestamp < this.#frames[0].timestamp) this.#refined.shift();
    }
  }

  /** All of it, ready for JSON. `dropped` counts the oldest frames, which it no longer holds. */
  toJSON() {
    return { ...this.#about, dropped: this.#dropped, frames: this.#frames, refined: this.#refined };
  }
}

/** Metres to a hundredth of a millimetre. @param {number} metres */
function rounded(metres) {
  return Math.round(metres * 1e5) / 1e5;
}

/** @param {Float32Array} pose */
function rows(pose) {
  return Array.from({ length: JOINTS }, (_, joint) => Array.from(pose.subarray(3 * joint, 3 * joint + 3), rounded));
}
