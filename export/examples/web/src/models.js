/** The lifter and the causal refiner in ONNX Runtime Web; the same as refiner/runtime/streaming/causal_backend.py. */

import { ModelError } from "./errors.js";
import { readManifest } from "./manifest.js";
import { JOINTS } from "./skeleton.js";

/**
 * @typedef {import("onnxruntime-common").InferenceSession} Session
 * @typedef {import("onnxruntime-common").TypedTensor<"float32">} FloatTensor
 * @typedef {import("./manifest.js").Manifest} Manifest
 *
 * The part of ONNX Runtime Web that is used, in the page and in Node.
 * @typedef {Pick<typeof import("onnxruntime-common"), "InferenceSession" | "Tensor">} Runtime
 *
 * @typedef {"wasm" | "webgpu"} Provider
 */

// Keypoints that `asRays` converted, seen through this lens, give the same rays as the pixels through their own lens.
const UNIT_LENS = [2, 2, 1];
// x, y and confidence of the joints of a frame.
const FRAME = 3 * JOINTS;

/**
 * A graph that is ready to run, and its manifest.
 * @typedef {{session: Session, manifest: Manifest}} OpenGraph
 */

/**
 * @param {Runtime} ort
 * @param {Uint8Array} graph the bytes of the file
 * @param {string} name of the file, for messages
 * @param {string} kind of the model that is expected
 * @param {Provider} provider
 * @returns {Promise<OpenGraph>}
 */
async function open(ort, graph, name, kind, provider) {
  const manifest = readManifest(graph, name);
  if (manifest.kind !== kind) throw new ModelError(`${name} holds a ${manifest.kind}; expected a ${kind}`);
  if (!("keypoints" in manifest.inputs) || manifest.batch.min > 1) {
    throw new ModelError(`${name} does not take keypoints and a camera for one frame or window; export it so`);
  }
  const session = await ort.InferenceSession.create(graph, { executionProviders: [provider] });
  return { session, manifest };
}

/** Lifts each model frame from the window of model frames that ends with it. */
export class Lifter {
  /**
   * @param {Runtime} ort
   * @param {Uint8Array} graph the bytes of the file
   * @param {string} name of the file, for messages
   * @param {Provider} provider
   */
  static async load(ort, graph, name, provider = "wasm") {
    return new Lifter(ort, await open(ort, graph, name, "lifter", provider));
  }

  #ort;
  #session;
  #frames;
  #stride;
  /**
   * The rays of the last model frames, the oldest first.
   * @type {Float32Array[]}
   */
  #window = [];

  /**
   * @param {Runtime} ort
   * @param {OpenGraph} graph
   */
  constructor(ort, { session, manifest }) {
    this.#ort = ort;
    this.#session = session;
    this.#frames = manifest.frames;
    this.#stride = manifest.stride;
  }

  /** Forget the person. */
  reset() {
    this.#window = [];
  }

