/**
 * From the time-stamps of a camera's frames to frames at the model's rate; the same as
 * refiner/runtime/streaming/frame_clock.py, which explains the terms. Time is counted in model frames.
 */

// A camera frame this close to a model frame counts as that model frame.
const SNAP = 0.25;
// Where camera frames follow model frames one by one, the clock moves by this share of a distance of this size at most.
const PULL = 0.2;
const PULL_WITHIN = 0.1;
// How fast the clock learns the interval between camera frames, and the longest interval that it learns from.
const LEARNING = 0.1;
const LONGEST_STEP = 1.5;
// Time-stamps are uneven where they lie this share of the usual interval from where they should, on average.
const UNEVEN = 0.15;

/**
 * A model frame that a camera frame completes: its number, and its place between the previous camera frame (0) and this
 * one (1).
 * @typedef {{index: number, share: number}} ModelFrame
 *
 * What a camera frame's time-stamp means: the model frames that it completes, the last model frame at or before it, its
 * distance from that one (0 to 1), how many camera frames never came before it, and whether the last time-stamps are far
 * from regular.
 * @typedef {{completed: ModelFrame[], lastIndex: number, after: number, missed: number, uneven: boolean}} Arrival
 *
 * @typedef {"in order" | "repeated" | "late" | "restart"} Verdict
 */

export class FrameClock {
  #fps;
  #longestGap;
  #origin = 0;
  /** @type {number | null} */
  #lastTime = null;
  #lastPosition = 0;
  #lastIndex = -1;
  #inStep = false;
  /** @type {number | null} */
  #interval = null;
  #unevenness = 0;

  /**
   * @param {number} fps the model's frame rate
   * @param {number} longestGap seconds; after a longer gap, the stream begins anew
   */
  constructor(fps, longestGap) {
    this.#fps = fps;
    this.#longestGap = longestGap;
  }

  /** Make the next camera frame the first one. */
  reset() {
    this.#lastTime = null;
    this.#lastIndex = -1;
    this.#inStep = false;
    this.#interval = null;
    this.#unevenness = 0;
  }

  /**
   * Classify a camera frame by its time-stamp in seconds. This changes nothing.
   * @param {number} timestamp
   * @returns {Verdict}
   */
  verdict(timestamp) {
    if (this.#lastTime === null) return "in order";
    const passed = timestamp - this.#lastTime;
    if (Math.abs(passed) > this.#longestGap) return "restart";
    if (passed > 0) return "in order";
    return passed === 0 ? "repeated" : "late";
  }

  /**
   * Take the next camera frame, which must be in order.
   * @param {number} timestamp seconds
   * @returns {Arrival}
   */
  arrive(timestamp) {
    if (this.#lastTime === null) {
      this.#origin = this.#lastTime = timestamp;
      this.#lastPosition = this.#lastIndex = 0;
      return { completed: [{ index: 0, share: 1 }], lastIndex: 0, after: 0, missed: 0, uneven: false };
    }
    let position = (timestamp - this.#origin) * this.#fps;
    const following = this.#lastIndex + 1;
    const missed = this.#missed(timestamp - this.#lastTime);
    const nearest = Math.max(roundHalfEven(position), following);
    const snapped = Math.abs(position - nearest) <= SNAP;
    if (snapped) {
      if (this.#inStep && nearest === following && Math.abs(position - nearest) <= PULL_WITHIN) {
        this.#origin += (PULL * (position - nearest)) / this.#fps;
      }
      position = nearest;
    }
    this.#inStep = snapped && nearest === following && this.#lastPosition === this.#lastIndex;
    const completed = [];
    for (let index = following; index <= Math.trunc(position); index++) {
      completed.push({ index, share: (index - this.#lastPosition) / (position - this.#lastPosition) });
    }
    this.#lastTime = timestamp;
    this.#lastPosition = position;
    if (completed.length) this.#lastIndex = completed[completed.length - 1].index;
    const after = Math.max(position - this.#lastIndex, 0);
    return { completed, lastIndex: this.#lastIndex, after, missed, uneven: this.#unevenness > UNEVEN };
  }

  /**
   * How many camera frames did not come in `passed` seconds, by the camera's usual interval, which adapts.
   * @param {number} passed
   */
  #missed(passed) {
    const usual = this.#interval ?? passed;
    const off = Math.abs(passed / usual - Math.max(roundHalfEven(passed / usual), 1));
    this.#unevenness += LEARNING * (off - this.#unevenness);
    this.#interval = usual + LEARNING * (Math.min(passed, LONGEST_STEP * usual) - usual);
    return Math.max(roundHalfEven(passed / usual) - 1, 0);
  }
}

/**
 * Round as Python does: a half goes to the even neighbour.
 * @param {number} value
 */
export function roundHalfEven(value) {
  const below = Math.floor(value);
  const above = value - below;
  if (above === 0.5) return below % 2 === 0 ? below : below + 1;
  return above < 0.5 ? below : below + 1;
}
