/** Why a frame is not simply "ok"; the same as refiner/reasons.py, without the reasons of 3D poses that come with it. */

/** @typedef {"ok" | "warm-up" | "degraded" | "invalid"} Status */

/** From the best to the worst. @type {Status[]} */
const STATUSES = ["ok", "warm-up", "degraded", "invalid"];

/**
 * The status of a frame that has a reason alone, in the order of Python.
 * @type {ReadonlyMap<string, Status>}
 */
export const REASONS = new Map([
  ["lens assumed", "ok"],
  ["spread assumed", "ok"],
  ["resampled", "ok"],
  ["uneven time-stamps", "ok"],
  ["missed frame", "ok"],
  ["warm-up", "warm-up"],
  ["began anew", "warm-up"],
  ["guessed joints", "degraded"],
  ["after guessed joints", "degraded"],
  ["gap", "degraded"],
  ["after a gap", "degraded"],
  ["small in the image", "degraded"],
  ["outside the image", "degraded"],
  ["too few joints", "invalid"],
]);

/**
 * The worst status that one of the reasons means.
 * @param {Iterable<string>} reasons
 * @returns {Status}
 */
export function statusOf(reasons) {
  const worst = Array.from(reasons, (reason) => STATUSES.indexOf(/** @type {Status} */ (REASONS.get(reason))));
  return STATUSES[Math.max(0, ...worst)];
}