  /**
   * Lift the next model frame.
   * @param {Float32Array} keypoints x, y in pixels and confidence of each joint
   * @param {import("./lens.js").Lens} lens
   * @returns {Promise<Float32Array>} x, y, z of each joint in metres, root at 0
   */
  async lift(keypoints, lens) {
    const rays = asRays(keypoints, lens);
    const length = (this.#frames - 1) * this.#stride + 1;
    // Before a full window has come, the first model frame is repeated in front.
    if (this.#window.length === 0) this.#window = Array(length).fill(rays);
    this.#window = [...this.#window.slice(1), rays];
    const window = new Float32Array(this.#frames * FRAME);
    for (let frame = 0; frame < this.#frames; frame++) window.set(this.#window[frame * this.#stride], frame * FRAME);
    const result = await this.#session.run({
      keypoints: new this.#ort.Tensor("float32", window, [1, this.#frames, JOINTS, 3]),
      camera: new this.#ort.Tensor("float32", Float32Array.from(UNIT_LENS), [1, 3]),
    });
    const pose = floats(result, "pose_3d").slice(-FRAME);
    return pose.map((value, index) => value - pose[index % 3]);
  }
}

/**
 * Convert keypoints from their own lens to `UNIT_LENS`, so that the frames of a window may come through several lenses.
 * @param {Float32Array} keypoints
 * @param {import("./lens.js").Lens} lens
 */
function asRays(keypoints, lens) {
  const half = [lens.width / 2, lens.height / 2];
  return keypoints.map((value, index) => {
    return index % 3 === 2 ? value : (value - half[index % 3]) / lens.focalLength + 1;
  });
}

/** Refines one model frame after the other, and keeps the state of the person (refiner/causal_state.py). */
export class CausalRefiner {
  /**
   * @param {Runtime} ort
   * @param {Uint8Array} graph the bytes of the file
   * @param {string} name of the file, for messages
   * @param {Provider} provider
   */
  static async load(ort, graph, name, provider = "wasm") {
    return new CausalRefiner(ort, await open(ort, graph, name, "causal-refiner", provider), name);
  }

  #ort;
  #session;
  #layout;
  #count = 0;
  /**
   * The state tensors by name, and `seen`, which marks the slots of the ring buffers that hold a frame.
   * @type {Record<string, FloatTensor>}
   */
  #state = {};

  /**
   * @param {Runtime} ort
   * @param {OpenGraph} graph
   * @param {string} name
   */
  constructor(ort, { session, manifest }, name) {
    const state = manifest.state;
    if (state?.form !== "entries" || state.layout.streams !== 1 || state.layout.pipelined || !state.layout.rays) {
      throw new ModelError(`${name} is no causal refiner for one stream on a processor; export it without --pipelined`);
    }
    this.#ort = ort;
    this.#session = session;
    this.#layout = state.layout;
    /** The model's frame rate, and how many frames it remembers. */
    this.fps = manifest.fps;
    this.frames = manifest.frames;
    this.calibrated = manifest.uncertainty !== undefined;
    this.reset();
  }

  /** Forget the person: the next frame is the first. */
  reset() {
    const { heads, width, frames } = this.#layout;
    const [slots, channels] = [frames - 1, 2 * heads * width];
    this.#count = 0;
    this.#state = { seen: this.#tensor(new Float32Array(slots), [1, slots]) };
    for (const cache of this.#caches()) {
      for (const name of ["keys", "values"]) {
        const shape = [1, JOINTS * heads, slots, width];
        this.#state[`${name}_${cache}`] = this.#tensor(new Float32Array(JOINTS * heads * slots * width), shape);
      }
      const recent = new Float32Array(2 * JOINTS * channels);
      this.#state[`recent_${cache}`] = this.#tensor(recent, [1, 2, JOINTS, channels]);
    }
  }

  /**
   * Refine the next model frame.
   * @param {Float32Array} keypoints x, y in pixels and confidence of each joint
   * @param {Float32Array} body x, y, z of each joint in metres
   * @param {import("./lens.js").Lens} lens
   * @returns {Promise<Float32Array>} the refined pose, metres
   */
  async step(keypoints, body, lens) {
    const result = await this.#session.run({
      keypoints: this.#tensor(keypoints, [1, JOINTS, 3]),
      pose_3d: this.#tensor(body, [1, JOINTS, 3]),
      camera: this.#tensor(Float32Array.of(lens.width, lens.height, lens.focalLength), [1, 3]),
      ...this.#state,
    });
    for (const cache of this.#caches()) this.#keep(cache, floats(result, `entry_${cache}`));
    this.#state.seen.data[this.#count % (this.#layout.frames - 1)] = 1;
    this.#count += 1;
    return floats(result, "refined_pose_3d").slice();
  }

  /**
   * Write what an attention module gave for a frame into its ring buffers.
   * @param {string} cache
   * @param {Float32Array} entry for each joint six groups of heads: spatial q, k, v, temporal v, k, q
   */
  #keep(cache, entry) {
    const { heads, width, frames } = this.#layout;
    const [slots, group] = [frames - 1, heads * width];
    const slot = this.#count % slots;
    for (const [name, first] of /** @type {[string, number][]} */ ([["values", 3 * group], ["keys", 4 * group]])) {
      const ring = this.#state[`${name}_${cache}`].data;
      for (let row = 0; row < JOINTS * heads; row++) {
        const from = Math.floor(row / heads) * 6 * group + first + (row % heads) * width;
        ring.set(entry.subarray(from, from + width), (row * slots + slot) * width);
      }
    }
    // The values of both halves for the last two frames, the older frame first.
    const recent = this.#state[`recent_${cache}`].data;
    recent.copyWithin(0, recent.length / 2);
    for (let joint = 0; joint < JOINTS; joint++) {
      const from = joint * 6 * group + 2 * group;
      recent.set(entry.subarray(from, from + 2 * group), recent.length / 2 + joint * 2 * group);
    }
  }

  #caches() {
    const { steps, modules } = this.#layout;
    return Array.from({ length: steps * modules }, (_, at) => `${Math.floor(at / modules)}_${at % modules}`);
  }

  /**
   * @param {Float32Array} data
   * @param {number[]} shape
   * @returns {FloatTensor}
   */
  #tensor(data, shape) {
    return new this.#ort.Tensor("float32", data, shape);
  }
}

/**
 * @param {import("onnxruntime-common").InferenceSession.OnnxValueMapType} result
 * @param {string} name
 * @returns {Float32Array}
 */
function floats(result, name) {
  return /** @type {Float32Array} */ (result[name].data);
}
