"""The command ``python -m studies.published``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from refiner_bench.published import format_published

from refiner.cli.common import EXIT_CODES, HelpFormatter, run
from refiner.errors import TrainingError
from refiner.files import atomic_write_text
from refiner.reports import write_report
from studies.published import measures, networks
from studies.published.comparison import Comparison
from studies.published.report import build_report, unexpected

REPOSITORIES = {
    "stcformer": "zhenhuat/STCFormer",
    "mixste": "JinluZhang1126/MixSTE",
    "d3dp": "paTRICK-swk/D3DP",
    "finepose": "PKU-ICST-MIPL/FinePOSE_CVPR2024",
}
EXAMPLES = f"""\
example:
  pip install einops
  python -m studies.published --stcformer STCFormer --mixste MixSTE --d3dp D3DP --finepose FinePOSE_CVPR2024 \\
    --json bench/reports/published.json --markdown bench/reports/published.md

Each option names a checkout of the authors' repository; nothing of it is copied. A repository that no option names is
left out. The command takes a few minutes on one core. It ends with an error where a comparison comes out otherwise than
it should.

{EXIT_CODES}"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.published",
        description="Compare our networks, samplers and metrics with the authors' own modules on random weights.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    for name, repository in REPOSITORIES.items():
        parser.add_argument(f"--{name}", metavar="FOLDER", help=f"a checkout of github.com/{repository}")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--markdown", metavar="FILE", help="write the report as Markdown")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    folders = {name: folder for name in REPOSITORIES if (folder := getattr(arguments, name)) is not None}
    results = []
    for comparison in comparisons(folders, arguments.seed):
        results.append(comparison)
        print(f"{comparison.group}, {comparison.name}: {comparison.difference:.1e}", file=sys.stderr)
    commits = {REPOSITORIES[name]: _commit(folder) for name, folder in folders.items()}
    report = build_report(results, commits, arguments.seed)
    if arguments.json is not None:
        write_report(arguments.json, report)
    if arguments.markdown is not None:
        atomic_write_text(arguments.markdown, format_published(report))
    print(format_published(report), end="")
    if wrong := unexpected(report):
        raise TrainingError(f"otherwise than they should come out: {'; '.join(wrong)}")


def comparisons(folders: dict[str, str], seed: int) -> Iterator[Comparison]:
    """All comparisons with the repositories of these checkouts."""
    yield from measures.compare_joints(seed)
    if folder := folders.get("stcformer"):
        yield from measures.compare_metrics("STCFormer", folder, "common.utils", seed)
        yield from measures.compare_windows(folder, seed)
        yield from networks.compare_stcformer(folder, seed)
    if folder := folders.get("mixste"):
        yield from measures.compare_metrics("MixSTE", folder, "common.loss", seed)
        yield from measures.compare_mixste_loss(folder, seed)
        yield from networks.compare_mixste(folder, seed)
    if folder := folders.get("d3dp"):
        yield from measures.compare_metrics("D3DP", folder, "common.loss", seed)
        yield from measures.compare_cameras(folder, seed)
        yield from networks.compare_d3dp(folder, seed)
    if folder := folders.get("finepose"):
        yield from measures.compare_metrics("FinePOSE", folder, "common.loss", seed)
        yield from networks.compare_finepose(folder, seed)


def _commit(folder: str) -> str:
    """The commit of a checkout, or "unknown" where the folder is no repository."""
    command = ["git", "-C", str(Path(folder)), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


if __name__ == "__main__":
    sys.exit(main())
