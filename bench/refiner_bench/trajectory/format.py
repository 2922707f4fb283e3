"""The Markdown of the report of ``refiner-bench trajectory``, and its table for the pages."""

from __future__ import annotations

from refiner.evaluation.tables import markdown_table
from refiner_bench.report import JsonObject

LENSES = ("known", "guessed")
HEADINGS = (
    "MRPE, mm",
    "along the ray",
    "across it",
    "% of the distance",
    "absolute MPJPE, mm",
    "root acceleration error, mm/frame^2",
)
FIELDS = ("mrpe", "along", "across", "share", "absolute_mpjpe", "root_acceleration")


def format_trajectory(report: JsonObject) -> str:
    """The report as Markdown."""
    settings = report["settings"]
    heights = ", ".join(f"{person} {height:.2f} m" for person, height in report["heights"].items())
    cost = report["ms_per_frame"]
    return "\n".join(
        [
            "# Where people are",
            "",
            f"{settings['data']}; random cameras of each clip: {settings['cameras']}, seed {settings['camera_seed']}; "
            f"{report['frames']:,} frames. Lifter: {settings['lifter']}; refiner: {settings['refiner']}.",
            "",
            "The root's place in camera axes, from refined poses, and its error by what is known besides the 2D poses. "
            "A guessed lens has the longer side of the image for its focal length. The height of a person is that of "
            f"the head in upright frames over the feet ({heights}). Nobody states the roll of the camera. Intervals "
            "(95 %) come from a bootstrap over whole clips.",
            "",
            trajectory_table(report),
            "",
            f"Time of a frame on this machine: lifting and refining {cost['models']:.2f} ms, the trajectory "
            f"{cost['trajectory']:.3f} ms.",
            "",
            "## A real take",
            "",
            f"{settings['take']}; the mean of its cameras, 12 limb joints. The floor is the beam that the person "
            "balances on, and the height of the person is that of its triangulated bones; the roll of the cameras is "
            "stated. The truth itself is about 30 mm wrong.",
            "",
            real_trajectory_table(report),
        ]
    )


def trajectory_table(report: JsonObject) -> str:
    """The errors on the archive."""
    rows = [
        [row["lens"], row["known"], f"{row['mrpe']:.0f} ({row['mrpe_low']:.0f} to {row['mrpe_high']:.0f})", *_rest(row)]
        for row in report["rows"]
    ]
    return markdown_table(["lens", "what else is known", *HEADINGS], rows)


def real_trajectory_table(report: JsonObject) -> str:
    """The errors on the real take."""
    rows = [[row["lens"], row["known"], f"{row['mrpe']:.0f}", *_rest(row)] for row in report["real"]]
    return markdown_table(["lens", "what else is known", *HEADINGS], rows)


def _rest(row: JsonObject) -> list[str]:
    digits = {"share": 1, "root_acceleration": 1}
    return [f"{row[name]:.{digits.get(name, 0)}f}" for name in FIELDS[1:]]
