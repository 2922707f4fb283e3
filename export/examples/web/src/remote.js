/** The page's side of worker.js. */

import { InputError } from "./errors.js";

/**
 * @typedef {import("./models.js").Provider} Provider
 * @typedef {{resolve: (value: any) => void, reject: (error: Error) => void}} Waiter
 */

/** The lifter and the refiner, which run in a worker. */
export class RemoteRefiner {
  /** @type {Map<number, Waiter>} */
  #waiting = new Map();
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #calls = 0;

  constructor() {
    this.#worker.addEventListener("message", ({ data: { id, result, error, input } }) => {
      const waiter = /** @type {Waiter} */ (this.#waiting.get(id));
      this.#waiting.delete(id);
      if (error === undefined) waiter.resolve(result);
      else waiter.reject(input ? new InputError(error) : new Error(error));
    });
    this.#worker.addEventListener("error", (event) => {
      const error = new Error(`the worker failed: ${event.message}`);
      for (const waiter of this.#waiting.values()) waiter.reject(error);
      this.#waiting.clear();
    });
  }

  /** @param {Provider} provider @returns {Promise<void>} */
  load(provider) {
    return this.#ask({ call: "load", provider });
  }

  /**
   * Begin a stream. The frames that come after this belong to it.
   * @param {import("./lens.js").Lens} lens
   * @param {import("./refiner.js").Options} options
   * @returns {Promise<void>}
   */
  begin(lens, options) {
    return this.#ask({ call: "begin", lens, options });
  }

  /**
   * @param {import("./refiner.js").Frame} frame
   * @returns {Promise<{refined: import("./refiner.js").RefinedFrame[], cost: import("./refiner.js").Cost}>}
   */
  push(frame) {
    return this.#ask({ call: "push", frame });
  }

  /** End the worker. */
  close() {
    this.#worker.terminate();
  }

  /**
   * @param {import("./worker.js").Request} request
   * @returns {Promise<any>}
   */
  #ask(request) {
    const id = this.#calls++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, request });
    });
  }
}
