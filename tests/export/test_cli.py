"""refiner-export as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from refiner_export import cli, graph

from refiner import bundled


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
        (["--engine", "tensor"], 2, "there is no engine 'tensor'; choose one of onnx, openvino, trt"),
        (["--engine", "onnx", "--batch", "8:1:1"], 2, "MIN:OPT:MAX in rising order"),
        (["--engine", "onnx", "--with-lifter", "--checkpoint", "LIFTER"], 5, "no bundled lifter"),
        (["inspect", "none.onnx"], 5, "there is no artefact"),
        (["inspect", "FILE"], 5, "no manifest at"),
        (["--engine", "onnx", "--windows", "0"], 2, "--windows is 0; expected a whole number from 1"),
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
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    assert cli.main([named.get(option, option) for option in options]) == code
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert list(tmp_path.rglob("*.onnx")) == []


def test_exports_the_bundled_refiner(exported, write_checkpoint, tmp_path, monkeypatch, capsys):
    import onnx

    model = onnx.load(exported["refiner"][1].path)
    monkeypatch.setattr(graph, "trace", lambda module, kind, opset, fixed_batch: model)
    monkeypatch.setattr(bundled, "FOLDER", write_checkpoint("refiner").parent)
    monkeypatch.setattr(bundled, "DEFAULTS", {"lifter": "lifter", "refiner": "refiner"})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--engine", "onnx", "--windows", "5"]) == 0
    text = capsys.readouterr().out
    assert "transposes" in text and "comparing with PyTorch" in text and "Refiner.load(" in text
    folder = tmp_path / "refiner-onnx-fp32"
    assert [path.name for path in sorted(folder.iterdir())] == [
        "refiner-f27-j17-k2-fp32.onnx",
        "refiner-f27-j17-k2-fp32.onnx.json",
    ]
    assert cli.main(["inspect", str(folder / "refiner-f27-j17-k2-fp32.onnx")]) == 0
    text = capsys.readouterr().out
    assert "refiner for onnx, fp32" in text and "K = 2, timesteps [49, 24]" in text and "mm on 67 windows" in text
    assert cli.main(["inspect", "--json", str(folder / "refiner-f27-j17-k2-fp32.onnx")]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "refiner"
    # Again, from the cache, as one JSON object.
    assert cli.main(["--engine", "onnx", "--windows", "5", "--json", "--output", "again"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["cached"] and (tmp_path / facts["artefact"]).is_file() and "built before" in captured.err
    assert cli.main(["--engine", "onnx", "--windows", "5", "--dry-run", "--output", "third"]) == 0
    assert "built_before   True" in capsys.readouterr().out and not (tmp_path / "third").exists()


def test_an_interrupt_is_130(write_checkpoint, tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(graph, "trace", interrupt)
    options = ["--engine", "onnx", "--checkpoint", str(write_checkpoint("lifter")), "--output", str(tmp_path / "out")]
    assert cli.main(options) == 130
    assert "interrupted" in capsys.readouterr().err and list(tmp_path.rglob("*.*")) == []


def test_a_second_export_needs_no_pytorch(exported, write_checkpoint, tmp_path, monkeypatch):
    """What was built before is found without importing what builds: that is what makes it instant."""
    import onnx

    model = onnx.load(exported["refiner"][1].path)
    monkeypatch.setattr(graph, "trace", lambda module, kind, opset, fixed_batch: model)
    options = ["--engine", "onnx", "--windows", "3", "--checkpoint", str(write_checkpoint("refiner"))]
    assert cli.main([*options, "--output", str(tmp_path / "first")]) == 0
    code = (
        "import sys; from refiner_export.cli import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules), 'imported too much'"
    )
    again = [sys.executable, "-c", code, *options, "--output", str(tmp_path / "second")]
    result = subprocess.run(again, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "built before" in result.stdout and len(list((tmp_path / "second").iterdir())) == 2


def test_the_doctor_knows_what_is_missing(capsys, monkeypatch):
    from refiner_export import doctor

    assert cli.main(["doctor", "--json"]) == 0
    found = {entry["engine"]: entry for entry in json.loads(capsys.readouterr().out)["engines"]}
    assert set(found) == {"onnx", "openvino", "trt", "trt-rtx", "aoti", "torch"}
    assert found["onnx"]["build"] == found["onnx"]["run"] == "yes" and "CPU" in found["onnx"]["note"]
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for words in ("pose-refiner[openvino]", "pose-refiner[tensorrt]", "pose-refiner[tensorrt-rtx]", "build: no"):
        assert words in text
