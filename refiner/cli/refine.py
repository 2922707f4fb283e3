"""``refiner-refine``: refine a user's own pose sequences."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from refiner.cli.common import EXIT_CODES, JOINT_CHOICES, PRECISION_HELP, HelpFormatter, let_threads_wait, run, within
from refiner.cli.refine_archive import add_archive_options, refuse_archive_options
from refiner.cli.trajectory import add_trajectory_options, axes_text, place_arrays, placement_of
from refiner.ranges import FRAME_RATES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from refiner.runtime.report import RefinementReport
    from refiner.runtime.window_model import FocalLength, ImageSize

EXAMPLES = """\
examples:
  refiner-refine dance.mp4 --output people
  refiner-refine openpose/ --image-size 1920 1080 --fps 30 --output people
  refiner-refine results.json --image-size 1280 720 --fps 25 --person 0 --output people
  refiner-refine --pose-2d pose_2d.npy --pose-3d pose_3d.npy --image-size 1920 1080 --output refined.npy
  refiner-refine results.json --trajectory --person-height 1.78 --camera-pitch 12 --camera-height 1.5 --output people
  refiner-refine recordings/ --output refined --formats npz,trc
  refiner-refine data_2d_h36m_cpn.npz --image-size 1000 1000 --fps 50 --output refined
  refiner-refine --pose-2d coco.npy --joints coco17 --fps 30 --image-size 1280 720 --output lifted.npz

pose_2d is (frames, joints, 2) in pixels, pose_3d (frames, joints, 3) in metres and camera axes (x right, y down,
z away from the camera); the root may lie anywhere and is kept. Poses in the axes of a room are turned to those of the
camera, and the poses of MotionBERT's X3D.npy become metres with --height. Without --pose-3d the bundled lifter lifts
pose_2d. The result is (frames, 17, 3) in the joints of Human3.6M, in metres; NaN where nobody is seen for half a
second. An .npz also says which joints were guessed, and the status and its reasons for each frame.
With --trajectory the poses are in their place in front of the camera; an .npz then has `root` (frames, 3) too, and with
--camera-pitch `level_pose_3d`, level with the floor.

INPUT is a video, or what a detector wrote, recognised by its content: a folder of OpenPose's JSON files, results of
AlphaPose or COCO, COCO annotations, MMPose's predictions, MediaPipe's landmarks, or VideoPose3D's custom .npz. People
are told apart over time. Each one becomes personN.npz, personN.trc (markers, for OpenSim) and personN.bvh (a skeleton,
for Blender) in the folder OUTPUT; person 0 is seen in most frames. Frames that do not show a person for half a second
hold NaN. For a video, OUTPUT/overlay.mp4 shows the 2D skeletons in it and the refined 3D poses beside it.

