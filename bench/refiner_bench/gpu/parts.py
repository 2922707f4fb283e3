"""The jobs of every part except training: their commands and their time limits."""

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
# The jobs of one part run at the same time. The profile of training steps comes first, without other jobs. Then build
# and check run one after the other, at the same time as the training. Latency comes last, without other jobs.
PARTS = ("profile", "operations", "build", "fused", "check", "latency", "train")
# "operations" and "fused" run only if the user names them. Once per kind of device, "operations" helps to choose how to
# compile networks, and "fused" compares the native engine's network with PyTorch.
DEFAULT_PARTS = tuple(part for part in PARTS if part not in ("operations", "fused"))
BOXES = {"profile": 60.0, "operations": 100.0, "build": 150.0, "fused": 60.0, "check": 90.0, "latency": 150.0}
# The time limit of the checks that follow the times of "fused", which need the device for themselves.
BOX_OF_FUSED_CHECKS = 60.0
# The time limits within latency. After the other contestants, each package of AOTInductor runs in its own process with
# its own limit. The packages also get the time that the others did not need.
BOX_OF_OTHERS, BOX_OF_PACKAGE = 85.0, 60.0
# The limits of jobs that run at the same time as the training. They have a low priority, and are slower therefore.
BOXES_BESIDE = {"build": 240.0, "check": 120.0}
NICE = ("nice", "-n", "10")
# The number of poses of each check.
POSES = {"check": "100000", "sanitizer": "300"}


@dataclass(frozen=True)
class RunSetup:
    """The setup of a run.

    Attributes:
        work: A folder for temporary files.
        device: "cuda" or "cpu".
        toy: Whether the run is a rehearsal at toy size.
        packages: Whether the build makes AOTInductor's packages, which only the latency report needs.
    """

    work: Path
    device: str
    toy: bool
    packages: bool = True

    @property
    def native(self) -> str:
        """The compiled module of the build job; "-" stands for the installed module."""
        modules = sorted((self.work / "build").glob("_native*.so"))
        return str(modules[0]) if modules else "-"

    def command(self, *words: str) -> list[str]:
        """The command that runs ``main`` of a module with the compiled module of `native`.

        Args:
            words: The name of the module and its arguments.
        """
        return [sys.executable, "-m", "refiner_bench.gpu.native_first", self.native, *words]


def environment() -> dict[str, str]:
    """The environment variables with which a job finds the project's packages."""
    return {"PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in (".", "bench", "export"))}


def jobs_of(part: str, setup: RunSetup, left: float, beside: bool = False) -> list[Job]:
    """The jobs of a part other than training and profile.

    Args:
        part: The name of the part.
        setup: The setup of the run.
        left: The seconds that are left.
        beside: Whether models train at the same time.
    """
    seconds = min((BOXES_BESIDE if beside else BOXES)[part], left)
    prefix = NICE if beside else ()
    commands: dict[str, list[str]]
    if part == "build":
        commands = {"build": _build(setup)}
        if setup.device == "cuda" and setup.packages:
            folder = str(setup.work / "packages")
            commands |= {
                f"package, {name}": setup.command("refiner_bench.gpu.packages", name, folder) for name in PACKAGES
            }
    elif part == "check":
        check = {name: setup.command("refiner_bench.gpu.check", poses) for name, poses in POSES.items()}
        commands = {
            "check": check["check"],
            "sanitizer": _under_sanitizer(check["sanitizer"]),
            "tests": setup.command("refiner_bench.gpu.device_tests", str(ROOT)),
        }
    elif part == "fused":
        commands = {"fused": _fused(setup, *(["--toy"] if setup.toy else []))}
    elif part == "operations":
        commands = {
            "operations": setup.command("refiner_bench.gpu.operations", "--output", str(operations_file(setup)))
        }
    else:
        commands = {"latency": _latency(setup)}
        seconds = min(seconds, BOX_OF_OTHERS)
    return [Job(name, [*prefix, *command], seconds) for name, command in commands.items()]


def profile_job(words: Mapping[str, Sequence[str]], setup: RunSetup, left: float) -> Job:
    """The job that profiles a training step of each plan.

    Args:
        words: The arguments of ``refiner-train`` by the name of the plan.
        setup: The setup of the run.
        left: The seconds that are left.
    """
    folder = setup.work / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps({name: list(arguments) for name, arguments in words.items()}))
    seconds = min(BOXES["profile"], left)
    options = ["--plans", str(folder / "plans.json"), "--output", str(profile_file(setup))]
    # The job ends by itself a little before its time limit.
    options += ["--seconds", f"{0.9 * seconds:.1f}", *(["--compiled"] if setup.device == "cuda" else [])]
    return Job("profile", setup.command("refiner_bench.gpu.profile_step", *options), seconds)


def profile_file(setup: RunSetup) -> Path:
    """The file of the profile of training steps."""
    return setup.work / "reports" / "profile.json"


def operations_file(setup: RunSetup) -> Path:
    """The file of the times of a layer's variants."""
    return setup.work / "reports" / "operations.json"


def fused_file(setup: RunSetup) -> Path:
    """The file of the native engine's network on a device, beside PyTorch."""
    return setup.work / "reports" / "fused.json"


def fused_checks(setup: RunSetup, left: float) -> list[Job]:
    """The jobs that follow the times of the native engine's network: its tests, and a small case under a checker."""
    commands = {
        "fused, tests": setup.command("refiner_bench.gpu.device_tests", str(ROOT), "test_native_network_cuda.py"),
        "fused, sanitizer": _under_sanitizer(_fused(setup, "--small")),
    }
    seconds = min(BOX_OF_FUSED_CHECKS, left)
    return [Job(name, command, seconds) for name, command in commands.items()]


def _fused(setup: RunSetup, *more: str) -> list[str]:
    words = ["--device", setup.device, "--output", str(fused_file(setup)), *more]
    return setup.command("refiner_bench.gpu.fused", *words)


def package_job(name: str, setup: RunSetup, left: float) -> Job | None:
    """The job that compares a package of AOTInductor with the eager model; None if there is no such package."""
    if package_of(name, setup.work / "packages") is None:
        return None
    return Job(f"latency, {name}", _latency(setup, "--package", name), min(BOX_OF_PACKAGE, left))


def _latency(setup: RunSetup, *more: str) -> list[str]:
    words = ["--device", setup.device, "--output", str(setup.work / "reports")]
    words += ["--packages", str(setup.work / "packages"), *(["--toy"] if setup.toy else [])]
    return setup.command("refiner_bench.gpu.latency", *words, *more)


def _build(setup: RunSetup) -> list[str]:
    import torch

    headers = Path(torch.__file__).parent / "include"
    cuda = "ON -DCMAKE_CUDA_ARCHITECTURES=90" if setup.device == "cuda" else "OFF"
    folder, kind = setup.work / "build", "Debug" if setup.toy else "Release"
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
