/** Tests that need neither Python nor a browser. The comparison with Python is tests/export/test_web_example.py. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { InputError, ModelError, UnitError } from "../src/errors.js";
import { FrameClock, roundHalfEven } from "../src/frame_clock.js";
import { Infilling, LEAST_JOINTS, observe } from "../src/intake.js";
import { checkLens, focalPixels } from "../src/lens.js";
import { Log } from "../src/log.js";
import { readManifest } from "../src/manifest.js";
import { LiveRefiner } from "../src/refiner.js";
import { OneEuro, RunningShape } from "../src/shape.js";
import { BONES, FLIP_ORDER, JOINTS, jointSet, toH36m17 } from "../src/skeleton.js";
import { inWords } from "../src/status.js";
import { LIFTER, REFINER, graph, loadModels } from "./models.js";

const LENS = checkLens(1920, 1080, 1450);
const H36M = jointSet("h36m17");
const MEDIAPIPE = jointSet("mediapipe33");

/** A standing person in pixels. @param {number} [right] how far to the right */
function person(right = 0) {
  const flat = [0, -40, -42, -44, 40, 42, 44, 0, 0, 0, 0, 50, 60, 65, -50, -60, -65];
  const down = [0, 0, 130, 260, 0, 130, 260, -70, -150, -175, -210, -135, -50, 25, -135, -50, 25];
  return flat.map((x, joint) => [960 + right + x, 540 + down[joint]]);
}

test("every joint of MediaPipe's recipe keeps its place under a shift, and sides stay sides", () => {
  const pose = Float64Array.from({ length: 66 }, (_, at) => 10 * Math.sin(at));
  const moved = pose.map((value, at) => value + (at % 2 ? -7 : 5));
  const [before, after] = [toH36m17(pose, MEDIAPIPE), toH36m17(moved, MEDIAPIPE)];
  after.forEach((value, at) => assert.ok(Math.abs(value - before[at] - (at % 2 ? -7 : 5)) < 1e-9, `value ${at}`));
  // Landmark 24 is MediaPipe's right hip, joint 1 Human3.6M's.
  assert.deepEqual([...after.subarray(2, 4)], [...moved.subarray(48, 50)]);
  assert.deepEqual(FLIP_ORDER.map((joint) => FLIP_ORDER[joint]), [...FLIP_ORDER.keys()]);
});

test("a missing landmark reaches only the joints that are computed from it", () => {
  const pose2d = Array.from({ length: 33 }, (_, joint) => [100 + joint, 200 + joint]);
  pose2d[7] = [0, 0]; // the left ear, which only the head needs
  const seen = observe(pose2d, null, LENS, MEDIAPIPE);
  const missing = Array.from({ length: JOINTS }, (_, joint) => Number.isNaN(seen.pixels[2 * joint]));
  assert.deepEqual(missing.flatMap((gone, joint) => (gone ? [joint] : [])), [10]);
  assert.equal(seen.confidence[10], 0);
});

for (const [name, mark] of /** @type {[string, (number | null)[]][]} */ ([
  ["null", [null, 5]],
  ["NaN", [NaN, 5]],
  ["infinite", [5, Infinity]],
  ["zeros", [0, 0]],
  ["minus ones", [-1, -1]],
  ["far outside", [1e6, 5]],
])) {
  test(`a joint is missing where it is ${name}`, () => {
    const pose2d = [mark, ...person().slice(1)];
    const seen = observe(pose2d, null, LENS, H36M);
    const complete = new Infilling().complete(seen);
    assert.deepEqual(complete?.infilled, [true, ...Array(16).fill(false)]);
    assert.equal(complete?.keypoints[2], 0);
    assert.ok(complete?.keypoints.every(Number.isFinite));
  });
}

test("frames that cannot be right are refused by name", () => {
  const shares = person().map(([x, y]) => [x / 1920, y / 1080]);
  assert.throws(() => observe(shares, null, LENS, H36M), { name: "UnitError", message: /shares of the image/ });
  assert.throws(() => observe(person().slice(1), null, LENS, H36M), { name: "InputError", message: /16 joints/ });
  assert.throws(() => observe(person(), [1], LENS, H36M), { name: "InputError", message: /1 values; expected 17/ });
  const words = /** @type {any} */ (person().map(() => ["1", "2"]));
  assert.throws(() => observe(words, null, LENS, H36M), InputError);
  assert.throws(() => jointSet("toString"), { message: /there is no joint set 'toString'/ });
});

