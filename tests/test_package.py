"""What an import and a --help may load, and that the package says one version everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import refiner

CHECKOUT = Path(__file__).parent.parent
HEAVY = ("torch", "onnx", "onnxscript", "onnxruntime", "matplotlib")
# A command that does nothing yet needs neither of these.
HEAVY_FOR_HELP = (*HEAVY, "scipy", "tqdm", "safetensors")
COMMANDS = {
    "refiner-train": "refiner.cli.train",
    "refiner-refine": "refiner.cli.refine",
    "refiner-evaluate": "refiner.cli.evaluate",
    "refiner-stream": "refiner.cli.stream",
    "refiner-calibrate": "refiner.cli.calibrate",
    "refiner-demo": "refiner_export.demo",
    "refiner-convert": "refiner.cli.convert",
    "refiner-export": "refiner_export.cli",
    "refiner-bench": "refiner_bench.cli",
}


def _loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules are loaded when the code has run in a fresh interpreter."""
    script = f"import json, sys\n{code}\nprint(json.dumps([name for name in {names!r} if name in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    loaded: list[str] = json.loads(result.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize(
    "code",
    [
        "import refiner",
        "import refiner.native, refiner.evaluation, refiner.skeleton, refiner.camera, refiner.data",
        "import refiner.data.synthetic, refiner.diffusion",
        "from refiner import Lifter, Refiner, RefinerError, native",
        "import refiner_export, refiner_bench",
    ],
)
def test_import_loads_nothing_heavy(code: str) -> None:
    assert _loaded_after(code, HEAVY) == []


@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS)
def test_help_loads_nothing_heavy(module: str) -> None:
    code = (
        f"from {module} import main\n"
        "try:\n    code = main(['--help'])\nexcept SystemExit as stop:\n    code = stop.code\nassert not code, code"
    )
    assert _loaded_after(code, HEAVY_FOR_HELP) == []


@pytest.mark.parametrize(("command", "module"), COMMANDS.items(), ids=COMMANDS)
def test_help_teaches(command: str, module: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main(['--help']))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert result.stdout.startswith(f"usage: {command}")
    assert "exit codes" in result.stdout


def test_a_command_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "refiner.cli.train", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert "usage: refiner-train" in result.stdout


def test_declared_commands_are_these() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {command: f"{module}:main" for command, module in COMMANDS.items()}


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert refiner.__version__ == project["version"]


@pytest.mark.skipif(
    not [entry for entry in entry_points(group="console_scripts") if entry.name == "refiner-refine"],
    reason="refiner is not installed in this environment, only on its path",
)
def test_installed_version_is_this_one() -> None:
    assert version("pose-refiner") == refiner.__version__


def test_no_extra_brings_both_runtimes() -> None:
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, requirements in extras.items():
        runtimes = [requirement for requirement in requirements if requirement.startswith("onnxruntime")]
        assert len(runtimes) == (name in ("cpu", "gpu"))
    assert not [requirement for requirement in extras["dev"] if requirement.startswith("pose-refiner[")]


def test_messages_that_say_what_to_install_name_this_package_and_its_extras() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    named = 0
    for package in ("refiner", "export/refiner_export", "bench/refiner_bench", "studies"):
        for file in (CHECKOUT / package).rglob("*.py"):
            for name, extras in re.findall(r"'([\w.-]*)\[([a-z0-9,-]+)\]'", file.read_text()):
                assert name == project["name"], file
                assert set(extras.split(",")) <= set(project["optional-dependencies"]), file
                named += 1
    assert named > 30


def test_the_documentation_lists_all_extras() -> None:
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = (CHECKOUT / "docs" / "use.md").read_text().split("| extra | brings | for |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.M)) == set(extras)


def test_constraints_pin_every_direct_requirement() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert all("==" in line or line.startswith("#") for line in lines)
    extras = project["optional-dependencies"]
    # Those two come from indexes of their own, and no test runs them. Detectors have environments of their own.
    tested = [name for name in extras if name not in ("gpu", "tensorrt", "mediapipe", "rtmlib")]
    wanted = [*project["dependencies"], *(entry for name in tested for entry in extras[name])]
    assert {re.split(r"[>\[]", requirement)[0].lower() for requirement in wanted} <= pinned


def test_there_is_no_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="Unknown"):
        _ = refiner.Unknown
    assert set(refiner.__all__) <= set(dir(refiner))
