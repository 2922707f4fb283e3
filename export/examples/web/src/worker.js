/** The lifter and the refiner in a worker, so that the page stays smooth while they run. */

import { InputError } from "./errors.js";
import { CausalRefiner, Lifter } from "./models.js";
import { LiveRefiner } from "./refiner.js";

/**
 * @typedef {import("./models.js").Provider} Provider
 * @typedef {import("./lens.js").Lens} Lens
 *
 * What the page asks for: load the models, begin a stream, or take a frame.
 * @typedef {{call: "load", provider: Provider} | {call: "begin", lens: Lens, options: import("./refiner.js").Options}
 *   | {call: "push", frame: import("./refiner.js").Frame}} Request
 */

// The addresses of the built page; scripts/build.js puts the files there.
const ROOT = new URL("../", import.meta.url);
const RUNTIMES = { wasm: "ort/ort.wasm.bundle.min.mjs", webgpu: "ort/ort.webgpu.bundle.min.mjs" };
const LIFTER = "lifter.onnx";
const REFINER = "refiner.onnx";

/** @type {[Lifter, CausalRefiner] | null} */
let models = null;
/** @type {LiveRefiner | null} */
let stream = null;

/** @param {string} name */
async function graph(name) {
  const answer = await fetch(new URL(`models/${name}`, ROOT));
  if (!answer.ok) throw new Error(`models/${name} cannot be loaded: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** @param {Provider} provider */
async function load(provider) {
  const ort = await import(new URL(RUNTIMES[provider], ROOT).href);
  // Several threads need headers that few servers of files send; one is enough for these models.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("ort/", ROOT).href;
  models = [
    await Lifter.load(ort, await graph(LIFTER), LIFTER, provider),
    await CausalRefiner.load(ort, await graph(REFINER), REFINER, provider),
  ];
}

/** @param {Request} request */
async function answer(request) {
  if (request.call === "load") return load(request.provider);
  if (models === null) throw new Error("the models are not loaded");
  if (request.call === "begin") {
    stream = new LiveRefiner(models[0], models[1], request.lens, request.options);
    return undefined;
  }
  if (stream === null) throw new Error("no stream has begun");
  const refined = await stream.push(request.frame);
  return { refined, cost: stream.cost };
}

self.addEventListener("message", async (event) => {
  const { id, request } = event.data;
  try {
    self.postMessage({ id, result: await answer(request) });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    self.postMessage({ id, error: message, input: error instanceof InputError });
  }
});
