/** The page: its buttons and settings, and the way of a picture through detector, lifter and refiner. */

import { Detector, hasGraphicsCard } from "./detector.js";
import { loadRefiner } from "./engine.js";
import { InputError } from "./errors.js";
import { observe } from "./intake.js";
import { checkLens, focalPixels } from "./lens.js";
import { Log } from "./log.js";
import { jointSet } from "./skeleton.js";
import { canFollowVideos, close, openCamera, openFile, play } from "./source.js";
import { Mean, inWords } from "./status.js";
import { View2D } from "./view2d.js";
import { View3D } from "./view3d.js";

const JOINTS = "mediapipe33";

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}

const buttons = {
  camera: element("camera", HTMLButtonElement),
  file: element("file", HTMLInputElement),
  stop: element("stop", HTMLButtonElement),
  save: element("save", HTMLButtonElement),
};
const settings = {
  focalUnit: element("focal-unit", HTMLSelectElement),
  focal: element("focal", HTMLInputElement),
  engine: element("engine", HTMLSelectElement),
  place: element("place", HTMLSelectElement),
  all: element("all", HTMLInputElement),
  poolShape: element("pool-shape", HTMLInputElement),
  smoothing: element("smoothing", HTMLInputElement),
  showLifted: element("show-lifted", HTMLInputElement),
};
const video = document.createElement("video");
video.muted = video.playsInline = true;
const picture = new View2D(element("picture", HTMLCanvasElement));
const skeleton = new View3D(element("skeleton", HTMLCanvasElement));

/**
 * The models that are loaded.
 * @typedef {{detector: Detector, remote: import("./remote.js").RemoteRefiner}} Models
 */

/** @type {Models | null} */
let models = null;
/** @type {(() => void) | null} */
let stopRunning = null;
// What the user asked for is done one after the other; what was asked for since then is left out.
let asked = 0;
/** @type {Promise<void>} */
let queue = Promise.resolve();
/** @type {Log | null} */
let log = null;

/** @param {string} text */
function hint(text) {
  const shown = element("hint", HTMLParagraphElement);
  shown.textContent = text;
  shown.hidden = text === "";
}

/** @param {unknown} error */
function report(error) {
  const shown = element("problem", HTMLParagraphElement);
  shown.hidden = error === null;
  if (error === null) return;
  shown.textContent = error instanceof Error ? error.message : String(error);
  if (!(error instanceof InputError)) console.error(error);
}

/**
 * @param {import("./status.js").Shown} status
 * @param {string[]} reasons
 */
function showStatus(status, reasons = []) {
  const pill = element("status", HTMLSpanElement);
  pill.dataset.status = status;
  pill.textContent = inWords(status, reasons);
  pill.title = reasons.join(", ");
}

/**
 * Stop the stream that runs, and then do what the user asks for.
 * @param {(wanted: () => boolean) => Promise<void>} task gets a function that says whether it is still wanted
 */
function ask(task) {
  const number = ++asked;
  const wanted = () => number === asked;
  stopRunning?.();
  queue = queue.then(() => (wanted() ? task(wanted) : undefined)).catch(report);
}

/** Load the detector and the models, or move them to where the settings say. */
async function loadModels() {
  hint("Loading the models…");
  for (const button of [buttons.camera, buttons.file]) button.disabled = true;
  if (!canFollowVideos()) throw new Error("this browser cannot tell when a video shows a new picture; update it");
  const { value: wanted } = settings.place;
  const place = wanted === "automatic" ? (hasGraphicsCard() ? "gpu" : "cpu") : /** @type {"gpu" | "cpu"} */ (wanted);
  const detector = models?.detector ?? (await Detector.load(place));
  detector.move(place);
  models?.remote.close();
  models = null;
  const engine = /** @type {import("./models.js").Provider | "automatic"} */ (settings.engine.value);
  const { remote, why } = await loadRefiner(engine);
  element("place-result", HTMLOutputElement).value = place === "gpu" ? "graphics card" : "processor";
  element("engine-result", HTMLOutputElement).value = why;
  models = { detector, remote };
  for (const button of [buttons.camera, buttons.file]) button.disabled = false;
  showStatus("idle");
  hint("Use the webcam, or open a video with one person. You can also drop a file here.");
}

/** The lens that the settings state for the video. */
function statedLens() {
  const unit = /** @type {Parameters<typeof focalPixels>[0]} */ (settings.focalUnit.value);
  const value = settings.focal.valueAsNumber;
  const [width, height] = [video.videoWidth, video.videoHeight];
  const lens = checkLens(width, height, focalPixels(unit, value, width, height));
  const pixels = `${Math.round(lens.focalLength)} pixels for ${width} × ${height}`;
  element("focal-result", HTMLOutputElement).value = lens.stated ? pixels : `taken: ${pixels}`;
  return lens;
}