An archive is an INPUT of many sequences: a folder of such files and of .npz files with pose_2d (and pose_3d,
confidence, fps, image_size, joints), an .npz in VideoPose3D's layout (--pose-3d names that of its 3D poses), or a
.parquet file. A folder of OpenPose's frames is one recording. Each sequence becomes NAME.npz in the folder OUTPUT.
OUTPUT/ledger.jsonl says what is done: the same command goes on where it was stopped, and does again what changed.
--fps, --image-size, --joints and --focal-length are for sequences whose files do not state them.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-refine``."""
    parser = argparse.ArgumentParser(
        prog="refiner-refine",
        description="Refine a sequence of 3D human poses.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "input", nargs="?", metavar="INPUT", help="a video, a detector's file, or an archive; or take --pose-2d"
    )
    parser.add_argument("--person", nargs="+", type=int, metavar="N", help="INPUT: these people alone, from 0")
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help="video: mediapipe, rtmlib, or MODULE:CLASS of your own (default: the one that is installed)",
    )
    parser.add_argument("--no-overlay", action="store_true", help="video: do not draw overlay.mp4")
    parser.add_argument("--name", metavar="VIDEO", help="INPUT: which video of a file that holds several")
    parser.add_argument("--pose-2d", metavar="FILE", help="2D poses, .npy or .npz")
    parser.add_argument("--pose-3d", metavar="FILE", help="3D poses to refine, .npy or .npz (default: lift the 2D)")
    parser.add_argument(
        "--height", type=float, metavar="M", help="of the person in metres, for 3D poses of the image (MotionBERT's)"
    )
    parser.add_argument("--key-2d", metavar="NAME", help="the array of an .npz of 2D poses that holds several")
    parser.add_argument("--key-3d", metavar="NAME", help="the array of an .npz of 3D poses that holds several")
    parser.add_argument(
        "--image-size", nargs=2, type=float, metavar=("W", "H"), help="size of the image in pixels, unless INPUT has it"
    )
    parser.add_argument(
        "--focal-length",
        nargs="+",
        type=float,
        metavar="F",
        help="of the lens in pixels, one number or horizontal and vertical (default: the image's longer side)",
    )
    parser.add_argument(
        "--confidence", metavar="FILE", help="the detector's confidence (frames, joints), .npy or .npz; 0: missing"
    )
    parser.add_argument("--fps", type=within(FRAME_RATES), help="frame rate of the input (default: the model's 50)")
    parser.add_argument(
        "--joints",
        choices=JOINT_CHOICES,
        help="joint set of the input (default: h36m17; of an archive: what its files say)",
    )
    parser.add_argument(
        "--joints-3d", choices=JOINT_CHOICES, help="joint set of the 3D poses, where it is not that of --joints"
    )
    parser.add_argument(
        "--least-confidence",
        type=float,
        default=0.0,
        metavar="C",
        help="a joint whose confidence is not above this is missing (default: 0)",
    )
    parser.add_argument(
        "--checkpoint", metavar="PATH", help="refiner checkpoint, .onnx or bundled name (default: the bundled one)"
    )
    parser.add_argument("--lifter", metavar="PATH", help="lifter checkpoint or .onnx (default: the bundled one)")
    parser.add_argument("--steps", type=int, metavar="K", help="denoising steps (default: the checkpoint's)")
    parser.add_argument("--precision", metavar="P", help=PRECISION_HELP)
    parser.add_argument(
        "--pool-shape", action="store_true", help="give all frames, which must show one person, the same bones"
    )
    parser.add_argument(
        "--smooth", action="store_true", help="also smooth the jitter from frame to frame (Savitzky-Golay)"
    )
    parser.add_argument(
        "--same-person",
        nargs="+",
        metavar="FILE",
        help="results of this command, without --pool-shape, for other recordings of the same person: this one gets "
        "the body shape of them all (they stay as they are)",
    )
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="file to write, .npy or .npz; for INPUT a folder"
    )
    parser.add_argument("--video", metavar="FILE", help="also draw both skeletons, .mp4 or .gif")
    add_trajectory_options(parser)
    add_archive_options(parser)
    parser.add_argument(
        "--json", metavar="FILE", help="also write what was guessed, assumed or found (status and reasons) as JSON"
    )
    return parser


class _SequenceOptions(TypedDict, total=False):
    """The arguments that `Lifter.lift`, `Refiner.refine` and `Refiner.compare_input` share."""

    image_size: ImageSize
    fps: float | None
    joints: str
    focal_length: FocalLength
    confidence: ArrayLike
    least_confidence: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int | None:
    let_threads_wait()
    if arguments.input is not None and arguments.pose_2d is None:
        from refiner.archive.listing import is_archive

        if is_archive(Path(arguments.input), arguments.name):
            from refiner.cli.refine_archive import refine_archive

            return refine_archive(arguments)
    refuse_archive_options(arguments)
    arguments.joints = arguments.joints or "h36m17"
    _refine_one(arguments)
    return None


def _refine_one(arguments: argparse.Namespace) -> None:
    """Refine one recording: a video, a detector's file, or arrays."""
    from refiner.cli.refine_detections import refine_detections
    from refiner.cli.refine_video import refine_video
    from refiner.errors import UsageError
    from refiner.video.content import is_meant_as_video

    if (arguments.input is None) == (arguments.pose_2d is None):
        raise UsageError("name either INPUT (a video, a detector's file) or --pose-2d FILE, and one of them alone")
    if arguments.input is not None and is_meant_as_video(arguments.input):
        refine_video(arguments)
    elif arguments.detector is not None or arguments.no_overlay:
        raise UsageError("--detector and --no-overlay belong to an INPUT that is a video")
    elif arguments.input is not None:
        refine_detections(arguments)
    elif arguments.person is not None or arguments.name is not None:
        raise UsageError("--person and --name choose from INPUT; an array has one person")
    elif arguments.image_size is None:
        raise UsageError("--pose-2d needs --image-size W H in pixels")
    else:
        _refine_arrays(arguments)


