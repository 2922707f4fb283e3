"""The jobs of each part but training: what they run, and how long they may take."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refiner_bench.gpu.jobs import Job
from refiner_bench.gpu.packages import PACKAGES, package_of

ROOT = Path(__file__).parents[3]
# Jobs of one part run side by side. Training steps are profiled alone, first. Build, then check, run beside training;
# latency is measured alone, last.
PARTS = ("profile", "operations", "build", "check", "latency", "train")
# Asked for by name: it decides how the networks are compiled, once for a kind of device.
DEFAULT_PARTS = tuple(part for part in PARTS if part != "operations")
BOXES = {"profile": 60.0, "operations": 100.0, "build": 150.0, "check": 90.0, "latency": 150.0}
# Of latency's time: each package of AOTInductor has a process of its own after the others, and at most so many seconds.
# What the others need less than their box, the packages have too.
BOX_OF_OTHERS, BOX_OF_PACKAGE = 85.0, 60.0
# Beside training, which they are not to hold up, jobs are slower, and nothing waits for them.
BOXES_BESIDE = {"build": 240.0, "check": 120.0}
NICE = ("nice", "-n", "10")
POSES = {"check": "100000", "sanitizer": "300"}


@dataclass(frozen=True)
class Place:
    """``work``: a folder for what does not come back; ``device``: "cuda" or "cpu"; ``toy``: a rehearsal."""

    work: Path
    device: str
    toy: bool

    @property
    def native(self) -> str:
        """The compiled module that the build made; "-" takes the installed one."""
        found = sorted((self.work / "build").glob("_native*.so"))
        return str(found[0]) if found else "-"

    def command(self, *words: str) -> list[str]:
        """A module's ``main`` with the compiled module at hand."""
        return [sys.executable, "-m", "refiner_bench.gpu.native_first", self.native, *words]


def environment() -> dict[str, str]:
    """What every job finds its modules by."""
    return {"PYTHONPATH": os.pathsep.join(str(ROOT / place) for place in (".", "bench", "export"))}


def jobs_of(part: str, place: Place, left: float, beside: bool = False) -> list[Job]:
    """The jobs of a part, but for training and profile, within ``left`` seconds; ``beside``: while models train."""
    seconds = min((BOXES_BESIDE if beside else BOXES)[part], left)
    first = NICE if beside else ()
    commands: dict[str, list[str]]
    if part == "build":
        commands = {"build": _build(place)}
        if place.device == "cuda":
            folder = str(place.work / "packages")
            commands |= {
                f"package, {name}": place.command("refiner_bench.gpu.packages", name, folder) for name in PACKAGES
            }
    elif part == "check":
        check = {name: place.command("refiner_bench.gpu.check", poses) for name, poses in POSES.items()}
        commands = {
            "check": check["check"],
            "sanitizer": _under_sanitizer(check["sanitizer"]),
            "tests": place.command("refiner_bench.gpu.device_tests", str(ROOT)),
        }
    elif part == "operations":
        commands = {
            "operations": place.command("refiner_bench.gpu.operations", "--output", str(operations_file(place)))
        }
    else:
        commands = {"latency": _latency(place)}
        seconds = min(seconds, BOX_OF_OTHERS)
    return [Job(name, [*first, *command], seconds) for name, command in commands.items()]


def profile_job(words: Mapping[str, Sequence[str]], place: Place, left: float) -> Job:
    """The job that profiles a step of each plan, which ``words`` give by name as `refiner-train` takes them."""
    folder = place.work / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps({name: list(given) for name, given in words.items()}))
    seconds = min(BOXES["profile"], left)
    options = ["--plans", str(folder / "plans.json"), "--output", str(profile_file(place))]
    # It ends by itself a little before it is stopped.
    options += ["--seconds", f"{0.9 * seconds:.1f}", *(["--compiled"] if place.device == "cuda" else [])]
    return Job("profile", place.command("refiner_bench.gpu.profile_step", *options), seconds)


def profile_file(place: Place) -> Path:
    """Where the profile of the steps lies."""
    return place.work / "reports" / "profile.json"


def operations_file(place: Place) -> Path:
    """Where the times of a layer's variants lie."""
    return place.work / "reports" / "operations.json"


def package_job(name: str, place: Place, left: float) -> Job | None:
    """The job that measures a package of AOTInductor beside the eager model; None where there is no such package."""
    if package_of(name, place.work / "packages") is None:
        return None
    return Job(f"latency, {name}", _latency(place, "--package", name), min(BOX_OF_PACKAGE, left))


def _latency(place: Place, *more: str) -> list[str]:
    words = ["--device", place.device, "--output", str(place.work / "reports")]
    words += ["--packages", str(place.work / "packages"), *(["--toy"] if place.toy else [])]
    return place.command("refiner_bench.gpu.latency", *words, *more)


def _build(place: Place) -> list[str]:
    import torch

    headers = Path(torch.__file__).parent / "include"
    cuda = "ON -DCMAKE_CUDA_ARCHITECTURES=90" if place.device == "cuda" else "OFF"
    folder, kind = place.work / "build", "Debug" if place.toy else "Release"
    configure = (
        f"cmake -S '{ROOT}' -B '{folder}' -DREFINER_CUDA={cuda} -DCMAKE_BUILD_TYPE={kind} "
        f"-DREFINER_PYBIND11_HEADERS='{headers}' -DPython_EXECUTABLE='{sys.executable}' "
        f"-DPython_INCLUDE_DIR='{sysconfig.get_paths()['include']}'"
    )
    return ["bash", "-c", f"{configure} && cmake --build '{folder}' -j {os.cpu_count()}"]


def _under_sanitizer(command: list[str]) -> list[str]:
    missing = "echo 'compute-sanitizer is not on the PATH'; exit 3"
    script = (
        f'command -v compute-sanitizer >/dev/null || {{ {missing}; }}; exec compute-sanitizer --error-exitcode 9 "$@"'
    )
    return ["bash", "-c", script, "-", *command]