test("missing joints move as the others do, and too few joints give no frame", () => {
  const infilling = new Infilling();
  infilling.complete(observe(person(), null, LENS, H36M));
  const confidence = Array(JOINTS).fill(1).fill(0, 3, 4);
  const complete = infilling.complete(observe(person(30), confidence, LENS, H36M));
  assert.ok(Math.abs(/** @type {any} */ (complete).keypoints[9] - person(30)[3][0]) < 1e-9);
  const few = Array(JOINTS).fill(0).fill(1, 0, LEAST_JOINTS - 1);
  assert.equal(infilling.complete(observe(person(), few, LENS, H36M)), null);
});

test("missing joints of a first frame come from a standing body", () => {
  const visible = { 1: [-0.13, 0], 2: [-0.14, 0.44], 4: [0.13, 0], 5: [0.14, 0.44], 8: [0, -0.49], 11: [0.15, -0.44] };
  const pose2d = Array.from({ length: JOINTS }, () => /** @type {(number | null)[]} */ ([null, null]));
  for (const [joint, [x, y]] of Object.entries(visible)) pose2d[Number(joint)] = [900 + 300 * x, 600 + 300 * y];
  const complete = /** @type {any} */ (new Infilling().complete(observe(pose2d, null, LENS, H36M)));
  for (const [joint, x, y] of [[0, 0, 0], [6, 0.15, 0.86], [10, 0, -0.69], [13, 0.22, 0.07], [16, -0.22, 0.07]]) {
    const [found, expected] = [complete.keypoints.subarray(3 * joint, 3 * joint + 2), [900 + 300 * x, 600 + 300 * y]];
    expected.forEach((value, axis) => assert.ok(Math.abs(found[axis] - value) < 1e-6, `joint ${joint}`));
  }
});

test("focal lengths are taken in every unit, and refused in the wrong one", () => {
  assert.equal(focalPixels("unknown", NaN, 1920, 1080), null);
  assert.equal(checkLens(1080, 1920).focalLength, 1920);
  assert.equal(focalPixels("35mm", 36, 1080, 1920), 1920);
  assert.ok(Math.abs(Number(focalPixels("degrees", 90, 1920, 1080)) - 960) < 1e-9);
  assert.throws(() => checkLens(1920, 1080, 26), { name: "UnitError", message: /millimetres/ });
  assert.throws(() => checkLens(1920, 1080, 1e6), UnitError);
  assert.throws(() => checkLens(1920, 1080, NaN), InputError);
  assert.throws(() => focalPixels("degrees", 180, 1920, 1080), InputError);
  assert.throws(() => checkLens(4, 1080), InputError);
});

test("halves are rounded as in Python", () => {
  assert.deepEqual([0.5, 1.5, 2.5, -0.5, 1.2, 1.8].map(roundHalfEven), [0, 2, 2, 0, 1, 2]);
});

test("a camera at half the model's rate completes two model frames a picture", () => {
  const clock = new FrameClock(50, 0.5);
  const completed = Array.from({ length: 5 }, (_, frame) => clock.arrive(frame / 25).completed.length);
  assert.deepEqual(completed, [1, 2, 2, 2, 2]);
  const verdicts = [0.16, 0.1, 0.18, 0.8].map((time) => clock.verdict(time));
  assert.deepEqual(verdicts, ["repeated", "late", "in order", "restart"]);
});

test("bones get one length, left and right the same", () => {
  const shape = new RunningShape();
  const pose = Float32Array.from({ length: 3 * JOINTS }, (_, at) => 0.2 * Math.sin(at * at));
  const pooled = shape.apply(pose);
  /** @param {Float32Array} of @param {number[]} bone */
  const length = (of, [parent, joint]) =>
    Math.hypot(...[0, 1, 2].map((axis) => of[3 * joint + axis] - of[3 * parent + axis]));
  const lengths = BONES.map((bone) => length(pooled, bone));
  BONES.forEach(([, joint], at) => {
    const mirrored = BONES.findIndex(([, other]) => other === FLIP_ORDER[joint]);
    const mean = (length(pose, BONES[at]) + length(pose, BONES[mirrored])) / 2;
    assert.ok(Math.abs(lengths[at] - mean) < 0.001, `joint ${joint}`);
  });
});

test("the filter calms a joint at rest and follows a fast one", () => {
  const filter = new OneEuro(50);
  const noise = Array.from({ length: 100 }, (_, frame) => filter.apply(Float32Array.of(frame % 2 ? 0.005 : -0.005))[0]);
  assert.ok(Math.abs(noise[99]) < 0.004);
  const fast = new OneEuro(50);
  const follows = Array.from({ length: 50 }, (_, frame) => fast.apply(Float32Array.of(0.1 * frame))[0]);
  assert.ok(Math.abs(follows[49] - 4.9) < 0.1);
});

