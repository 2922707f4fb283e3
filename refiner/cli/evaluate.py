"""``refiner-evaluate``: errors before and after refinement, in a table and as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner import bundled
from refiner.actions import UNKNOWN_ACTION, action_for_lifter
from refiner.cli.common import EXIT_CODES, HelpFormatter, run
from refiner.errors import MissingComponentError, UsageError

if TYPE_CHECKING:
    from refiner.camera import Camera
    from refiner.data import CameraClip, MotionFolder
    from refiner.diffusion import ConditionalGaussian
    from refiner.diffusion.familiarity import Familiarity
    from refiner.runtime import Lifter, Refiner

PROGRAM = "refiner-evaluate"
DESCRIPTION = """\
Lifts every clip of an archive from its 2D poses, refines the result, and reports the error of both against
the ground truth: MPJPE, P-MPJPE, N-MPJPE, velocity and acceleration error, per action, action-wise and
frame-wise. The column between them, 'linear mean', subtracts the conditional mean of the refiner's noise
model alone: what a linear regression achieves. Gains come with a 95 % bootstrap interval over whole clips."""
EXAMPLES = f"""\
examples:
  refiner-evaluate --synthetic 7                       the built-in synthetic motion; needs no data
  refiner-evaluate --data FOLDER --json result.json    the test people of an archive, simulated detections
  refiner-evaluate --data H36M --dataset human36m --detections cpn_ft_h36m_dbb
                                                       Human3.6M, S9 and S11, with its CPN detections
  refiner-evaluate --data FOLDER --cameras random      the same people by cameras that no archive has: transfer
  refiner-evaluate --subjects validation --lifter lifter.safetensors --refiner refiner.safetensors

  refiner-evaluate --mpi-inf-3dhp FOLDER --annotation univ_annot3
                                                       PCK, AUC and MPJPE of MPI-INF-3DHP's six sequences
  refiner-evaluate --table I --reports result.json     the paper's table, our figures beside the paper's

FOLDER holds one data_3d_*.npz in VideoPose3D's layout and a clips.json with the frame rate and the split: see
docs/data.md.

