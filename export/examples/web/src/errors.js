/** Errors of the live path. Each message names the wrong value, the expected value and the remedy. */

/** Something is wrong with a frame or a lens. The stream goes on as if the frame had not come. */
export class InputError extends Error {
  name = "InputError";
}

/** The values are in another unit than the one expected. */
export class UnitError extends InputError {
  name = "UnitError";
}

/** A model file cannot be used. */
export class ModelError extends Error {
  name = "ModelError";
}
