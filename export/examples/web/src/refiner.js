/**
 * `LiveRefiner`: refines the frames of one person as they come. It is the same as
 * `StreamingRefiner.load(lifter=True)` of the Python package, in refiner/runtime/streaming. It gives no standard
 * deviations.
 */

import { InputError } from "./errors.js";
import { FrameClock } from "./frame_clock.js";
import { Infilling, observe } from "./intake.js";
import { REASONS, statusOf } from "./reasons.js";
import { OneEuro, RunningShape } from "./shape.js";
import { JOINTS, jointSet } from "./skeleton.js";

/** Seconds; a person who is away longer begins anew. */
export const LONGEST_GAP_S = 0.5;
// A person who is away for this long has no larger errors afterwards; and the model frames after a longer gap, or after
// guessed joints, whose errors are still larger (refiner/runtime/streaming/track.py).
const HARMLESS_GAP_S = 0.07;
const AFTER_GAP = 6;
const AFTER_GUESSED = 12;

/**
 * @typedef {import("./lens.js").Lens} Lens
 * @typedef {import("./intake.js").CompleteFrame} CompleteFrame
 * @typedef {import("./intake.js").Observation} Observation
 * @typedef {import("./frame_clock.js").Arrival} Arrival
 * @typedef {import("./reasons.js").Status} Status
 *
 * One frame of a detector.
 * @typedef {object} Frame
 * @property {ReadonlyArray<ReadonlyArray<number | null>>} pose2d x and y of each joint in pixels; null where missing
 * @property {ReadonlyArray<number | null> | null} confidence of each joint, 0 to 1; null stands for 1
 * @property {number} timestamp seconds, by any clock that runs forward
 *
 * One refined frame; refiner/runtime/streaming/frames.py explains the fields.
 * @typedef {object} RefinedFrame
 * @property {number} timestamp
 * @property {Float32Array} pose3d x, y, z of the 17 joints in metres, camera axes, root at 0
 * @property {Float32Array} given3d the pose of the lifter
 * @property {boolean[]} infilled which joints were guessed
 * @property {Status} status
 * @property {string[]} reasons what was guessed, assumed or found
 *
 * A camera frame that waits until its model frame is refined.
 * @typedef {{timestamp: number, frame: CompleteFrame, lastIndex: number, after: number, reasons: string[]}} Waiting
 *
 * A model frame before and after refinement.
 * @typedef {{index: number, unrefined: Float32Array, refined: Float32Array}} Correction
 *
 * What the refinement of one frame took, in milliseconds, and how many frames at the model's rate it was.
 * @typedef {{lifterMs: number, refinerMs: number, steps: number}} Cost
 *
 * @typedef {object} Options
 * @property {string} [joints] the joint set of the frames
 * @property {boolean} [poolShape] give the person the same bones in every frame
 * @property {boolean} [smoothing] run a One-Euro filter after the refiner
 */

/** @returns {Cost} */
const noCost = () => ({ lifterMs: 0, refinerMs: 0, steps: 0 });

export class LiveRefiner {
  #lifter;
  #refiner;
  #lens;
  #joints;
  #clock;
  #infilling = new Infilling();
  #shape;
  #smoother;
  /** @type {Waiting[]} */
  #waiting = [];
  /** @type {CompleteFrame | null} */
  #previous = null;
  /** @type {Correction | null} */
  #earlier = null;
  /** @type {Correction | null} */
  #latest = null;
  /** @type {Float32Array | null} */
  #lastPose = null;
  #count = 0;
  // The model frames until which guessed joints, or a gap, still show.
  #guessedUntil = -1;
  #gapUntil = -1;
  // The time of the last frame that had a pose, and whether the next one is the first after a gap.
  #lastSeen = -Infinity;
  #again = false;
  /** @type {Promise<unknown>} */
  #busy = Promise.resolve();

  /**
   * @param {import("./models.js").Lifter} lifter
   * @param {import("./models.js").CausalRefiner} refiner
   * @param {Lens} lens
   * @param {Options} options
   */
  constructor(lifter, refiner, lens, { joints = "h36m17", poolShape = false, smoothing = false } = {}) {
    this.#lifter = lifter;
    this.#refiner = refiner;
    this.#lens = lens;
    this.#joints = jointSet(joints);
    this.#clock = new FrameClock(refiner.fps, LONGEST_GAP_S);
    this.#shape = poolShape ? new RunningShape() : null;
    this.#smoother = smoothing ? new OneEuro(refiner.fps) : null;
    /** What the last call of `push` took. */
    this.cost = noCost();
    this.#resetModels();
  }

  /**
   * Take one frame, and return the frames that are ready, oldest first. Calls wait for each other.
   * @param {Frame} frame
   * @returns {Promise<RefinedFrame[]>}
   */
  push(frame) {
    const done = this.#busy.then(() => this.#push(frame));
    this.#busy = done.catch(() => {});
    return done;
  }