def _refine_arrays(arguments: argparse.Namespace) -> None:
    import numpy as np

    from refiner.cli.estimates import in_camera_metres
    from refiner.data.layouts import check_stated_layout
    from refiner.data.safe_npz import load_user_array
    from refiner.errors import UsageError
    from refiner.files import atomic_path
    from refiner.reasons import Note
    from refiner.runtime import Lifter, Refiner
    from refiner.runtime.placing import trajectory_arrays
    from refiner.runtime.report import without_repetition
    from refiner.shape import pool_together
    from refiner.skeleton import to_h36m17

    if arguments.video is not None:
        from refiner.viewer.video import check_video_name

        check_video_name(Path(arguments.video))
    output = Path(arguments.output)
    if output.suffix not in (".npy", ".npz"):
        raise UsageError(f"--output {output}: expected a name that ends in .npy or .npz")
    if output.is_dir():
        raise UsageError(f"--output {output}: is a folder, expected a file to write")
    inputs = [("--pose-2d", arguments.pose_2d), ("--pose-3d", arguments.pose_3d)]
    inputs += [("--same-person", file) for file in arguments.same_person or ()]
    for option, file in inputs:
        if file is not None and os.path.exists(file) and output.exists() and output.samefile(file):
            raise UsageError(f"--output {output}: is the file of {option}, which would be lost; choose another name")
    if arguments.joints_3d is not None and arguments.pose_3d is None:
        raise UsageError("--joints-3d is the joint set of --pose-3d; leave it out where there is none")
    if arguments.lifter is not None and arguments.pose_3d is not None:
        raise UsageError("--lifter lifts the 2D poses where there is no --pose-3d; leave one of the two out")
    placement = placement_of(arguments)
    width, height = arguments.image_size
    check_stated_layout(arguments.pose_2d, arguments.joints)
    pose_2d = load_user_array(arguments.pose_2d, arguments.key_2d)
    pose_3d = None if arguments.pose_3d is None else load_user_array(arguments.pose_3d, arguments.key_3d)
    others = [_other_recording(file) for file in arguments.same_person or ()]
    options: _SequenceOptions = {"image_size": (width, height), "fps": arguments.fps, "joints": arguments.joints}
    options["least_confidence"] = arguments.least_confidence
    if arguments.focal_length is not None:
        focal = arguments.focal_length
        options["focal_length"] = focal[0] if len(focal) == 1 else focal
    if arguments.confidence is not None:
        options["confidence"] = load_user_array(arguments.confidence, None)
    if pose_3d is not None:
        pose_2d, pose_3d = in_camera_metres(arguments, pose_2d, pose_3d, options)
    elif arguments.height is not None:
        raise UsageError("--height is that of the person in --pose-3d; leave it out where the lifter makes the 3D")
    joints, confidence = options["joints"], options.get("confidence")
    # A body shape of several recordings is computed from poses without one.
    pool_shape = arguments.pool_shape and not others
    refiner = Refiner.load(
        arguments.checkpoint,
        steps=arguments.steps,
        pool_shape=pool_shape,
        smoothing=arguments.smooth,
        precision=arguments.precision,
    )
    lifter = None if pose_3d is not None else Lifter.load(arguments.lifter)
    began = time.perf_counter()
    notes: list[Note] = []
    if pose_3d is not None:
        # The poses may have been converted to Human3.6M's joints.
        joints_3d = arguments.joints_3d if options["joints"] == arguments.joints else None
        report = refiner.refine_report(pose_2d, pose_3d, joints_3d=joints_3d, **options)
        familiarity = refiner.compare_input(pose_2d, pose_3d, joints_3d=joints_3d, **options)
        before = to_h36m17(pose_3d, joints_3d or options["joints"])
    else:
        assert lifter is not None
        lifted = lifter.lift_report(pose_2d, **options)
        before, notes = lifted.pose_3d, list(lifted.notes)
        report = refiner.refine_report(pose_2d, before, joints_3d="h36m17", **options)
        familiarity = refiner.compare_input(pose_2d, before, joints_3d="h36m17", **options)
    unfamiliar = familiarity.warnings if familiarity is not None else ()
    notes += [*report.notes, *(Note("unfamiliar", text) for text in unfamiliar)]
    refined = report.pose_3d
    if others:
        refined = pool_together([refined, *others], ["the person"] * (1 + len(others)))[0]
    fps = arguments.fps or refiner.fps
    placed, arrays, place = refined, {}, ""
    if placement is not None:
        lens = options["image_size"], options.get("focal_length")
        found = place_arrays(placement, pose_2d, refined, fps, joints, *lens, confidence)
        placed, place = found.place(refined), f"; {axes_text(found, arguments.focal_length is not None)}"
        arrays = trajectory_arrays(found, placed)
    report = replace(report, pose_3d=placed, notes=without_repetition(notes))
    elapsed = time.perf_counter() - began
    for warning in unfamiliar:
        print(f"refiner-refine: warning: {warning}; the refinement may not help here", file=sys.stderr)
    with atomic_path(output) as temporary:
        if output.suffix == ".npy":
            np.save(temporary, placed)
        else:
            _save(temporary, report, arrays)
    if arguments.json is not None:
        with atomic_path(Path(arguments.json)) as temporary:
            temporary.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    if arguments.video is not None:
        _draw(Path(arguments.video), before, refined, fps)
    moved = np.nanmean(np.linalg.norm(refined - before, axis=-1)) * 1000
    action = "refined" if lifter is None else "lifted and refined"
    print(
        f"{action} {len(refined)} frames in {elapsed * 1000:.0f} ms; the refinement moved joints by {moved:.1f} mm on "
        f"average{place}; wrote {output}"
    )


