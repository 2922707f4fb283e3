/** Human3.6M's 17 joints, and the conversion of MediaPipe's 33 landmarks to them; the same as refiner/skeleton.py. */

import { InputError } from "./errors.js";

export const JOINTS = 17;
/** The parent of each joint; the root, joint 0, has parent -1. */
export const PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15];
/** `LEFT[i]` is the mirror image of `RIGHT[i]`. */
export const LEFT = [4, 5, 6, 11, 12, 13];
export const RIGHT = [1, 2, 3, 14, 15, 16];
/** The pair (parent, joint) of every joint except the root. */
export const BONES = PARENTS.map((parent, joint) => [parent, joint]).slice(1);
/** The joint order of a mirrored pose. */
export const FLIP_ORDER = PARENTS.map((_, joint) => {
  if (LEFT.includes(joint)) return RIGHT[LEFT.indexOf(joint)];
  return RIGHT.includes(joint) ? LEFT[RIGHT.indexOf(joint)] : joint;
});

/**
 * How each of the 17 joints is computed: pairs of (joint of the source, weight), whose weights sum to 1.
 * @typedef {ReadonlyArray<ReadonlyArray<readonly [number, number]>>} Recipe
 */

// The height of the crown above the ears, divided by the height of the ears above the shoulders (refiner/skeleton.py).
const CROWN = 0.6;
const HIPS = [23, 24];
const SHOULDERS = [11, 12];
const EARS = [7, 8];

/** @param {number[]} joints @returns {[number, number][]} */
const mean = (...joints) => joints.map((joint) => [joint, 1 / joints.length]);
/** @param {number[]} joints @returns {[number, number][][]} */
const same = (...joints) => joints.map((joint) => [[joint, 1]]);

/** @type {Recipe} */
const FROM_MEDIAPIPE = [
  mean(...HIPS),
  ...same(24, 26, 28, 23, 25, 27),
  mean(...SHOULDERS, ...HIPS), // Spine: half-way between Hip and Thorax
  mean(...SHOULDERS),
  ...same(0),
  [
    ...EARS.map((ear) => /** @type {[number, number]} */ ([ear, (1 + CROWN) / 2])),
    ...SHOULDERS.map((shoulder) => /** @type {[number, number]} */ ([shoulder, -CROWN / 2])),
  ],
  ...same(11, 13, 15, 12, 14, 16),
];

/**
 * A joint set that the live path takes.
 * @typedef {{name: string, joints: number, recipe: Recipe}} JointSet
 */

/** @type {Readonly<Record<string, JointSet>>} */
const JOINT_SETS = {
  h36m17: { name: "h36m17", joints: JOINTS, recipe: same(...PARENTS.keys()) },
  mediapipe33: { name: "mediapipe33", joints: 33, recipe: FROM_MEDIAPIPE },
};

/**
 * The joint set with this name.
 * @param {string} name
 * @returns {JointSet}
 */
export function jointSet(name) {
  if (!Object.hasOwn(JOINT_SETS, name)) {
    throw new InputError(`there is no joint set '${name}'; choose among ${Object.keys(JOINT_SETS).join(", ")}`);
  }
  return JOINT_SETS[name];
}

/**
 * Convert a pose to the 17 joints. A NaN reaches only the joints that are computed from it.
 * @param {Float64Array} pose x and y of each joint, one after the other
 * @param {JointSet} source the joint set of `pose`
 * @returns {Float64Array} x and y of the 17 joints
 */
export function toH36m17(pose, source) {
  const result = new Float64Array(JOINTS * 2);
  source.recipe.forEach((terms, joint) => {
    for (let axis = 0; axis < 2; axis++) {
      let value = terms[0][1] * pose[terms[0][0] * 2 + axis];
      for (const [other, weight] of terms.slice(1)) value += weight * pose[other * 2 + axis];
      result[joint * 2 + axis] = value;
    }
  });
  return result;
}

/**
 * Convert the confidence of each joint to the 17 joints: the lowest of the joints that a joint is computed from.
 * @param {Float64Array} confidence
 * @param {JointSet} source the joint set of `confidence`
 * @returns {Float64Array}
 */
export function confidenceToH36m17(confidence, source) {
  return Float64Array.from(source.recipe, (terms) => Math.min(...terms.map(([joint]) => confidence[joint])));
}
