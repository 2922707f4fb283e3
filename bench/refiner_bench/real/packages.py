"""Downloads the videos and the detector with pip from the Python registry into a cache folder.

MediaPipe 0.10.14 needs an older protobuf than our exporter, and its wheel requires JAX, which pose detection never
loads. It therefore gets its own environment with only the packages that it loads. All versions are pinned: another
OpenCV decodes the videos slightly differently, and the detector then swaps left and right in other frames.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import refiner
from refiner.errors import InputError, MissingComponentError
from refiner.files import sha256_of

MEDIAPIPE = "mediapipe==0.10.14"
DETECTOR_NEEDS = (
    "numpy==2.2.6",
    "opencv-python-headless==4.12.0.88",
    "protobuf==4.25.9",
    "absl-py==2.3.1",
    "attrs==25.4.0",
    "flatbuffers==25.9.23",
    "matplotlib==3.10.8",
)
# A video takes seconds. This limit ends a detector that hangs.
DETECTION_TIMEOUT_S = 1800


class UnavailableError(MissingComponentError):
    """A package is not available: the registry cannot be reached, or has nothing for this Python and machine."""


@dataclass(frozen=True)
class Package:
    """A pinned wheel and the files that are used from it."""

    requirement: str
    sha256: str
    files: tuple[str, ...]


_DEMO = "Pose2Sim/Demo_SinglePerson"
POSE2SIM = Package(
    "pose2sim==0.10.40",
    "245d6682beb8c66309bdc99c577ba7ff4cd14b85bd1e23053dfa4b6bf45646c9",
    (*(f"{_DEMO}/videos/cam0{number}.mp4" for number in (1, 2, 3, 4)), f"{_DEMO}/calibration/Calib.qca.txt"),
)
SPORTS2D = Package(
    "sports2d==0.8.29",
    "905a2863d9927ae6136b54b5606d43cd7423fe6f733c3506110aad964b30c8c3",
    ("Sports2D/Demo/demo.mp4",),
)


def cache_folder() -> Path:
    """The default cache folder: ``$XDG_CACHE_HOME/refiner/real``, or below ``~/.cache`` without the variable."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refiner" / "real"


def package_files(package: Package, cache: Path) -> dict[str, Path]:
    """The files of a package by their names. They are downloaded once into ``cache``.

    Raises:
        UnavailableError: pip cannot get the wheel.
        InputError: The wheel is not the pinned one.
    """
    folder = cache / package.requirement.replace("==", "-")
    files = {Path(name).name: folder / Path(name).name for name in package.files}
    if all(path.is_file() for path in files.values()):
        return files
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        _pip(sys.executable, package.requirement, "download", "--no-deps", "--dest", temporary, package.requirement)
        (wheel,) = Path(temporary).glob("*.whl")
        if sha256_of(wheel) != package.sha256:
            raise InputError(
                f"{wheel.name} has the SHA-256 {sha256_of(wheel)}, expected {package.sha256}: the registry gave "
                "another file than the one that the figures come from"
            )
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in package.files:
                (unpacked / Path(name).name).write_bytes(archive.read(name))
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    return files


def detector_python(cache: Path) -> Path:
    """The Python interpreter of an environment with MediaPipe. The environment is made once in ``cache``.

    Raises:
        UnavailableError: pip cannot install MediaPipe. It has wheels only for Python 3.8 to 3.12.
    """
    # The name of the folder contains a hash of all pins, so that other pins get another environment.
    pins = hashlib.sha256(" ".join((MEDIAPIPE, *DETECTOR_NEEDS)).encode()).hexdigest()[:8]
    folder = cache / f"{MEDIAPIPE.replace('==', '-')}-python{sys.version_info.major}.{sys.version_info.minor}-{pins}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = folder / "complete"
    if complete.is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    _pip(str(python), MEDIAPIPE, "install", *DETECTOR_NEEDS)
    _pip(str(python), MEDIAPIPE, "install", "--no-deps", MEDIAPIPE)
    complete.touch()
    return python


def run_detector(python: Path, videos: Mapping[str, Path], result: Path) -> None:
    """Run the detector on videos.

    Args:
        python: The interpreter of `detector_python`.
        videos: The videos by name.
        result: The file for the result (``.npz``; see `detect`).

    Raises:
        InputError: The detector failed or took too long.
    """
    named = [f"{name}={path}" for name, path in videos.items()]
    library = Path(refiner.__file__).parents[1]
    command = [str(python), str(Path(__file__).with_name("detect.py")), str(result), str(library), *named]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DETECTION_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"MediaPipe took more than {DETECTION_TIMEOUT_S} s for {', '.join(videos)}") from error
    if done.returncode != 0 or not result.is_file():
        raise InputError(f"MediaPipe failed on {', '.join(videos)}: {_last_line(done.stderr)}")


def _pip(python: str, requirement: str, verb: str, *arguments: str) -> None:
    """Run pip. Raises UnavailableError with the reason that pip gives."""
    common = ("--disable-pip-version-check", "--quiet", "--only-binary", ":all:")
    done = subprocess.run([python, "-m", "pip", verb, *common, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MissingComponentError("downloading needs pip; run: python -m ensurepip")
    raise UnavailableError(f"{requirement}: {_reason(done.stderr.splitlines())}")


def _reason(lines: Sequence[str]) -> str:
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else _last_line("\n".join(lines))
    # These packages exist. If pip finds no version of them at all, it did not reach the index.
    if any("from versions: none" in line or "connection" in line.lower() for line in lines):
        return f"the Python registry cannot be reached ({reason}); check the network and pip config list"
    return f"pip does not find it for Python {sys.version_info.major}.{sys.version_info.minor} here ({reason})"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
