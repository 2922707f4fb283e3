/** The colours of the limbs, the same in both pictures: left and right, and the trunk. */

import { LEFT, RIGHT } from "./skeleton.js";

export const COLOURS = { left: "#2f7df6", right: "#f08a24", middle: "#8b98ab" };

/**
 * The colour of a joint, and of the bone that ends there.
 * @param {number} joint
 */
export function colourOf(joint) {
  if (LEFT.includes(joint)) return COLOURS.left;
  return RIGHT.includes(joint) ? COLOURS.right : COLOURS.middle;
}
