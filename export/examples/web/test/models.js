/** The models of the Python package in ONNX Runtime Web, for tests in Node. */

import { readFile } from "node:fs/promises";

import * as ort from "onnxruntime-web/wasm";

import { CausalRefiner, Lifter } from "../src/models.js";

export const FOLDER = new URL("../../../../refiner/checkpoints/", import.meta.url);
export const LIFTER = "lifter-nano-rays.onnx";
export const REFINER = "refiner-nano-rays-causal.onnx";

ort.env.wasm.numThreads = 1;

/** @param {string} name */
export async function graph(name) {
  return new Uint8Array(await readFile(new URL(name, FOLDER)));
}

/** @returns {Promise<[Lifter, CausalRefiner]>} */
export async function loadModels() {
  return [
    await Lifter.load(ort, await graph(LIFTER), LIFTER),
    await CausalRefiner.load(ort, await graph(REFINER), REFINER),
  ];
}
