"""The metrics, losses, cameras and windows of the authors' code beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refiner.camera import human36m_cameras, normalise_screen
from refiner.data.windows import tds_phases
from refiner.evaluation.metrics import mpjpe, mpjve, n_mpjpe, p_mpjpe
from refiner.skeleton import MPI_INF_3DHP, flip_pose, from_h36m17, to_h36m17
from refiner.training.config import LossConfig
from refiner.training.losses import MIXSTE_JOINT_WEIGHTS, lifter_loss
from studies.published.checkouts import checkout
from studies.published.comparison import Comparison, compare

Array = NDArray[np.float64]
# Poses of a metre's size with errors of some centimetres, and errors as large as the poses.
ERRORS_M = (0.03, 0.5)
COINCIDENT = "poses whose joints coincide have no scale: the published code divides by 0, ours aligns the centroids"


def compare_metrics(group: str, folder: str, module: str, seed: int = 0) -> Iterator[Comparison]:
    """MPJPE, P-MPJPE, N-MPJPE and MPJVE of one repository on random sequences."""
    with checkout(folder) as load:
        theirs = load(module)
    for number, error in enumerate(ERRORS_M):
        rng = np.random.default_rng([seed, number])
        target = rng.normal(0.0, 0.4, (40, 17, 3))
        found = target + rng.normal(0.0, error, target.shape)
        told = f"errors of {error:g} m"
        stacked = torch.from_numpy(found)[None], torch.from_numpy(target)[None]
        position = getattr(theirs, "mpjpe", None) or theirs.mpjpe_cal
        yield compare(group, f"MPJPE, {told}", position(*stacked), mpjpe(found, target).mean())
        aligned = np.mean(theirs.p_mpjpe(found.copy(), target.copy()))
        yield compare(group, f"P-MPJPE, {told}", aligned, p_mpjpe(found, target).mean())
        mirrored = found * np.array([-1.0, 1.0, 1.0])
        aligned = np.mean(theirs.p_mpjpe(mirrored.copy(), target.copy()))
        yield compare(group, f"P-MPJPE of mirror images, {told}", aligned, p_mpjpe(mirrored, target).mean())
        if hasattr(theirs, "n_mpjpe"):
            yield compare(group, f"N-MPJPE, {told}", theirs.n_mpjpe(*stacked), n_mpjpe(found, target).mean())
            velocity = theirs.mean_velocity_error(found, target)
            yield compare(group, f"MPJVE, {told}", velocity, mpjve(found, target).mean())
    with np.errstate(invalid="ignore", divide="ignore"):
        try:
            degenerate = float(np.mean(theirs.p_mpjpe(np.zeros((1, 17, 3)), target[:1].copy())))
        except np.linalg.LinAlgError:  # of the singular values of NaN
            degenerate = float("nan")
    ours = p_mpjpe(np.zeros((1, 17, 3)), target[:1]).mean()
    yield compare(group, "P-MPJPE of coincident joints", degenerate, ours, COINCIDENT)


def compare_mixste_loss(folder: str, seed: int = 0) -> Iterator[Comparison]:
    """MixSTE's weighted distance, and its term for velocity."""
    with checkout(folder) as load:
        theirs = load("common.loss")
    rng = np.random.default_rng(seed)
    target, found = (torch.from_numpy(rng.normal(0, 0.4, (2, 9, 17, 3))) for _ in range(2))
    weights = torch.tensor(MIXSTE_JOINT_WEIGHTS, dtype=torch.float64)
    weighted = theirs.weighted_mpjpe(found, target, weights)
    yield compare("MixSTE", "weighted distance", weighted, lifter_loss(found, target, LossConfig("mixste"), "zeroed"))
    velocity = theirs.mean_velocity_error_train(found, target, axis=1)
    both = lifter_loss(found, target, LossConfig("mixste", velocity=2.0), "zeroed")
    yield compare("MixSTE", "weighted distance and velocity", weighted + 2.0 * velocity, both)


def compare_cameras(folder: str, seed: int = 0) -> Iterator[Comparison]:
    """The projection with Human3.6M's lenses, and image coordinates."""
    with checkout(folder) as load:
        theirs = load("common.camera")
    rng = np.random.default_rng(seed)
    points = rng.normal(0.0, 0.5, (20, 17, 3)) + np.array([0.0, 0.0, 4.5])
    for number, camera in enumerate(human36m_cameras()):
        width, height = camera.image_size
        # The published code works in image coordinates: the focal length and the principal point are in these units.
        focal = camera.focal_length / width * 2
        centre = camera.center / width * 2 - np.array([1.0, height / width])
        intrinsic = np.concatenate([focal, centre, camera.radial, camera.tangential])
        rows = torch.from_numpy(np.repeat(intrinsic[None], len(points), axis=0))
        projected = theirs.project_to_2d(torch.from_numpy(points), rows)
        ours = normalise_screen(camera.project(points), (width, height))
        yield compare("D3DP", f"projection by camera {number} of Human3.6M", projected, ours)
    pixels = rng.uniform(0, 1000, (20, 17, 2))
    for width, height in ((1000, 1002), (1920, 1080), (2048, 2048)):
        screen = theirs.normalize_screen_coordinates(pixels, w=width, h=height)
        yield compare(
            "D3DP", f"image coordinates, {width} x {height}", screen, normalise_screen(pixels, (width, height))
        )


def compare_windows(folder: str, seed: int = 0) -> Iterator[Comparison]:
    """STCFormer's temporal downsampling: the window of a frame is a part of its phase of the sequence."""
    rng = np.random.default_rng(seed)
    sequence = {("S1", "Walking", 0): rng.normal(size=(300, 17, 2))}
    poses = {("S1", "Walking", 0): rng.normal(size=(300, 17, 3))}
    with checkout(folder) as load:
        generator = load("common.generator_tds").ChunkedGenerator
    for frames, stride in ((27, 3), (81, 3), (81, 2)):
        pad = (frames - 1) // 2
        made = generator(1, None, poses, sequence, pad=pad, out_all=True, tds=stride)
        for frame in (pad * stride, 150, 299 - pad * stride):
            if not pad * stride <= frame <= 299 - pad * stride:
                continue
            _, pose_3d, pose_2d, *_ = made.get_batch(("S1", "Walking", 0), frame, frame + 1, False, False)
            rows = tds_phases(300, stride)[frame % stride]
            middle = frame // stride
            window = rows[middle - pad : middle + pad + 1]
            key = ("S1", "Walking", 0)
            name = f"window of {frames} frames at a stride of {stride}, frame {frame}"
            yield compare("STCFormer", f"{name}: 2D", pose_2d, sequence[key][window])
            yield compare("STCFormer", f"{name}: 3D", pose_3d, poses[key][window])


def compare_joints(seed: int = 0) -> Iterator[Comparison]:
    """The pairs that the evaluation of MPI-INF-3DHP mirrors, beside those of our joint sets."""
    left, right = [5, 6, 7, 11, 12, 13], [2, 3, 4, 8, 9, 10]
    pose = np.random.default_rng(seed).normal(size=(4, 17, 3))
    theirs = pose.copy()
    theirs[..., 0] *= -1
    theirs[:, left + right] = theirs[:, right + left]
    ours: Any = from_h36m17(flip_pose(np.asarray(to_h36m17(pose, MPI_INF_3DHP))), MPI_INF_3DHP)
    yield compare("D3DP", "mirror image of MPI-INF-3DHP's joints", theirs, ours)
