/** MediaPipe Pose: the 33 landmarks of one person in a picture. */

/**
 * What a detector sees in a picture: x and y of each landmark in pixels, and how visible it is, 0 to 1.
 * @typedef {{pose2d: number[][], confidence: number[]}} Detection
 *
 * Where the network of the detector runs.
 * @typedef {"gpu" | "cpu"} Place
 */

const FOLDER = "mediapipe/";
// The full model; its weights are in the package, as those of the lite and the heavy model are.
const COMPLEXITY = 1;

/** Whether the browser draws WebGL on a graphics card. A processor that imitates one is many times slower. */
export function hasGraphicsCard() {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (gl === null) return false;
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(gl.getParameter(info === null ? gl.RENDERER : info.UNMASKED_RENDERER_WEBGL));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|software|basic render/i.test(renderer);
}

export class Detector {
  #pose;
  /** @type {any} */
  #results = null;
  // Seconds that are added to the time: MediaPipe ends where time runs backwards, as from one video to the next.
  #shift = 0;
  #last = 0;

  /**
   * @param {Place} place
   * @returns {Promise<Detector>}
   */
  static async load(place) {
    const detector = new Detector();
    detector.move(place);
    await detector.#pose.initialize();
    return detector;
  }

  constructor() {
    // MediaPipe's script, which index.html loads, is no module: it defines `Pose`.
    const { Pose } = /** @type {any} */ (globalThis);
    /** @type {import("@mediapipe/pose").Pose} */
    this.#pose = new Pose({ locateFile: (/** @type {string} */ file) => FOLDER + file });
    this.#pose.onResults((/** @type {unknown} */ results) => {
      this.#results = results;
    });
  }

  /**
   * Run somewhere else from the next picture on.
   * @param {Place} place
   */
  move(place) {
    // MediaPipe sets `useCpuInference`, which its types leave out, where it knows that a graphics card fails.
    const options = { modelComplexity: COMPLEXITY, smoothLandmarks: true, useCpuInference: place === "cpu" };
    this.#pose.setOptions(/** @type {import("@mediapipe/pose").Options} */ (options));
  }

  /** Make the next picture the first one. */
  reset() {
    this.#pose.reset();
    this.#shift = NaN;
  }

  /**
   * Detect the person in a picture.
   * @param {HTMLVideoElement} video shows the picture
   * @param {number} timestamp seconds; MediaPipe smoothes the landmarks over time
   * @returns {Promise<Detection | null>} null where it sees nobody
   */
  async detect(video, timestamp) {
    const [width, height] = [video.videoWidth, video.videoHeight];
    if (Number.isNaN(this.#shift) || timestamp + this.#shift <= this.#last) this.#shift = this.#last + 1 - timestamp;
    this.#last = timestamp + this.#shift;
    this.#results = null;
    await this.#pose.send({ image: video }, 1000 * this.#last);
    const landmarks = this.#results?.poseLandmarks;
    if (!landmarks) return null;
    return {
      pose2d: landmarks.map((/** @type {{x: number, y: number}} */ { x, y }) => [x * width, y * height]),
      confidence: landmarks.map((/** @type {{visibility: number}} */ { visibility }) => visibility),
    };
  }
}
