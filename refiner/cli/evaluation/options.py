"""The options of ``refiner-evaluate``, and the checks of options that do not go together."""

from __future__ import annotations

import argparse
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter
from refiner.errors import UsageError

PROGRAM = "refiner-evaluate"
DESCRIPTION = """\
Lifts every clip of an archive from its 2D poses, refines the result, and reports the error of both against
the ground truth: MPJPE, P-MPJPE, N-MPJPE, velocity and acceleration error, per action, action-wise and
frame-wise. The column between them, 'linear mean', only subtracts the conditional mean of the refiner's
noise model; a linear regression achieves the same. Gains come with a 95 % bootstrap interval over whole clips."""
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
  refiner-evaluate --mpi-inf-3dhp FOLDER --annotation annot3 --sequences TS5,TS6 --json result.json
  refiner-evaluate --predictions mine.npz              your estimator's predictions, before and after refinement
  refiner-evaluate --table I --reports result.json     the paper's table, our figures beside the paper's

FOLDER holds one data_3d_*.npz in VideoPose3D's layout and a clips.json with the frame rate and the split: see
docs/data.md.

{EXIT_CODES}"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-evaluate``."""
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
        "--synthetic", metavar="SEED", type=seed, help="score built-in synthetic motion of this seed instead"
    )
    source.add_argument(
        "--mpi-inf-3dhp",
        metavar="PATH",
        help="MPI-INF-3DHP's test set by its own protocol instead: the folder of TS1 to TS6, or data_test_3dhp.npz",
    )
    source.add_argument(
        "--predictions",
        metavar="FILE",
        help="score an estimator's own predictions instead: the .npz that refiner-train --from-predictions takes",
    )
    data.add_argument(
        "--annotation",
        choices=["annot3", "univ_annot3"],
        help="with --mpi-inf-3dhp: which of its 3D poses is the truth; people as they are, or scaled to one size",
    )
    data.add_argument(
        "--sequences",
        metavar="NAMES",
        help="with --mpi-inf-3dhp: some of its sequences: TS5,TS6 (default: those that the folder holds)",
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
        "--camera-seed", metavar="SEED", type=seed, help="with --cameras random: their seed (default: 77)"
    )
    data.add_argument(
        "--cameras-per-clip",
        metavar="N",
        type=count,
        help="with --cameras random: how many see each clip (default: 4)",
    )
    data.add_argument("--seed", type=seed, help="seed of the simulated detector (default: the detector model's)")
    data.add_argument(
        "--limit-clips", metavar="N", type=count, help="score at most N clips, spread evenly over the archive"
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
    models.add_argument("--steps", metavar="K", type=count, help="denoising steps (default: the checkpoint's)")
    models.add_argument(
        "--action",
        choices=["guess", "unknown", "label"],
        help="the action that a lifter with prompts gets: its own guess from the 2D poses (default), the unknown "
        "action, or the archive's label, which nobody has outside of a test",
    )
    models.add_argument(
        "--hypotheses",
        action="store_true",
        help="only for the checkpoint of a diffusion lifter: also score the joints that project nearest to the "
        "detections, and the best hypotheses, which only an oracle can choose",
    )
    models.add_argument(
        "--focal-length",
        choices=["true", "guess"],
        default="true",
        help="the lens that models of rays get: the calibrated camera (default), or the default focal length for the "
        "image's size, like that of a user who does not know the lens",
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
        "every camera; a further column shows the lifter's poses with one body shape",
    )
    models.add_argument(
        "--smooth",
        action="store_true",
        help="run a Savitzky-Golay filter after the refiner; a further column shows the filter after the lifter",
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
        "--resamples", metavar="N", type=count, default=10_000, help="bootstrap resamples (default: 10000)"
    )
    output.add_argument("--bootstrap-seed", metavar="SEED", type=seed, default=0, help="seed of the bootstrap")
    output.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def check_options(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go together, whatever is scored."""
    if arguments.json is not None and Path(arguments.json).is_dir():
        raise UsageError(f"--json {arguments.json}: is a folder, expected a file to write")
    if arguments.synthetic is not None and arguments.dataset is not None:
        raise UsageError("--dataset names the split of a folder; leave it out with --synthetic")
    if arguments.sequences is not None and arguments.mpi_inf_3dhp is None:
        raise UsageError("--sequences belongs to --mpi-inf-3dhp")
    if arguments.cameras == "random":
        _check_random_cameras(arguments)
    elif arguments.camera_seed is not None or arguments.cameras_per_clip is not None:
        raise UsageError("--camera-seed and --cameras-per-clip belong to --cameras random")


def _check_random_cameras(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that random cameras do not allow."""
    if arguments.detections not in ("simulated", "ground-truth"):
        raise UsageError(
            f"--detections {arguments.detections}: nobody has detections of random cameras; simulated or ground-truth"
        )
    if arguments.mpi_inf_3dhp is not None or arguments.annotation is not None:
        raise UsageError("--cameras random is for motion archives; MPI-INF-3DHP's test set has cameras of its own")
    if arguments.pool_shape == "camera":
        raise UsageError("--pool-shape camera: every clip has random cameras of its own; --pool-shape clip or person")


def seed(text: str) -> int:
    """The value of an option that takes a seed."""
    return _whole_number(text, 0)


def count(text: str) -> int:
    """The value of an option that takes a number of things."""
    return _whole_number(text, 1)


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return value