test("a manifest is read from a graph, and other files are refused", async () => {
  const bytes = await graph(LIFTER);
  assert.equal(readManifest(bytes, LIFTER).kind, "lifter");
  assert.equal(readManifest(await graph(REFINER), REFINER).state?.layout.streams, 1);
  assert.throws(() => readManifest(bytes.subarray(0, bytes.length - 1000), LIFTER), ModelError);
  assert.throws(() => readManifest(new TextEncoder().encode("<!doctype html>"), "page"), ModelError);
  assert.throws(() => readManifest(new Uint8Array(), "nothing"), { message: /no manifest/ });
});

test("a stream goes on after a refused frame, begins anew after a gap, and keeps the last pose", async () => {
  const [lifter, refiner] = await loadModels();
  const stream = new LiveRefiner(lifter, refiner, LENS);
  const frame = { pose2d: person(), confidence: null, timestamp: 0 };
  const [first] = await stream.push(frame);
  assert.equal(first.status, "warm-up");
  await assert.rejects(stream.push({ ...frame, timestamp: NaN }), InputError);
  const [second] = await stream.push({ ...frame, timestamp: 0.02 });
  const few = Array(JOINTS).fill(0);
  const [invalid] = await stream.push({ ...frame, confidence: few, timestamp: 0.04 });
  assert.equal(invalid.status, "invalid");
  assert.deepEqual(invalid.pose3d, second.pose3d);
  const [again] = await stream.push({ ...frame, timestamp: 9 });
  assert.equal(again.status, "warm-up");
  assert.deepEqual(again.pose3d, first.pose3d);
  // The hips are the root, and a person has the height of one.
  assert.deepEqual([...again.pose3d.subarray(0, 3)], [0, 0, 0]);
  assert.ok(again.pose3d[3 * 3 + 1] - again.pose3d[3 * 10 + 1] > 1.2);
});

test("the log drops its oldest frames, and says so", () => {
  const log = new Log(LENS, { joints: "h36m17" });
  const refined = { pose3d: new Float32Array(51), given3d: new Float32Array(51), infilled: [], reasons: [] };
  for (let at = 0; at < 18_002; at++) {
    log.add({ pose2d: [[1, 2]], confidence: null, timestamp: at }, [{ ...refined, timestamp: at, status: "ok" }]);
  }
  const saved = log.toJSON();
  assert.deepEqual([saved.dropped, saved.frames.length, saved.refined.length], [2, 18_000, 18_000]);
  assert.deepEqual([saved.frames[0].timestamp, saved.refined[0].timestamp], [2, 2]);
});

test("a frame says why it is not ok", async () => {
  const [lifter, refiner] = await loadModels();
  const stream = new LiveRefiner(lifter, refiner, checkLens(1920, 1080));
  const [first] = await stream.push({ pose2d: person(), confidence: null, timestamp: 0 });
  assert.deepEqual(first.reasons, ["lens assumed", "warm-up"]);
  const [outside] = await stream.push({ pose2d: person(-3000), confidence: null, timestamp: 0.15 });
  assert.equal(outside.status, "degraded");
  assert.ok(outside.reasons.includes("outside the image"));
});

test("every state has its words", () => {
  assert.equal(inWords("degraded", ["resampled", "gap", "guessed joints"]), "degraded: gap, guessed joints");
  const states = /** @type {const} */ (["idle", "nobody", "ok", "warm-up", "invalid", "degraded"]);
  assert.equal(new Set(states.map((state) => inWords(state))).size, states.length);
});

test("the lines of README for a page of one's own run", async () => {
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const [, lines] = /** @type {RegExpMatchArray} */ (readme.match(/^```js\n(.*?)^```$/ms));
  const code = lines
    .replace('"onnxruntime-web/wasm"', JSON.stringify(import.meta.resolve("onnxruntime-web/wasm")))
    .replaceAll('"./src/', `"${new URL("../src/", import.meta.url)}`);
  const given = {
    pose2d: Array.from({ length: 33 }, (_, joint) => [600 + 5 * joint, 100 + 15 * joint]),
    confidence: Array(33).fill(0.9),
    timestamp: 0,
    fetch: async (/** @type {string} */ file) => new Response(await graph(file.includes("lifter") ? LIFTER : REFINER)),
    console: { log: (/** @type {unknown[]} */ ...shown) => Object.assign(given, { shown }) },
  };
  Object.assign(globalThis, { given });
  const names = Object.keys(given).join(", ");
  await import(`data:text/javascript,${encodeURIComponent(`const { ${names} } = globalThis.given;\n${code}`)}`);
  const [status, pose] = /** @type {any} */ (given).shown;
  assert.equal(status, "warm-up");
  assert.ok(pose.length === 51 && pose.every(Number.isFinite));
});
