"""Odd values of the options of an export: a UsageError that names the option, and nothing is built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from refiner_export import ExportOptions, export_artefact

from refiner.arguments import shown
from refiner.errors import UsageError

NAMES = {
    "steps": "--steps",
    "streams": "--streams",
    "frames": "--frames",
    "windows": "--windows",
    "hypotheses": "--hypotheses",
    "workspace_mb": "--workspace-mb",
}


def refused(tmp_path, message, **options):
    with pytest.raises(UsageError, match=message):
        export_artefact(
            ExportOptions(**{"engine": "onnx", "output": tmp_path / "out", "checkpoint": Path("x")} | options)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [0, -1, 1.9, True, "2", 10**400, 10**5000, np.nan, [1], 2j], ids=shown)
@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers(tmp_path, name, value):
    refused(tmp_path, f"{NAMES[name]} is ", **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance_mm": 0}, "--tolerance-mm is 0"),
        ({"tolerance_mm": np.nan}, "--tolerance-mm is nan"),
        ({"tolerance_mm": "1"}, "--tolerance-mm is '1'"),
        ({"flip_test": "no"}, "--flip-test is 'no'"),
        ({"pipelined": 1}, "--pipelined is 1"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": ["cpu"]}, "no device"),
        ({"opset": "20"}, "--opset 20"),
        ({"opset": 19.5}, "--opset 19.5"),
    ],
)
def test_other_values(tmp_path, options, message):
    refused(tmp_path, message, **options)
