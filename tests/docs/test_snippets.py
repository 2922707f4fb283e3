"""The code of README and docs runs; commands that need data, a device or minutes are valid for the real parsers."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from itertools import pairwise

import numpy as np
import pytest
from pages import PAGES, ROOT, blocks_of, page_name

pytest.importorskip("torch", reason="torch is not installed: the pages load checkpoints")
pytest.importorskip("safetensors", reason="safetensors is not installed: the pages load checkpoints")
pytest.importorskip("onnx", reason="onnx is not installed: the pages export")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: the pages export")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the pages run what they export")

from refiner_bench.cli import build_parser as bench_parser
from refiner_bench.cli import main as bench
from refiner_bench.gpu.command import build_parser as quarter_hour_parser
from refiner_export import demo
from refiner_export.cli import build_doctor_parser, build_inspect_parser, options_of
from refiner_export.cli import build_parser as export_parser
from refiner_export.cli import main as export
from torch.distributed.run import get_args_parser as torchrun_parser

from refiner.camera import look_at_camera
from refiner.cli import calibrate, convert, evaluate, refine, stream, train
from refiner.data import DetectorModel, camera_clips
from refiner.data.synthetic import synthetic_motion
from refiner.errors import RefinerError

MODULES = {
    "refiner-refine": refine,
    "refiner-stream": stream,
    "refiner-evaluate": evaluate,
    "refiner-train": train,
    "refiner-calibrate": calibrate,
    "refiner-convert": convert,
    "refiner-demo": demo,
}
PARSERS = {name: module.build_parser for name, module in MODULES.items()}
PARSERS |= {"refiner-bench": bench_parser, "bench/gpu/quarter-hour": quarter_hour_parser}
MAINS = {name: module.main for name, module in MODULES.items()}
MAINS |= {"refiner-bench": bench, "refiner-export": export}
LANGUAGES = ("python", "sh", "json", "text")
# Programs that are not ours, and two names that stand for one.
OTHERS = ("cmake", "python3", "source", "my-camera", "build/example/refine_file")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def example(name):
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), ROOT / "examples" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_command(words):
    """Raises where a command is none, or has an option or a choice that there is not."""
    program, rest = words[0], words[1:]
    if program == "refiner-export" and rest[:1] in (["inspect"], ["doctor"]):
        parser = build_inspect_parser() if rest[0] == "inspect" else build_doctor_parser()
        parser.parse_args(rest[1:])
    elif program == "refiner-export":
        options_of(export_parser().parse_args(rest)).check()
    elif program == "refiner-train":
        # The configuration too: its name, and the keys of --set.
        train.configuration_of(PARSERS[program]().parse_args(rest))
    elif program == "torchrun":
        launched = torchrun_parser().parse_args(rest)
        assert (launched.module, launched.training_script) == (True, train.__name__), words
        check_command(["refiner-train", *launched.training_script_args])
    elif program in PARSERS:
        PARSERS[program]().parse_args(rest)
    elif program == "make":
        targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
        assert rest[0] in targets, words
    elif program == "pip":
        assert rest[0] == "install", words
        for asked in re.findall(r"\[(.+)\]", " ".join(rest)):
            assert set(asked.split(",")) <= extras(), words
    elif program == "python" and rest[0] == "-m":
        importlib.import_module(f"{rest[1]}.__main__").build_parser().parse_args(rest[2:])
    elif program == "npm":
        (folder,) = [ROOT / word for option, word in pairwise(rest) if option == "--prefix"]
        scripts = json.loads((folder / "package.json").read_text())["scripts"]
        assert rest[0] == "ci" or (rest[0] == "run" and rest[1] in scripts), words
    elif program == "python":
        example(rest[0].removeprefix("examples/")).build_parser().parse_args(rest[1:])
    else:
        assert program in OTHERS or (ROOT / program).is_file(), words


def checked(where, words):
    try:
        check_command(words)
    except SystemExit:
        pytest.fail(f"{where}: {' '.join(words)} is no valid command; its parser's message is on stderr")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks_name_their_language_and_say_why_they_are_not_run(page):
    text = page.read_text()
    blocks = blocks_of(page)
    assert [block.where for block in blocks if block.language not in LANGUAGES] == []
    assert text.count("\n```") == 2 * len(blocks) and text.count("<!-- not run") == sum(
        block.not_run is not None for block in blocks
    )
    # Code that is indented instead of fenced would not be seen.
    assert re.findall(r"\n\n    +(?:refiner-|bench/|pip |make |import |from )", text) == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_are_those_of_the_parsers(page):
    for block in blocks_of(page):
        if block.language == "sh":
            assert block.commands, block.where
            for words in block.commands:
                checked(block.where, words)
        elif block.language == "python":
            compile(block.text, block.where, "exec")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_commands_of_the_examples_are_those_of_the_parsers(file):
    text = example(file.name).__doc__
    lines = [line.split("#")[0].split() for line in text.splitlines() if re.match(r" +(python|refiner-)", line)]
    assert lines
    for words in lines:
        checked(file.name, words)


def test_a_wrong_command_is_refused(capsys):
    for words in (
        ["refiner-refine", "--no-such-option"],
        ["refiner-export", "--engine", "salad"],
        ["refiner-train", "refiner", "--config", "no-such-config", "--output", "x"],
        ["refiner-train", "refiner", "--config", "refiner-small", "--set", "training.salad=1", "--output", "x"],
        ["refiner-bench", "salad"],
        ["make", "salad"],
        ["pip", "install", ".[salad]"],
        ["npm", "run", "salad", "--prefix", "export/examples/web"],
        ["salad"],
    ):
        with pytest.raises((SystemExit, AssertionError, RefinerError)):
            check_command(words)


@pytest.fixture
def world(tmp_path, monkeypatch, webcam, export_cache):
    """A folder with the files that the pages name, a cache of exports, and stand-ins for a webcam and its detector."""
    camera = look_at_camera((3.5, 2.0, 1.6), (0.0, 0.0, 1.0), 1450.0, 1920, 1080)
    actions = {"pose": "Walking", "walk": "Walking", "sit": "SittingDown"}
    for name, action in actions.items():
        motion = {"Ann": {action: synthetic_motion(7, action, 100)}}
        (clip,) = camera_clips(motion, [camera], detector=DetectorModel.default())
        np.save(tmp_path / f"{name}_2d.npy", clip.pose_2d)
        noise = np.random.default_rng(7).normal(scale=0.03, size=clip.pose_3d.shape)
        np.save(tmp_path / f"{name}_3d.npy", clip.pose_3d + noise)
    np.save(tmp_path / "confidence.npy", np.full((100, 17), 0.9))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(export_cache))
    monkeypatch.delenv("REFINER_DATA", raising=False)
    return tmp_path


RUN = [page for page in PAGES if any(b.not_run is None and b.language in ("python", "sh") for b in blocks_of(page))]


# A lens that is not stated is a warning, which the pages accept where they state none.
@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
@pytest.mark.parametrize("page", RUN, ids=page_name)
def test_a_page_runs_from_its_beginning_to_its_end(page, world, capsys):
    names = {}
    for block in blocks_of(page):
        if block.not_run is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, block.where, "exec"), names)
        elif block.language == "sh":
            for words in block.commands:
                code = MAINS[words[0]](words[1:])
                assert code == 0, (block.where, words, capsys.readouterr().err)
    # A page that says what it writes has written it.
    for output in re.findall(
        r"--output (\S+\.(?:npy|jsonl))", "".join(b.text for b in blocks_of(page) if not b.not_run)
    ):
        assert (world / output).stat().st_size > 0
