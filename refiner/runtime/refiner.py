"""Refiner: 3D pose sequences to better ones."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.camera import Camera, normalise_screen
from refiner.data.inputs import check_fps, check_lengths, check_pose_3d
from refiner.data.resample import resample_back, resample_poses
from refiner.data.swaps import exchange_sides, find_swapped_sides, warn_of_swapped_sides
from refiner.diffusion.familiarity import Familiarity
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.engines import EngineOptions
from refiner.errors import InputWarning, UsageError
from refiner.runtime.engine import RefinerEngine
from refiner.runtime.loading import open_engine
from refiner.runtime.stitching import DEFAULT_BATCH, mirror_pixels, run_causal, run_strided
from refiner.runtime.window_model import WindowModel
from refiner.shape import check_bone_lengths, pool_checked
from refiner.skeleton import flip_pose, joint_set, to_h36m17
from refiner.smoothing import savitzky_golay


class Refiner(WindowModel[RefinerEngine]):
    """A refiner over sequences of any length. Make one with `load`.

    A causal checkpoint runs over the whole sequence in one pass, whose every frame is what a stream would have given
    at that time.

    Args:
        engine: what runs its windows.
        flip_test: average with the mirrored pass, at twice the cost.
        pool_shape: give all frames of a sequence, which must be of one person, the same bones (`refiner.shape`): the
            sequence's own, or ``(17,)`` metres: `refiner.shape.pooled_lengths` of more that is known of that person.
        smoothing: put a Savitzky-Golay filter behind the refiner (`refiner.smoothing`), which sees later frames too.
        hop: frames from one window to the next; half a window by default. Raises UsageError outside of 1 to
            the window's length.
        batch: windows that run at a time.
    """

    def __init__(
        self,
        engine: RefinerEngine,
        hop: int | None = None,
        batch: int = DEFAULT_BATCH,
        flip_test: bool = False,
        pool_shape: bool | ArrayLike | None = False,
        smoothing: bool = False,
    ) -> None:
        if engine.reach is not None and hop is not None:
            raise UsageError("a causal refiner takes whole sequences, not windows; leave hop out")
        super().__init__(engine, hop, batch)
        self.flip_test, self.smoothing = flip_test, smoothing
        if pool_shape is None or isinstance(pool_shape, (bool, np.bool_)):
            self.pool_shape, self._bone_lengths = bool(pool_shape), None
        else:
            self.pool_shape, self._bone_lengths = True, check_bone_lengths(pool_shape)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        steps: int | None = None,
        threads: int | None = None,
        hop: int | None = None,
        device: str | None = None,
        flip_test: bool = False,
        goal: str = "latency",
        pool_shape: bool | ArrayLike | None = False,
        smoothing: bool = False,
    ) -> Refiner:
        """Load a checkpoint or an artefact of refiner-export; without a path the bundled refiner.

        ``engine`` is by default what the file is for ("torch-compile" instead of "torch" compiles a checkpoint);
        ``steps`` is K instead of the checkpoint's; ``threads`` the engine's; ``device`` "cpu" or "cuda";
        ``flip_test`` averages with the mirrored pass; ``goal`` is "latency" or "throughput", where the engine can be
        tuned for either; ``pool_shape`` gives all frames the same bones and ``smoothing`` smooths them (see the
        class). Raises CheckpointError, ArtefactError, UsageError, MissingComponentError, and InputError for what are no
        bone lengths.
        """
        opened = open_engine(path, "refiner", EngineOptions(engine, steps, threads, device, goal))
        return cls(opened, hop, flip_test=flip_test, pool_shape=pool_shape, smoothing=smoothing)

    @property
    def steps(self) -> int:
        """K, the denoising steps."""
        steps = self._engine.steps
        if steps is None:
            raise UsageError("this refiner has no denoising steps")
        return steps

    @property
    def uncertainty(self) -> JointUncertainty | None:
        """How a stream tells each joint's standard deviation; None where the model was not calibrated."""
        return self._engine.uncertainty

    def refine(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: tuple[float, float],
        fps: float | None = None,
        joints: str = "h36m17",
        *,
        confidence: ArrayLike | None = None,
        focal_length: Any = None,
        camera: Camera | None = None,
    ) -> NDArray[np.float32]:
        """``(F, J, 2)`` pixels and ``(F, J, 3)`` metres in camera axes -> refined ``(F, 17, 3)`` metres.

        The root (mid-hip) of ``pose_3d`` may lie anywhere and is kept. ``image_size`` is (width, height) in
        pixels; ``fps`` the frame rate where it is not the model's; ``joints`` the joint set of both inputs, the
        result is in Human3.6M's. ``confidence``, ``focal_length`` and ``camera`` are those of `refiner.Lifter.lift`.
        The inputs are not changed. Raises an InputError that says what is wrong with them, UsageError for an unknown
        joint set or frame rate.
        """
        lens = (confidence, focal_length, camera)
        pixels, body, root, size, rate = self._prepare(pose_2d, pose_3d, image_size, fps, joints, *lens)

        refined = self._windows(pixels, body, size)
        if self.flip_test:
            turned = self._windows(mirror_pixels(pixels, float(size[0])), flip_pose(body), size)
            refined = (refined + flip_pose(turned)) * np.float32(0.5)
        refined = resample_back(refined, self.fps, rate, len(root))
        refined[:, 0] = 0.0
        if self.smoothing:
            refined = savitzky_golay(refined, rate).astype(np.float32)
        if self.pool_shape:
            refined = pool_checked(refined, self._bone_lengths)
        kept: NDArray[np.float32] = refined + root
        return kept

    def _windows(
        self, pixels: NDArray[np.float32], body: NDArray[np.float32], size: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        def model(windows_2d: NDArray[np.float32], windows_3d: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._engine(windows_2d, windows_3d, np.tile(size, (len(windows_2d), 1)))

        if self._engine.reach is not None:
            return run_causal(model, (pixels, body), self._engine.reach)
        least = self._engine.least_batch
        return run_strided(model, (pixels, body), self.frames, self.hop, self.batch, least, self.stride, body)

    def compare_input(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: tuple[float, float],
        fps: float | None = None,
        joints: str = "h36m17",
        *,
        confidence: ArrayLike | None = None,
        focal_length: Any = None,
        camera: Camera | None = None,
    ) -> Familiarity | None:
        """Whether poses look like those that the refiner was trained on; the arguments of `refine`, no ground truth.

        Of a model that sees rays the frames are compared in which every joint was seen, and the shaking is not. None
        where the model does not say what those looked like (an exported graph) and where no frame is whole. Raises as
        `refine`, whose warnings it does not repeat.
        """
        inputs = self._engine.inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            lens = (confidence, focal_length, camera)
            pixels, body, _, size, _ = self._prepare(pose_2d, pose_3d, image_size, fps, joints, *lens)
        if inputs is None:
            return None
        if not self.sees_rays:
            return inputs.compare(normalise_screen(pixels, size), body)
        from refiner.models.canonical import canonical_arrays

        whole = (pixels[..., 2] > 0).all(axis=-1)
        if not whole.any():
            return None
        rays, turned = canonical_arrays(pixels, body, size)
        return inputs.compare(rays[whole], turned[whole], shaking=False)

    def _prepare(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: tuple[float, float],
        fps: float | None,
        joints: str,
        confidence: ArrayLike | None,
        focal_length: Any,
        camera: Camera | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], float]:
        """Checked and in the model's joints and frame rate: what is seen in 2D, root-relative metres; the root in the
        input's rate, the image's size (and focal length), the input's rate."""
        rate = check_fps(fps, self.fps)
        seen, size = self._seen(pose_2d, image_size, joints, confidence, focal_length, camera)
        given_3d = check_pose_3d(pose_3d, joint_set(joints))
        check_lengths(seen, given_3d)
        metres = to_h36m17(given_3d, joints)
        root = metres[:, :1]
        body = metres - root
        if self.sees_rays:
            # A model of screen coordinates runs as it always did.
            for swapped, pairs in find_swapped_sides(body.astype(np.float64), np.zeros(body.shape[:2], dtype=bool)):
                body = exchange_sides(body, swapped, pairs)
                warn_of_swapped_sides(swapped, "pose_3d")
        pixels = self._resampled(seen, rate)
        return pixels, resample_poses(body, rate, self.fps), root, size, rate
