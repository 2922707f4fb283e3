/** The state of the stream in words. */

import { REASONS } from "./reasons.js";

/**
 * What the page shows: "idle" before a start, "nobody" without a person, or the status of a refined frame.
 * @typedef {import("./reasons.js").Status | "idle" | "nobody"} Shown
 */

/**
 * @param {Shown} status
 * @param {string[]} reasons of the frame
 */
export function inWords(status, reasons = []) {
  switch (status) {
    case "idle":
      return "ready";
    case "nobody":
      return "nobody in the picture";
    case "ok":
      return "ok";
    case "warm-up":
      return "warming up";
    case "invalid":
      return "too few joints seen";
    case "degraded":
      return `degraded: ${reasons.filter((reason) => REASONS.get(reason) === "degraded").join(", ")}`;
  }
}

/** A mean that forgets: the share of each new value is the same. */
export class Mean {
  /** @type {number | null} */
  #value = null;

  /** @param {number} share */
  constructor(share = 0.1) {
    this.share = share;
  }

  /** @param {number} value */
  add(value) {
    this.#value = this.#value === null ? value : this.#value + this.share * (value - this.#value);
  }

  /** The mean as text. @param {number} digits @param {string} unit */
  text(digits = 0, unit = "") {
    return this.#value === null ? "–" : `${this.#value.toFixed(digits)}${unit}`;
  }

  /** How often a second something happens whose intervals in milliseconds were added. @param {number} digits */
  rate(digits = 0) {
    return this.#value === null ? "–" : (1000 / this.#value).toFixed(digits);
  }
}
