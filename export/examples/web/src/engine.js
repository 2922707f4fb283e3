/** Which of the browser's engines runs the lifter and the refiner. */

import { checkLens } from "./lens.js";
import { RemoteRefiner } from "./remote.js";

/** @typedef {import("./models.js").Provider} Provider */

// Frames of a made-up person: the first ones, which compile and warm up, are not timed.
const [WARM_UP, TIMED] = [4, 8];
const LENS = checkLens(1000, 1000);

/** Whether the browser has WebGPU on a graphics card. */
export async function hasWebGpu() {
  const gpu = /** @type {any} */ (navigator).gpu;
  const adapter = gpu === undefined ? null : await gpu.requestAdapter();
  return adapter !== null && !adapter.info?.isFallbackAdapter;
}

/**
 * Load the lifter and the refiner.
 * @param {Provider | "automatic"} wanted "automatic" times both engines where the browser has WebGPU, and keeps the
 *   faster one
 * @returns {Promise<{remote: RemoteRefiner, provider: Provider, why: string}>} `why` tells the choice in words
 */
export async function loadRefiner(wanted) {
  const names = { wasm: "WebAssembly", webgpu: "WebGPU" };
  if (wanted !== "automatic") return { remote: await load(wanted), provider: wanted, why: names[wanted] };
  const remote = await load("wasm");
  if (!(await hasWebGpu())) return { remote, provider: "wasm", why: "WebAssembly (this browser has no WebGPU)" };
  const other = await load("webgpu");
  const [mine, others] = [await timed(remote), await timed(other)];
  const times = `${mine.toFixed(1)} ms a step; WebGPU ${others.toFixed(1)} ms`;
  if (others < mine) {
    remote.close();
    return { remote: other, provider: "webgpu", why: `WebGPU (WebAssembly: ${times})` };
  }
  other.close();
  return { remote, provider: "wasm", why: `WebAssembly (${times})` };
}

/** @param {Provider} provider */
async function load(provider) {
  const remote = new RemoteRefiner();
  await remote.load(provider);
  return remote;
}

/**
 * The milliseconds of one step of lifter and refiner.
 * @param {RemoteRefiner} remote
 */
async function timed(remote) {
  await remote.begin(LENS, { joints: "h36m17" });
  let [spent, steps] = [0, 0];
  for (let frame = 0; frame < WARM_UP + TIMED; frame++) {
    const pose2d = Array.from({ length: 17 }, (_, joint) => [400 + 20 * (joint % 5), 200 + 30 * joint + frame]);
    const { cost } = await remote.push({ pose2d, confidence: null, timestamp: frame / 50 });
    if (frame >= WARM_UP) [spent, steps] = [spent + cost.lifterMs + cost.refinerMs, steps + cost.steps];
  }
  return spent / steps;
}