def _save(path: Path, report: RefinementReport, arrays: dict[str, Any]) -> None:
    """Write the poses as an .npz, with what is to be said of each frame."""
    import numpy as np

    more: dict[str, Any] = {**report.arrays(), **arrays}
    np.savez(path, **more)


def _other_recording(file: str) -> NDArray[np.float32]:
    """Read the refined poses ``(F, 17, 3)`` of another recording of the same person."""
    from refiner.data.inputs import check_pose_3d
    from refiner.data.safe_npz import load_user_array
    from refiner.errors import InputError
    from refiner.skeleton import H36M17

    try:
        return check_pose_3d(load_user_array(file, usual="refined_pose_3d"), H36M17)
    except InputError as error:
        raise InputError(f"--same-person {file}: {error}") from error


def _draw(path: Path, before: NDArray[np.float32], refined: NDArray[np.float32], fps: float) -> None:
    """Draw the poses ``(F, 17, 3)`` before and after refinement as a video."""
    import numpy as np

    from refiner.cli.progress import progress_bar
    from refiner.viewer.video import write_video

    with progress_bar(str(path), "frame", len(refined)) as progress:
        write_video(path, np.asarray(before, np.float32), refined, fps, progress)
        progress(len(refined))


if __name__ == "__main__":
    sys.exit(main())