{EXIT_CODES}"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group()
    source.add_argument(
        "--data", metavar="FOLDER", help="motion archive (default: the environment variable REFINER_DATA)"
    )
    source.add_argument(
        "--synthetic", metavar="SEED", type=_seed, help="score built-in synthetic motion of this seed instead"
    )
    source.add_argument(
        "--mpi-inf-3dhp", metavar="FOLDER", help="MPI-INF-3DHP's test set (TS1 to TS6) by its own protocol instead"
    )
    data.add_argument(
        "--annotation",
        choices=["annot3", "univ_annot3"],
        help="with --mpi-inf-3dhp: which of its 3D poses is the truth; people as they are, or scaled to one size",
    )
    data.add_argument(
        "--dataset", choices=["human36m"], help="take Human3.6M's split instead of the folder's clips.json"
    )
    data.add_argument(
        "--subjects",
        metavar="WHO",
        default="test",
        help="test, validation, train, or names with commas: S2,S14 (default: test)",
    )
    data.add_argument(
        "--detections",
        metavar="2D",
        default="simulated",
        help="simulated, ground-truth, a data_2d file, or the name of one in the folder (default: simulated)",
    )
    data.add_argument(
        "--cameras",
        choices=["archive", "random"],
        default="archive",
        help="the archive's own cameras (default), or for each clip some of random place, direction and lens",
    )
    data.add_argument(
        "--camera-seed", metavar="SEED", type=_seed, help="with --cameras random: their seed (default: 77)"
    )
    data.add_argument(
        "--cameras-per-clip",
        metavar="N",
        type=_count,
        help="with --cameras random: how many see each clip (default: 4)",
    )
    data.add_argument("--seed", type=_seed, help="seed of the simulated detector (default: the detector model's)")
    data.add_argument(
        "--limit-clips", metavar="N", type=_count, help="score at most N clips, spread evenly over the archive"
    )
    models = parser.add_argument_group("models")
    models.add_argument("--lifter", metavar="PATH", help="lifter checkpoint or artefact (default: the bundled one)")
    models.add_argument("--refiner", metavar="PATH", help="refiner checkpoint or artefact (default: the bundled one)")
    models.add_argument(
        "--noise-model",
        metavar="PATH",
        help="checkpoint whose noise model gives the 'linear mean' column (default: the refiner checkpoint)",
    )
    models.add_argument(
        "--engine", metavar="ENGINE", help="what runs the models, like torch-compile (default: by file)"
    )
    models.add_argument("--steps", metavar="K", type=_count, help="denoising steps (default: the checkpoint's)")
    models.add_argument(
        "--action",
        choices=["guess", "unknown", "label"],
        help="what a lifter with prompts is told: what it guesses from the 2D poses (default), nothing, or the "
        "archive's own label, which nobody has outside of a test",
    )
    models.add_argument(
        "--hypotheses",
        action="store_true",
        help="of a diffusion lifter's checkpoint: also score the joints that are projected nearest to the detections, "
        "and the best hypotheses, which only an oracle can choose",
    )
    models.add_argument(
        "--focal-length",
        choices=["true", "guess"],
        default="true",
        help="what models that see rays are told of the lens: the calibrated camera (default), or the default focal "
        "length of the image's size, as of a user who does not know",
    )
    models.add_argument(
        "--live",
        action="store_true",
        help="lift each frame from those before it, as a stream does; the default models are those of a stream",
    )
    models.add_argument("--flip-test", action="store_true", help="lift and refine the mirrored poses too, and average")
    models.add_argument(
        "--pool-shape",
        nargs="?",
        const="clip",
        choices=["clip", "camera", "person"],
        help="one body shape for the refined poses of a clip (default), of all clips of a person by one camera, or by "
        "every camera; a column shows what that alone does for the lifter's",
    )
    models.add_argument(
        "--smooth",
        action="store_true",
        help="a Savitzky-Golay filter behind the refiner, and in a column of its own behind the lifter",
    )
    tables = parser.add_argument_group("the papers' tables")
    tables.add_argument(
        "--table",
        choices=["I", "II", "III", "IV", "FinePOSE"],
        help="print this table of D3PRefiner (or FinePOSE's poster) with the paper's figures; nothing is run",
    )
    tables.add_argument(
        "--reports",
        metavar="PATH",
        nargs="+",
        help="with --table: reports that --json or the accuracy study wrote, or folders of them, to stand beside "
        "the paper's figures",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    output.add_argument("--markdown", action="store_true", help="print Markdown tables")
    output.add_argument(
        "--resamples", metavar="N", type=_count, default=10_000, help="bootstrap resamples (default: 10000)"
    )
    output.add_argument("--bootstrap-seed", metavar="SEED", type=_seed, default=0, help="seed of the bootstrap")
    output.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


@dataclass(frozen=True)
class _Data:
    """What is scored: the clips, the report's record of them, and whom to thank."""

    clips: list[CameraClip]
    record: dict[str, Any]
    acknowledgement: str | None


def _command(arguments: argparse.Namespace) -> None:
    if arguments.json is not None and Path(arguments.json).is_dir():
        raise UsageError(f"--json {arguments.json}: is a folder, expected a file to write")
    if arguments.synthetic is not None and arguments.dataset is not None:
        raise UsageError("--dataset names the split of a folder; leave it out with --synthetic")
    _check_cameras(arguments)
    if arguments.table is not None or arguments.reports:
        _print_table(arguments)
        return
    if arguments.mpi_inf_3dhp is not None or arguments.annotation is not None:
        _score_3dhp(arguments)
        return
    from refiner.diffusion.familiarity import merge_familiarity
    from refiner.evaluation.pipeline import ExampleCurve, lens_options, score_models
    from refiner.evaluation.report import build_report, format_report
    from refiner.reports import write_report

    # The models first: they are quick to refuse, and the clips are not quick to make.
    lifter, refiner = _load_models(arguments)
    mode = _action_mode(arguments.action, lifter)
    # The noise model of a refiner that sees rays is in the axes of virtual cameras, which this column does not know.
    noise_model = None if refiner.sees_rays and arguments.noise_model is None else _noise_model(arguments)
    data = _load_data(arguments)
    fps = data.record["fps"]
    if mode is not None:
        data.record["description"] += f"; the lifter is told the action by {mode}"
    compared: list[tuple[int, Familiarity]] = []
    example = ExampleCurve()

    def refine(clip: CameraClip, pose_3d: Any) -> Any:
        lens = lens_options(refiner.sees_rays, clip, arguments.focal_length)
        familiar = refiner.compare_input(clip.pose_2d, pose_3d, clip.image_size, fps=fps, **lens)
        if familiar is not None:
            compared.append((len(pose_3d), familiar))
        return refiner.refine(clip.pose_2d, pose_3d, clip.image_size, fps=fps, **lens)

    def told(clip: CameraClip) -> dict[str, Any]:
        return {"fps": fps, "action": action_for_lifter(mode, clip.action, lifter.actions)}

    def lift(clip: CameraClip) -> Any:
        lens = lens_options(lifter.sees_rays, clip, arguments.focal_length)
        return lifter.lift(clip.pose_2d, clip.image_size, **told(clip), **lens)

    with _progress(sum(clip.frames for clip in data.clips), arguments.quiet) as advance:
        columns = score_models(
            data.clips,
            lift=lift,
            refine=refine,
            noise_model=noise_model,
            on_clip=advance,
            pooled=arguments.pool_shape,
            smooth=arguments.smooth,
            example=example,
            hypothesise=(lambda clip: lifter.hypotheses(clip.pose_2d, clip.image_size, **told(clip)))
            if arguments.hypotheses
            else None,
        )
    report = build_report(
        columns,
        data=data.record,
        models={
            "lifter": _model_record(lifter, "lifter", arguments.lifter, arguments.live),
            "refiner": _model_record(refiner, "refiner", arguments.refiner, arguments.live),
        },
        settings={
            "flip_test": arguments.flip_test,
            "pool_shape": arguments.pool_shape is not None,
            "steps": arguments.steps,
            "engine": arguments.engine,
            "limit_clips": arguments.limit_clips,
        }
        | ({} if arguments.pool_shape in (None, "clip") else {"shape_of": arguments.pool_shape})
        | ({"smoothing": True} if arguments.smooth else {})
        | ({"live": True} if arguments.live else {})
        | ({} if mode is None else {"action": mode})
        | ({"focal_length": arguments.focal_length} if lifter.sees_rays or refiner.sees_rays else {}),
        acknowledgement=data.acknowledgement,
        validation_curve=_validation_curve(lifter),
        familiarity=merge_familiarity(compared),
        example=example.to_report(),
        resamples=arguments.resamples,
        seed=arguments.bootstrap_seed,
    )
    if arguments.json is not None:
        write_report(arguments.json, report)
    print(format_report(report, markdown=arguments.markdown), end="")


def _load_models(
    arguments: argparse.Namespace, pool_shape: bool = False, smoothing: bool = False
) -> tuple[Lifter, Refiner]:
    from refiner.runtime import Lifter, Refiner

    lifter = Lifter.load(
        arguments.lifter or _default("lifter", arguments.live),
        engine=arguments.engine,
        flip_test=arguments.flip_test,
        live=arguments.live,
    )
    refiner = Refiner.load(
        arguments.refiner or _default("refiner", arguments.live),
        engine=arguments.engine,
        steps=arguments.steps,
        flip_test=arguments.flip_test,
        pool_shape=pool_shape,
        smoothing=smoothing,
    )
    return lifter, refiner


def _default(kind: str, live: bool) -> Path:
    """The bundled checkpoint that is scored where none is named."""
    of_streams = {"lifter": "live-lifter", "refiner": "causal-refiner"}
    return bundled.default_checkpoint(of_streams[kind] if live else kind)


def _score_3dhp(arguments: argparse.Namespace) -> None:
    from refiner.data import load_test_set
    from refiner.evaluation.mpi_inf_3dhp import evaluate_3dhp, format_3dhp

    if arguments.mpi_inf_3dhp is None or arguments.annotation is None:
        raise UsageError(
            "--mpi-inf-3dhp and --annotation go together: a figure is nothing without the annotation's name"
        )
    if arguments.action not in (None, "guess", "unknown"):
        raise UsageError("MPI-INF-3DHP's sequences have no labels of actions; --action guess or unknown")
    if arguments.json is not None or arguments.hypotheses:
        raise UsageError(
            "--json and --hypotheses are not for --mpi-inf-3dhp, whose result is the table that is printed"
        )
    if arguments.pool_shape not in (None, "clip"):
        raise UsageError(
            f"--pool-shape {arguments.pool_shape} needs several clips of a person; MPI-INF-3DHP's test set has one of "
            "each: --pool-shape clip"
        )
    sequences = load_test_set(arguments.mpi_inf_3dhp, arguments.annotation, partial=True)
    lifter, refiner = _load_models(arguments, pool_shape=arguments.pool_shape == "clip", smoothing=arguments.smooth)
    action = UNKNOWN_ACTION if _action_mode(arguments.action, lifter) == UNKNOWN_ACTION else None

    def lift(pose_2d: Any, size: Any, camera: Camera) -> Any:
        return lifter.lift(pose_2d, size, action=action, camera=camera if lifter.sees_rays else None)

    def refine(pose_2d: Any, pose_3d: Any, size: Any, camera: Camera) -> Any:
        return refiner.refine(pose_2d, pose_3d, size, camera=camera if refiner.sees_rays else None)

    if (lifter.sees_rays or refiner.sees_rays) and arguments.focal_length == "true":
        scored = evaluate_3dhp(sequences, lift, refine, cameras=True)
    else:
        scored = evaluate_3dhp(sequences, partial(lifter.lift, action=action), refiner.refine)
    print(format_3dhp(scored, markdown=arguments.markdown), end="")


def _print_table(arguments: argparse.Namespace) -> None:
    from refiner.errors import ArchiveError
    from refiner.evaluation.paper_tables import format_paper_table, paper_table
    from refiner.evaluation.study_rows import load_reports

    if arguments.table is None:
        raise UsageError("--reports belongs to --table, which says what they stand beside")
    given = ("data", "synthetic", "dataset", "lifter", "refiner", "engine", "json")
    unused = [f"--{name}" for name in given if getattr(arguments, name) is not None]
    unused += ["--cameras"] if arguments.cameras == "random" else []
    if unused:
        raise UsageError(f"--table prints reports and runs nothing: leave {', '.join(unused)} out")
    reports = []
    for path in map(Path, arguments.reports or ()):
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            try:
                reports += load_reports(file)
            except ArchiveError:
                # A folder of reports holds other files too; a file that was named must be one.
                if not path.is_dir():
                    raise
    print(format_paper_table(paper_table(arguments.table, reports), markdown=arguments.markdown), end="")


def _seed(text: str) -> int:
    return _whole_number(text, 0)


def _count(text: str) -> int:
    return _whole_number(text, 1)


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return value


@contextmanager
def _progress(frames: int, quiet: bool) -> Iterator[Callable[[CameraClip], None]]:
    """A progress bar on a terminal, counted in frames; nothing where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda clip: None
        return
    with tqdm(total=frames, unit=" frames", disable=True if quiet else None, file=sys.stderr) as bar:

        def advance(clip: CameraClip) -> None:
            bar.set_postfix_str(f"{clip.subject} {clip.key}", refresh=False)
            bar.update(clip.frames)

        yield advance


def _load_data(arguments: argparse.Namespace) -> _Data:
    """The camera clips that the options name, and the words for them."""
    from refiner.data import camera_clips, random_camera_clips
    from refiner.data.training_set import check_own_cameras
    from refiner.data.viewpoints import CAMERA_SEED, RANDOM_CAMERAS
    from refiner.evaluation.selection import (
        acknowledgement_of,
        describe_archive,
        describe_people,
        limit_clips,
        select_people,
    )

    folder, name = _open_source(arguments)
    parts = folder.description
    split = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    people = select_people(arguments.subjects, split, folder.positions)
    positions = limit_clips(folder.positions, people, arguments.limit_clips)
    detector = folder.detector if arguments.detections == "simulated" else None
    detections = folder.detections if arguments.detections not in ("simulated", "ground-truth") else None
    seed = None
    if detector is not None:
        seed = detector.seed if arguments.seed is None else arguments.seed
        source = f"simulated detections, seed {seed}"
    else:
        source = "ground-truth 2D" if detections is None else f"detections {Path(arguments.detections).name}"
    whom = f"people {', '.join(people)}" if arguments.synthetic is not None else describe_people(people, split)
    cameras: dict[str, Any] = {"kind": arguments.cameras}
    if arguments.cameras == "random":
        cameras["number"] = arguments.cameras_per_clip or RANDOM_CAMERAS
        cameras["seed"] = CAMERA_SEED if arguments.camera_seed is None else arguments.camera_seed
        whom += f"; each clip by {cameras['number']} random cameras, seed {cameras['seed']}"
        clips = random_camera_clips(
            positions,
            detector=detector,
            seed=seed,
            fps=parts.fps,
            number=cameras["number"],
            camera_seed=cameras["seed"],
        )
    else:
        if detections is not None:
            check_own_cameras(folder, people)
        clips = camera_clips(positions, folder.cameras, None, detections, detector, seed, parts.fps)
    record = {
        "description": f"{describe_archive(name)}, {whom}; {source}; {parts.fps:g} frames/s",
        "archive": name,
        "people": people,
        "cameras": cameras,
        "detections": arguments.detections,
        "detector_seed": seed,
        "synthetic_seed": arguments.synthetic,
        "fps": parts.fps,
    }
    return _Data(clips, record, acknowledgement_of(name))


def _check_cameras(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that random cameras cannot have, or that are theirs alone."""
    if arguments.cameras != "random":
        if arguments.camera_seed is not None or arguments.cameras_per_clip is not None:
            raise UsageError("--camera-seed and --cameras-per-clip belong to --cameras random")
        return
    if arguments.detections not in ("simulated", "ground-truth"):
        raise UsageError(
            f"--detections {arguments.detections}: nobody has detections of random cameras; simulated or ground-truth"
        )
    if arguments.mpi_inf_3dhp is not None or arguments.annotation is not None:
        raise UsageError("--cameras random is for motion archives; MPI-INF-3DHP's test set has cameras of its own")
    if arguments.pool_shape == "camera":
        raise UsageError("--pool-shape camera: every clip has random cameras of its own; --pool-shape clip or person")


def _open_source(arguments: argparse.Namespace) -> tuple[MotionFolder, str]:
    """The archive, with the detections that are named, and what the archive is called."""
    from refiner.data import motion_folder_from_env, open_motion_folder

    file = arguments.detections if arguments.detections not in ("simulated", "ground-truth") else None
    if arguments.synthetic is not None:
        from refiner.data.synthetic import synthetic_folder

        if file is not None:
            raise UsageError(f"--detections {file}: synthetic motion has simulated or ground-truth 2D alone")
        name = f"built-in synthetic motion (procedural, not a recording), seed {arguments.synthetic}"
        return synthetic_folder(arguments.synthetic), name
    options = {"dataset": arguments.dataset, "detections": file or "simulated"}
    if arguments.data is None:
        folder = motion_folder_from_env(**options)
    else:
        folder = open_motion_folder(arguments.data, **options)
    return folder, folder.archives[0].name


def _action_mode(asked: str | None, lifter: Lifter) -> str | None:
    """How the lifter comes by an action: "guess", "unknown" or "label"; None for one that knows none.

    Raises UsageError for what it cannot be asked."""
    if not lifter.actions:
        if asked is not None:
            raise UsageError(
                "--action is for a lifter with prompts (FinePOSE); this one knows no actions: leave it out"
            )
        return None
    guesses = lifter.guesses_action
    if asked == "guess" and not guesses:
        raise UsageError("this lifter was trained without a classifier and cannot guess: --action unknown or label")
    return asked or ("guess" if guesses else UNKNOWN_ACTION)


def _noise_model(arguments: argparse.Namespace) -> ConditionalGaussian | None:
    """The refiner's noise model; None for an exported graph without ``--noise-model`` and for SmoothNet, which carry
    none."""
    path = arguments.noise_model or arguments.refiner or _default("refiner", arguments.live)
    if arguments.noise_model is None and Path(path).suffix != ".safetensors":
        return None
    try:
        from refiner.model_files.checkpoint import NOISE_PREFIX, load_checkpoint, noise_model_of
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"reading the noise model of {path} needs PyTorch: pip install 'refiner[train]'"
        ) from error
    checkpoint = load_checkpoint(path, "refiner")
    if arguments.noise_model is None and not checkpoint.state(NOISE_PREFIX):
        return None
    return noise_model_of(checkpoint)


def _model_record(model: Any, kind: str, path: str | None, live: bool) -> dict[str, Any]:
    """What the report says of a model: its file, and its configuration without the training curve."""
    from refiner.files import sha256_of

    file = _default(kind, live) if path is None else bundled.by_name(Path(path))
    kept = ("kind", "model", "frames", "steps", "diffusion", "noise", "sampling", "text", "engine", "data_description")
    record = {"file": file.name, "bundled": path is None, "sha256": sha256_of(file)}
    windows = {} if model.causal else {"hop": model.hop}
    return record | windows | {name: model.metadata[name] for name in kept if name in model.metadata}


def _validation_curve(lifter: Any) -> list[dict[str, float]] | None:
    """The points of the lifter's checkpoint; None for a graph, whose manifest has none."""
    curve = lifter.validation_curve
    return [{"step": step, "mpjpe_mm": error} for step, error in curve] or None


if __name__ == "__main__":
    sys.exit(main())
