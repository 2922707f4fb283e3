/** The manifest that refiner-export writes into the metadata of an ONNX graph. */

import { ModelError } from "./errors.js";

// The field of ONNX's ModelProto with the metadata, and the key of the manifest there.
const METADATA_FIELD = 14;
const METADATA_KEY = "refiner";
const SCHEMA = 2;
/** Wire types of protocol buffers: a number in 7-bit groups, 8 bytes, bytes with their length, 4 bytes. */
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

/**
 * What the live path uses of a manifest; docs/deploy.md describes the whole.
 * @typedef {object} Manifest
 * @property {number} schema
 * @property {string} kind
 * @property {number} frames
 * @property {number} stride
 * @property {number} fps
 * @property {{min: number, max: number}} batch
 * @property {Record<string, {shape: (string | number)[]}>} inputs
 * @property {{form: string, layout: StateLayout}} [state]
 * @property {object} [uncertainty]
 *
 * The layout of a causal refiner's state; refiner/causal_state.py explains it.
 * @typedef {{streams: number, frames: number, steps: number, modules: number, heads: number, width: number,
 *   pipelined: boolean, joints: number, rays: boolean}} StateLayout
 */

/**
 * Read the manifest of a graph.
 * @param {Uint8Array} graph the bytes of the ONNX file
 * @param {string} name of the file, for messages
 * @returns {Manifest}
 */
export function readManifest(graph, name) {
  let text;
  try {
    for (const entry of fields(graph, METADATA_FIELD)) {
      const [key, value] = [1, 2].map((field) => new TextDecoder().decode(fields(entry, field)[0]));
      if (key === METADATA_KEY) text = value;
    }
  } catch (error) {
    if (error instanceof RangeError) throw new ModelError(`${name} is no ONNX graph, or truncated`);
    throw error;
  }
  if (text === undefined) {
    throw new ModelError(`${name} carries no manifest of refiner; expected a graph that refiner-export wrote`);
  }
  const manifest = JSON.parse(text);
  if (manifest.schema !== SCHEMA) {
    throw new ModelError(`the manifest of ${name} has the schema ${manifest.schema}; this page reads ${SCHEMA}`);
  }
  return manifest;
}

/**
 * The contents of all fields with a number, which hold bytes, in a message of protocol buffers.
 * @param {Uint8Array} message
 * @param {number} wanted
 * @returns {Uint8Array[]}
 */
function fields(message, wanted) {
  const found = [];
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= message.length || factor > 2 ** 63) throw new RangeError("a number has no end");
      const byte = message[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const tag = varint();
    const [field, type] = [Math.floor(tag / 8), tag % 8];
    if (type === VARINT) varint();
    else if (type === FIXED64) at += 8;
    else if (type === FIXED32) at += 4;
    else if (type === BYTES) {
      const length = varint();
      if (at + length > message.length) throw new RangeError("a field has no end");
      if (field === wanted) found.push(message.subarray(at, at + length));
      at += length;
    } else throw new RangeError(`wire type ${type}`);
  }
  return found;
}
