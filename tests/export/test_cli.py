"""refiner-export as a user calls it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from refiner_export import cli, onnx_export

from refiner.runtime import loading


def test_help_is_instant_and_teaches():
    code = (
        "import sys; from refiner_export.cli import main; assert main(['--help']) == 0; "
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    for text in ("examples:", "--checkpoint", "4 a gate refused", "onnx"):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "--engine"),
        (["--engine", "trt"], 2, "this version builds onnx only, not 'trt'"),
        (["--engine", "onnx", "--windows", "0"], 2, "at least 1"),
        (["--engine", "onnx", "--opset", "9", "--checkpoint", "LIFTER"], 2, "18 to 22"),
        (["--engine", "onnx", "--output", "FILE"], 2, "is a file"),
        (["--engine", "onnx", "--checkpoint", "none.safetensors"], 5, "no checkpoint"),
        (["--engine", "onnx", "--checkpoint", "FILE"], 5, "no readable safetensors file"),
        (["--engine", "onnx", "--checkpoint", "LIFTER", "--steps", "3"], 2, "no denoising steps"),
        (["--engine", "onnx"], 5, "no bundled refiner"),
    ],
)
def test_errors(options, code, message, write_checkpoint, tmp_path, monkeypatch, capsys):
    file = tmp_path / "file.safetensors"
    file.write_text("no checkpoint at all")
    named = {"FILE": str(file), "LIFTER": str(write_checkpoint("lifter"))}
    monkeypatch.setattr(loading, "BUNDLED", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    assert cli.main([named.get(option, option) for option in options]) == code
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert list(tmp_path.rglob("*.onnx")) == []


def test_exports_the_bundled_refiner(exported, write_checkpoint, tmp_path, monkeypatch, capsys):
    import onnx

    model = onnx.load(exported["refiner"][1].path)
    monkeypatch.setattr(onnx_export, "trace", lambda module, kind, opset: model)
    monkeypatch.setattr(loading, "BUNDLED", write_checkpoint("refiner").parent)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--engine", "onnx", "--windows", "5"]) == 0
    text = capsys.readouterr().out
    assert "transposes; comparing with PyTorch" in text and "Refiner.load(" in text
    assert [path.name for path in sorted((tmp_path / "refiner-onnx-fp32").iterdir())] == [
        "refiner-f27-j17-k2-fp32.json",
        "refiner-f27-j17-k2-fp32.onnx",
    ]


def test_an_interrupt_is_130(write_checkpoint, tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "trace", interrupt)
    options = ["--engine", "onnx", "--checkpoint", str(write_checkpoint("lifter")), "--output", str(tmp_path / "out")]
    assert cli.main(options) == 130
    assert "interrupted" in capsys.readouterr().err and list(tmp_path.rglob("*.*")) == []
