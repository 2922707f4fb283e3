"""CONTRIBUTING's walkthrough: an engine is one module and one row of the table."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import site
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The weights are large, and the walkthrough exports a checkpoint of its own.
IGNORED = shutil.ignore_patterns("__pycache__", "*.safetensors")
EXPORT = "import sys; from refiner_export.cli import main; sys.exit(main(sys.argv[1:]))"
PROGRAM = """
import sys
import numpy as np
from refiner import Refiner

rng = np.random.default_rng(0)
pose_2d, pose_3d = rng.uniform(200, 800, (20, 17, 2)), rng.normal(0, 0.3, (20, 17, 3))
refined = [Refiner.load(path).refine(pose_2d, pose_3d, (1000, 1000)) for path in sys.argv[1:]]
assert np.abs(refined[0] - pose_3d).max() > 1e-3
np.testing.assert_allclose(refined[0], refined[1], atol=1e-5)
"""


def test_the_walkthrough_adds_an_engine(tmp_path):
    for needed in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: nothing can be exported")
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add an engine", 1)[1]
    module, row = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    shutil.copytree(ROOT / "refiner", tmp_path / "refiner", ignore=IGNORED)
    shutil.copytree(ROOT / "export" / "refiner_export", tmp_path / "refiner_export", ignore=IGNORED)
    (tmp_path / "refiner" / "runtime" / "toy_engine.py").write_text(module, encoding="utf-8")
    table = tmp_path / "refiner" / "engines.py"
    before, after = table.read_text(encoding="utf-8").split("_ROWS = (\n")
    table.write_text(f"{before}_ROWS = (\n{textwrap.indent(row, '    ')}{after}", encoding="utf-8")
    if importlib.util.find_spec("refiner._native") is not None:
        compiled = Path(importlib.import_module("refiner._native").__file__)
        shutil.copyfile(compiled, tmp_path / "refiner" / compiled.name)
    paths = os.pathsep.join([str(tmp_path), *site.getsitepackages(), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(program, *words):
        # Without site: an editable installation would import the checkout instead of the copy.
        command = [sys.executable, "-S", "-c", program, *words]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    checkpoint = ROOT / "tests" / "earlier" / "refiner.safetensors"
    words = ["--engine", "toy", "--checkpoint", str(checkpoint), "--windows", "4"]
    made = json.loads(run(EXPORT, *words, "--json", "--output", str(tmp_path / "out")))
    assert Path(made["artefact"]).suffix == ".toy" and made["parity"]["total"]["largest_mm"] < 0.01
    run(PROGRAM, str(checkpoint), made["artefact"])
    engines = json.loads(run(EXPORT, "doctor", "--json"))["engines"]
    assert {"engine": "toy", "build": "yes", "run": "yes"}.items() <= next(
        entry for entry in engines if entry["engine"] == "toy"
    ).items()