/**
 * Open a source and run it to its end.
 * @param {() => Promise<void>} open
 * @param {boolean} all whether no picture may be left out
 * @param {() => boolean} wanted
 */
async function run(open, all, wanted) {
  if (models === null) return;
  report(null);
  try {
    await open();
    if (wanted()) await follow(models, all, wanted);
  } finally {
    stopRunning = null;
    buttons.stop.hidden = true;
    showStatus("idle");
    close(video);
  }
}

/**
 * Refine the pictures of the video to its end.
 * @param {Models} models
 * @param {boolean} all whether no picture may be left out
 * @param {() => boolean} wanted
 */
async function follow({ detector, remote }, all, wanted) {
  const lens = statedLens();
  const options = {
    joints: JOINTS,
    poolShape: settings.poolShape.checked,
    smoothing: settings.smoothing.checked,
  };
  await remote.begin(lens, options);
  if (!wanted()) return;
  detector.reset();
  const current = new Log(lens, options);
  log = current;
  Object.assign(globalThis, { refinerLog: current });
  hint("");
  buttons.stop.hidden = false;
  buttons.save.disabled = false;
  const meter = new Meter();
  /** @type {Promise<void>} */
  let refining = Promise.resolve();

  const source = play(video, all, async (timestamp) => {
    const began = performance.now();
    const detection = await detector.detect(video, timestamp);
    meter.detector.add(performance.now() - began);
    if (detection === null) {
      picture.draw(video, null);
      await refining;
      skeleton.show(null, null, false);
      showStatus("nobody");
      meter.show(source.missed());
      return;
    }
    const frame = { ...detection, timestamp };
    picture.draw(video, observe(frame.pose2d, frame.confidence, lens, jointSet(JOINTS)));
    // The worker refines this picture while the next one is detected.
    await refining;
    refining = refine(frame, began);
    refining.catch(() => {}); // the next picture, or the end, waits for it and gets the error
  });

  /**
   * @param {import("./refiner.js").Frame} frame
   * @param {number} began
   */
  async function refine(frame, began) {
    const { refined, cost } = await remote.push(frame);
    current.add(frame, refined);
    meter.refined(cost, performance.now() - began);
    const last = refined.at(-1);
    if (last !== undefined) {
      skeleton.show(last.pose3d, settings.showLifted.checked ? last.given3d : null, last.status === "invalid");
      showStatus(last.status, last.reasons);
    }
    meter.show(source.missed());
  }

  stopRunning = source.stop;
  await source.done;
  await refining;
}

/** Times of the stream, smoothed for the eye. */
class Meter {
  detector = new Mean();
  #lifter = new Mean();
  #refiner = new Mean();
  #latency = new Mean();
  #interval = new Mean();
  /** @type {number | null} */
  #last = null;

  /**
   * @param {import("./refiner.js").Cost} cost
   * @param {number} latency ms
   */
  refined(cost, latency) {
    const now = performance.now();
    if (this.#last !== null) this.#interval.add(now - this.#last);
    this.#last = now;
    this.#latency.add(latency);
    this.#lifter.add(cost.lifterMs);
    this.#refiner.add(cost.refinerMs);
  }

  /** @param {number} missed */
  show(missed) {
    const texts = {
      fps: this.#interval.rate(1),
      "detector-ms": this.detector.text(0, " ms"),
      "lifter-ms": this.#lifter.text(0, " ms"),
      "refiner-ms": this.#refiner.text(0, " ms"),
      "latency-ms": this.#latency.text(0, " ms"),
      missed: String(missed),
    };
    for (const [id, text] of Object.entries(texts)) element(id, HTMLElement).textContent = text;
  }
}

/** Save the log as a file. */
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(log)], { type: "application/json" }));
  link.download = "refined.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

/** @param {File} file */
function openVideo(file) {
  ask((wanted) => run(() => openFile(video, URL.createObjectURL(file)), settings.all.checked, wanted));
}

buttons.camera.addEventListener("click", () => ask((wanted) => run(() => openCamera(video), false, wanted)));
buttons.file.addEventListener("change", () => {
  const file = buttons.file.files?.[0];
  if (file !== undefined) openVideo(file);
  buttons.file.value = "";
});
buttons.stop.addEventListener("click", () => stopRunning?.());
buttons.save.addEventListener("click", save);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file !== undefined) openVideo(file);
});
settings.focalUnit.addEventListener("change", () => {
  const usual = { "35mm": "26", degrees: "70", pixels: "1000", unknown: "" }[settings.focalUnit.value];
  settings.focal.hidden = settings.focalUnit.value === "unknown";
  settings.focal.value = usual ?? "";
});
for (const setting of [settings.engine, settings.place]) {
  setting.addEventListener("change", () => ask(loadModels));
}
ask(loadModels);