  /** @param {Frame} frame */
  async #push({ pose2d, confidence, timestamp }) {
    if (!Number.isFinite(timestamp)) throw new InputError(`the time-stamp is ${timestamp}; expected seconds`);
    const seen = observe(pose2d, confidence, this.#lens, this.#joints);
    this.cost = noCost();
    const verdict = this.#clock.verdict(timestamp);
    if (verdict === "repeated" || verdict === "late") return [];
    if (verdict === "restart") this.#restart();
    const complete = this.#infilling.complete(seen);
    if (complete === null) return [this.#invalid(timestamp)];
    const inputs = this.#arrive(timestamp, complete, seen);
    const ready = this.#due();
    for (const keypoints of inputs) ready.push(...(await this.#step(keypoints)));
    return ready;
  }

  /** Begin anew after a gap. Only the lengths of the bones and the last pose are kept. */
  #restart() {
    this.#clock.reset();
    this.#infilling.reset();
    this.#smoother?.reset();
    this.#previous = this.#earlier = this.#latest = null;
    this.#guessedUntil = this.#gapUntil = -1;
    this.#again = true;
    this.#resetModels();
  }

  #resetModels() {
    this.#lifter.reset();
    this.#refiner.reset();
    this.#count = 0;
  }

  /**
   * The answer to a frame with too few joints: the last pose.
   * @param {number} timestamp
   * @returns {RefinedFrame}
   */
  #invalid(timestamp) {
    const pose = this.#lastPose ?? new Float32Array(3 * JOINTS);
    return {
      timestamp,
      pose3d: pose.slice(),
      given3d: pose.slice(),
      infilled: Array(JOINTS).fill(true),
      status: "invalid",
      reasons: ["too few joints"],
    };
  }

  /**
   * Take a camera frame, and return the keypoints of the model frames that it completes.
   * @param {number} timestamp
   * @param {CompleteFrame} frame
   * @param {Observation} seen
   * @returns {Float32Array[]}
   */
  #arrive(timestamp, frame, seen) {
    const passed = timestamp - this.#lastSeen;
    this.#lastSeen = timestamp;
    const arrival = this.#clock.arrive(timestamp);
    const before = this.#previous;
    const inputs = arrival.completed.map(({ share }) => {
      if (before === null || share >= 1) return Float32Array.from(frame.keypoints);
      return between(before.keypoints, frame.keypoints, share);
    });
    this.#previous = frame;
    const found = this.#reasons(arrival, frame, seen, passed);
    const reasons = [...REASONS.keys()].filter((reason) => found.has(reason));
    this.#waiting.push({ timestamp, frame, lastIndex: arrival.lastIndex, after: arrival.after, reasons });
    return inputs;
  }

  /**
   * What is to be said of a camera frame that came `passed` seconds after the one before.
   * @param {Arrival} arrival
   * @param {CompleteFrame} frame
   * @param {Observation} seen
   * @param {number} passed
   */
  #reasons(arrival, frame, seen, passed) {
    const [index, memory] = [arrival.lastIndex, this.#refiner.frames];
    const reasons = new Set();
    if (!this.#lens.stated) reasons.add("lens assumed");
    if (!this.#refiner.calibrated) reasons.add("spread assumed");
    if (arrival.after > 0 || arrival.completed.some(({ share }) => share < 1)) reasons.add("resampled");
    if (arrival.uneven) reasons.add("uneven time-stamps");
    if (arrival.missed > 0 && passed > HARMLESS_GAP_S) {
      reasons.add("gap");
      this.#gapUntil = index + Math.min(AFTER_GAP, memory) - 1;
    } else if (arrival.missed > 0) reasons.add("missed frame");
    else if (index <= this.#gapUntil) reasons.add("after a gap");
    if (frame.infilled.includes(true)) {
      reasons.add("guessed joints");
      this.#guessedUntil = index + Math.min(AFTER_GUESSED, memory) - 1;
    } else if (index <= this.#guessedUntil) reasons.add("after guessed joints");
    if (index + 1 < memory) {
      reasons.add("warm-up");
      if (this.#again) reasons.add("began anew");
    } else this.#again = false;
    if (seen.outside) reasons.add("outside the image");
    if (seen.small) reasons.add("small in the image");
    return reasons;
  }

  /**
   * Lift and refine one model frame.
   * @param {Float32Array} keypoints
   */
  async #step(keypoints) {
    const began = performance.now();
    const unrefined = await this.#lifter.lift(keypoints, this.#lens);
    const lifted = performance.now();
    let refined = await this.#refiner.step(keypoints, unrefined, this.#lens);
    this.cost.lifterMs += lifted - began;
    this.cost.refinerMs += performance.now() - lifted;
    this.cost.steps += 1;
    if (this.#smoother !== null) refined = this.#smoother.apply(refined);
    if (this.#shape !== null) refined = this.#shape.apply(refined);
    this.#earlier = this.#latest;
    this.#latest = { index: this.#count++, unrefined, refined };
    return this.#due();
  }

  /** Remove and return the waiting camera frames whose model frame is refined. */
  #due() {
    const frames = [];
    while (this.#waiting.length && this.#latest !== null && this.#waiting[0].lastIndex <= this.#latest.index) {
      frames.push(this.#answer(/** @type {Waiting} */ (this.#waiting.shift()), this.#latest));
    }
    return frames;
  }

  /**
   * The refined pose at the time of a camera frame, between the last two model frames.
   * @param {Waiting} waiting
   * @param {Correction} latest
   * @returns {RefinedFrame}
   */
  #answer({ timestamp, frame, after, reasons }, latest) {
    const earlier = this.#earlier;
    const pose3d =
      after > 0 && earlier !== null
        ? earlier.refined.map((value, index) => value + after * (latest.refined[index] - value))
        : latest.refined.slice();
    this.#lastPose = pose3d;
    return {
      timestamp,
      pose3d,
      given3d: latest.unrefined.slice(),
      infilled: frame.infilled,
      status: statusOf(reasons),
      reasons,
    };
  }
}

/**
 * Interpolate keypoints. A joint that was guessed in one of the two frames counts as guessed between them.
 * @param {Float64Array} first
 * @param {Float64Array} second
 * @param {number} share
 */
function between(first, second, share) {
  const keypoints = Float32Array.from(first, (value, index) => value + share * (second[index] - value));
  for (let at = 2; at < keypoints.length; at += 3) if (!(first[at] > 0 && second[at] > 0)) keypoints[at] = 0;
  return keypoints;
}
