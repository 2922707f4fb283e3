/**
 * Puts the page into dist/: the sources, the runtimes of the packages, and the models. Any server of files serves it.
 *
 *     npm run build                      # the models of this checkout
 *     npm run build -- --models FOLDER   # those of an installed package (README.md)
 */

import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { readManifest } from "../src/manifest.js";

const HERE = new URL("../", import.meta.url);
const DIST = new URL("dist/", HERE);
const ORT = new URL("node_modules/onnxruntime-web/dist/", HERE);
const MEDIAPIPE = new URL("node_modules/@mediapipe/pose/", HERE);
const PACKAGES = ["@mediapipe/pose", "onnxruntime-web"];
// The models of `StreamingRefiner.load(lifter=True)`: refiner/bundled.py.
const MODELS = {
  "lifter.onnx": { name: "lifter-nano-rays.onnx", kind: "lifter" },
  "refiner.onnx": { name: "refiner-nano-rays-causal.onnx", kind: "causal-refiner" },
};
const RUNTIME = [
  "ort.wasm.bundle.min.mjs",
  "ort-wasm-simd-threaded.wasm",
  "ort-wasm-simd-threaded.mjs",
  "ort.webgpu.bundle.min.mjs",
  "ort-wasm-simd-threaded.asyncify.wasm",
  "ort-wasm-simd-threaded.asyncify.mjs",
];
const DETECTOR = [
  "pose.js",
  "pose_landmark_full.tflite",
  "pose_solution_packed_assets.data",
  "pose_solution_packed_assets_loader.js",
  "pose_solution_simd_wasm_bin.js",
  "pose_solution_simd_wasm_bin.wasm",
  "pose_solution_simd_wasm_bin.data",
  "pose_solution_wasm_bin.js",
  "pose_solution_wasm_bin.wasm",
  "pose_web.binarypb",
];

const { values } = parseArgs({ options: { models: { type: "string" } } });
const folder = values.models ?? fileURLToPath(new URL("../../../refiner/checkpoints", HERE));

await rm(DIST, { recursive: true, force: true });
for (const part of ["src", "ort", "mediapipe", "models"]) await mkdir(new URL(part, DIST), { recursive: true });
for (const part of ["index.html", "style.css", "src"]) {
  await cp(new URL(part, HERE), new URL(part, DIST), { recursive: true });
}
for (const file of RUNTIME) await cp(new URL(file, ORT), new URL(`ort/${file}`, DIST));
for (const file of DETECTOR) await cp(new URL(file, MEDIAPIPE), new URL(`mediapipe/${file}`, DIST));
for (const [target, { name, kind }] of Object.entries(MODELS)) {
  const graph = await readFile(`${folder}/${name}`);
  const manifest = readManifest(graph, name);
  if (manifest.kind !== kind) throw new Error(`${name} holds a ${manifest.kind}; expected a ${kind}`);
  await writeFile(new URL(`models/${target}`, DIST), graph);
}
const notices = PACKAGES.map(async (name) => {
  const { version, license } = JSON.parse(await readFile(new URL(`node_modules/${name}/package.json`, HERE), "utf8"));
  return `${name} ${version}: ${license}`;
});
await writeFile(new URL("NOTICES.txt", DIST), `This page contains:\n${(await Promise.all(notices)).join("\n")}\n`);
process.stdout.write(`${fileURLToPath(DIST)}: serve it with any server of files\n`);
