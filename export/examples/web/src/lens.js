/** The lens that a user states; the same limits as refiner/lens.py. */

import { InputError, UnitError } from "./errors.js";

// The accepted focal lengths, divided by the longer side of the image.
const SHORTEST_FOCAL = 0.25;
const LONGEST_FOCAL = 30;
const SMALLEST_IMAGE = 8;
const LARGEST_IMAGE = 100_000;
// The width of the picture of a camera for 35 mm film.
const FILM_MM = 36;

/**
 * The image's size and the focal length in pixels; `stated` tells whether the user stated the focal length.
 * @typedef {{width: number, height: number, focalLength: number, stated: boolean}} Lens
 */

/**
 * Check a lens.
 * @param {number} width pixels
 * @param {number} height pixels
 * @param {number | null} focalLength pixels; null takes the longer side of the image
 * @returns {Lens}
 */
export function checkLens(width, height, focalLength = null) {
  for (const size of [width, height]) {
    if (!(size >= SMALLEST_IMAGE && size <= LARGEST_IMAGE)) {
      throw new InputError(
        `the image has ${width} x ${height} pixels; expected ${SMALLEST_IMAGE} to ${LARGEST_IMAGE} on either side`,
      );
    }
  }
  const longer = Math.max(width, height);
  if (focalLength === null) return { width, height, focalLength: longer, stated: false };
  const expected =
    `expected ${Math.round(SHORTEST_FOCAL * longer)} to ${Math.round(LONGEST_FOCAL * longer)} pixels ` +
    `for an image of ${width} x ${height} pixels`;
  if (!(focalLength > 0 && Number.isFinite(focalLength))) {
    throw new InputError(`the focal length is ${focalLength}; ${expected}`);
  }
  if (focalLength < SHORTEST_FOCAL * longer) {
    throw new UnitError(`the focal length is ${focalLength}; ${expected}. Is it in millimetres?`);
  }
  if (focalLength > LONGEST_FOCAL * longer) {
    throw new UnitError(`the focal length is ${focalLength}; ${expected}. Is it for a larger image?`);
  }
  return { width, height, focalLength, stated: true };
}

/**
 * The focal length in pixels of what a user stated.
 * @param {"unknown" | "pixels" | "35mm" | "degrees"} unit "35mm" is the focal length that phones state, equivalent to
 *   that on 35 mm film; "degrees" the angle of view along the longer side
 * @param {number} value
 * @param {number} width pixels
 * @param {number} height pixels
 * @returns {number | null} null where it is unknown
 */
export function focalPixels(unit, value, width, height) {
  const longer = Math.max(width, height);
  if (unit === "unknown") return null;
  if (unit === "pixels") return value;
  if (unit === "35mm") return (value / FILM_MM) * longer;
  if (!(value > 0 && value < 180)) throw new InputError(`the angle of view is ${value}; expected degrees, 4 to 127`);
  return (0.5 * longer) / Math.tan((value * Math.PI) / 360);
}
