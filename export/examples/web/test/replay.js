/**
 * Refines recorded streams of keypoints, for the comparison with Python.
 *
 *     node test/replay.js < streams.json > refined.json
 *
 * streams.json holds a list of {lens, options, frames}; frames are those of the log that the page saves.
 */

import { json } from "node:stream/consumers";

import { InputError } from "../src/errors.js";
import { checkLens } from "../src/lens.js";
import { frameOf, savedFrame } from "../src/log.js";
import { LiveRefiner } from "../src/refiner.js";
import { loadModels } from "./models.js";

const [lifter, refiner] = await loadModels();
const results = [];
const streams = /** @type {any[]} */ (await json(process.stdin));
for (const { image_size, focal_length, options, frames } of streams) {
  const stream = new LiveRefiner(lifter, refiner, checkLens(image_size[0], image_size[1], focal_length), options);
  const refined = [];
  let refused = 0;
  for (const frame of frames) {
    try {
      refined.push(...(await stream.push(frameOf(frame))).map(savedFrame));
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      refused += 1;
    }
  }
  results.push({ refined, refused });
}
process.stdout.write(JSON.stringify(results));
