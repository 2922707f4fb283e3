"""Every number of a configuration has a range: declared beside its field, and held to by every reader."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refiner.camera import load_cameras
from refiner.causal_state import StateLayout
from refiner.data.detector import DetectorModel
from refiner.errors import ArtefactError, CheckpointError, ConfigError, InputError
from refiner.from_toml import dataclass_from
from refiner.model_spec import RANGES, ModelSpec
from refiner.ranges import Between, Pair
from refiner.runtime.manifest import parse_manifest
from refiner.skeleton import JOINT_NAMES
from refiner.training.config import CONFIG_FOLDER, Config, load_config
from studies.accuracy.clips import Variant
from studies.accuracy.rows import TYPES, row_from
from studies.accuracy.table import Head

# The dataclasses that are read from files, with what a file must say at least.
READ: dict[type, dict[str, Any]] = {Config: {"kind": "refiner"}, Head: {}, Variant: {}}
READ |= {kind: {"name": "a", "title": "b", "group": "c"} for kind in TYPES.values()}


@dataclasses.dataclass(frozen=True)
class Number:
    """A number in a dataclass: the path of its field, its type, its range, and whether it is in a tuple."""

    owner: type
    path: tuple[str, ...]
    kind: type
    allowed: Between | Pair | None
    listed: bool

    def content(self, value: object) -> dict[str, Any]:
        """A table in which this number has a value, and everything else what it must have."""
        inner: Any = [value] if self.listed else value
        for name in reversed(self.path):
            inner = {name: inner}
        return READ[self.owner] | inner


def numbers_of(owner: type, kind: type, path: tuple[str, ...] = ()) -> list[Number]:
    found = []
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if name not in {entry.name for entry in dataclasses.fields(kind)}:
            continue
        allowed, listed = None, False
        if dataclasses.is_dataclass(hint):
            found += numbers_of(owner, hint, (*path, name))
            continue
        if typing.get_origin(hint) is Annotated:
            hint, allowed = typing.get_args(hint)
        if typing.get_origin(hint) is tuple:
            hint, listed = typing.get_args(hint)[0], not isinstance(allowed, Pair)
            if typing.get_origin(hint) is Annotated:
                hint, allowed = typing.get_args(hint)
        if hint in (int, float):
            found.append(Number(owner, (*path, name), hint, allowed, listed))
    return found


NUMBERS = [number for owner in READ for number in numbers_of(owner, owner)]
IDS = [f"{number.owner.__name__}.{'.'.join(number.path)}" for number in NUMBERS]


def outside(number: Number) -> list[object]:
    """Values that the field must not have."""
    each = number.allowed.each if isinstance(number.allowed, Pair) else number.allowed
    assert each is not None
    step = 1 if number.kind is int else 1e-3
    wrong: list[Any] = [each.least - step, -math.inf, math.inf, math.nan, 10**400, 10**6000]
    wrong += [each.most + step] if math.isfinite(each.most) else []
    wrong += [each.least] if each.above else []
    wrong += [each.least + 0.5] if number.kind is int else []
    if isinstance(number.allowed, Pair):
        good = (each.most + each.least) / 2
        pairs: list[object] = [[good, value] for value in wrong] + [[value, good] for value in wrong]
        pairs += [[good], [good, good, good], [], [True, good]]
        return [*pairs, [each.most, each.least]] if number.allowed.rising else pairs
    return [*wrong, True, False, "1", "", [1], None, {}]


def test_there_are_numbers_and_all_have_a_range():
    assert len(NUMBERS) > 90
    assert [name for name, number in zip(IDS, NUMBERS, strict=True) if number.allowed is None] == []


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_what_lies_outside_is_refused_by_the_name_of_its_field(number):
    for value in outside(number):
        with pytest.raises(ConfigError) as caught:
            dataclass_from(number.owner, number.content(value), "file")
        message = str(caught.value)
        assert message.startswith(f"file: {': '.join(number.path)}: expected "), message
        assert len(message) < 300


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_the_ends_of_a_range_are_inside(number):
    each = number.allowed.each if isinstance(number.allowed, Pair) else number.allowed
    ends = [each.least] if not each.above else [each.least + 1e-9]
    ends += [each.most] if math.isfinite(each.most) else []
    for end in ends:
        value = [number.kind(end)] * 2 if isinstance(number.allowed, Pair) else number.kind(end)
        dataclass_from(number.owner, number.content(value), "file")


@settings(max_examples=300, deadline=None)
@given(
    number=st.sampled_from(NUMBERS),
    value=st.integers() | st.floats() | st.booleans() | st.text(max_size=4) | st.lists(st.floats(), max_size=3),
)
def test_any_value_is_in_its_range_or_an_error(number, value):
    try:
        found = dataclass_from(number.owner, number.content(value), "file")
    except ConfigError as error:
        assert number.path[-1] in str(error)  # noqa: PT017 - most values are errors, and some are none
        return
    for name in number.path:
        found = getattr(found, name)
    assert number.allowed.holds(found[0] if number.listed else found)


@pytest.mark.parametrize("change", ["training.ema=2", "optimiser.clip_norm=-1", "data.new_cameras=7", "data.turn=nan"])
def test_the_command_line_is_held_to_the_same_ranges(change):
    section, key = change.partition("=")[0].split(".")
    with pytest.raises(ConfigError, match=f"{section}: {key}: expected"):
        load_config("refiner-small", [change])


def test_no_training_has_no_steps():
    with pytest.raises(ConfigError, match="training: steps: expected 1 to"):
        load_config("refiner-small", ["training.steps=0"])


@pytest.mark.parametrize("text", ["frames = " + "1" * 6000, "a = " + "[" * 100_000, "kind = \udcff", "a = ["])
def test_a_file_that_is_no_toml(tmp_path, text):
    file = tmp_path / "a.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(file)


def test_rows_of_a_study_name_the_row():
    with pytest.raises(ConfigError, match="row x: steps: expected 0 to 1000"):
        row_from({"name": "x", "kind": "score", "title": "", "group": "", "lifter": "l", "of": "o", "steps": -1}, "f")


CONFIG = json.loads(json.dumps(dataclasses.asdict(load_config("refiner-small"))))
SPEC_FIELDS = {(section, name): allowed for section, ranges in RANGES.items() for name, allowed in ranges.items()}


def test_checkpoints_have_the_ranges_of_training():
    declared = {number.path: number.allowed for number in NUMBERS if number.owner is Config}
    for path, allowed in SPEC_FIELDS.items():
        assert declared[path] == allowed, path


@pytest.mark.parametrize("config", sorted(path.stem for path in CONFIG_FOLDER.glob("*.toml")))
def test_bundled_configurations_describe_models(config):
    ModelSpec.of_config(dataclasses.asdict(load_config(config)))


ODD = [0, -1, -4, 10**7, 10**400, 2.5, math.nan, math.inf, -math.inf, True, "3", None, [], {}]


@pytest.mark.parametrize("path", [*SPEC_FIELDS, ("frames",), ("stride",)], ids=".".join)
def test_a_checkpoint_with_odd_numbers_is_refused(path):
    allowed = SPEC_FIELDS.get(path, Between(1, 10_000, whole=True))
    for value in [odd for odd in ODD if not allowed.holds(odd)]:
        content = json.loads(json.dumps(CONFIG))
        target = content
        for section in path[:-1]:
            target = target[section]
        target[path[-1]] = value
        with pytest.raises(CheckpointError, match=rf"{'.'.join(path)}: expected"):
            ModelSpec.of_config(content)


def test_a_network_that_no_machine_holds_is_refused():
    content = CONFIG | {"model": CONFIG["model"] | {"dim": 8192, "blocks": 256}}
    with pytest.raises(CheckpointError, match=r"a network of about .* weights"):
        ModelSpec.of_config(content)


MANIFEST = {"schema": 2, "kind": "refiner", "engine": "onnx", "precision": "fp32", "outputs": {}} | {
    "stride": 3,
    "fps": 50.0,
    "frames": 9,
    "trained_frames": 9,
    "steps": 2,
    "batch": {"min": 1, "opt": 1, "max": 8},
    "inputs": {"pose_2d": {"shape": ["batch", 9, 17, 2]}},
    "joints": {"names": list(JOINT_NAMES)},
}


@pytest.mark.parametrize("key", ["frames", "fps", "stride", "steps", "trained_frames"])
@pytest.mark.parametrize("value", ODD)
def test_a_manifest_with_odd_numbers_is_refused(tmp_path, key, value):
    assert getattr(parse_manifest(MANIFEST, tmp_path), key) == MANIFEST[key]
    if (key == "fps" and value == 2.5) or (key in ("steps", "trained_frames") and value is None):
        return
    with pytest.raises(ArtefactError, match=f"no usable {key}"):
        parse_manifest(MANIFEST | {key: value}, tmp_path)


@pytest.mark.parametrize(
    "shape", [["batch", 10**7], ["batch", 10**6, 10**6], ["batch", 0], ["batch", True], ["b", 1.0]]
)
def test_a_manifest_with_odd_shapes_is_refused(tmp_path, shape):
    whole = MANIFEST | {"inputs": {"pose_2d": {"shape": shape}}}
    with pytest.raises(ArtefactError, match="no usable inputs"):
        parse_manifest(whole, tmp_path)


@pytest.mark.parametrize("name", ["streams", "frames", "steps", "modules", "heads", "width", "joints"])
def test_a_state_with_odd_numbers_is_refused(name):
    usual = {"streams": 1, "frames": 9, "steps": 2, "modules": 4, "heads": 8, "width": 8}
    StateLayout(**usual)
    for value in ODD:
        with pytest.raises(ConfigError):
            StateLayout(**(usual | {name: value}))


CAMERA = json.loads((CONFIG_FOLDER.parent / "data" / "human36m_cameras.json").read_text())["cameras"][0]
DETECTOR = json.loads((CONFIG_FOLDER.parent / "data" / "detector_noise.json").read_text())


def odd_contents(content, names):
    """The content with one number after the other replaced by what is none, or lies beyond all measure."""
    for path in names:
        for odd in (True, "3", math.nan, math.inf, 1e308, -1e308, {}):
            changed = json.loads(json.dumps(content))
            target = changed
            for name in path[:-1]:
                target = target[name]
            target[path[-1]] = odd
            yield pytest.param(changed, id=f"{path}={odd}")


CAMERA_FIELDS = [("res_w",), ("res_h",)]
CAMERA_FIELDS += [(name, 0) for name in ("focal_length", "center", "radial_distortion", "t")]
DETECTOR_FIELDS = [("seed",), ("model", "slow", "rho"), ("model", "slow", "sigma_px", 0)]
DETECTOR_FIELDS += [("model", "outlier", name) for name in ("sigma_px", "mean_length_frames")]
DETECTOR_FIELDS += [("model", "left_right_swap", "start_probability")]


@pytest.mark.parametrize("changed", [*odd_contents(CAMERA, CAMERA_FIELDS)])
def test_odd_numbers_of_a_camera_are_refused(tmp_path, changed):
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps([CAMERA]))
    assert load_cameras(file)[0].width == 1000
    file.write_text(json.dumps([changed]))
    with pytest.raises(InputError):
        load_cameras(file)


@pytest.mark.parametrize("changed", [*odd_contents(DETECTOR, DETECTOR_FIELDS)])
def test_odd_numbers_of_a_detector_model_are_refused(tmp_path, changed):
    file = tmp_path / "noise.json"
    file.write_text(json.dumps(DETECTOR))
    assert DetectorModel.from_json(file).joints == 17
    file.write_text(json.dumps(changed))
    with pytest.raises(ConfigError):
        DetectorModel.from_json(file)
