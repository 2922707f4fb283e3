"""Building engine plans: TensorRT for RTX for real, which needs no GPU; TensorRT against a stand-in of two versions."""

from __future__ import annotations

import ctypes
import enum
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from refiner_export import gpu as gpu_module
from refiner_export.engines import tensorrt
from refiner_export.engines.tensorrt import (
    Device,
    TensorRtOptions,
    build_plan,
    load_tensorrt,
    require_device,
    supported_capabilities,
)

from refiner.errors import ExportError, MissingComponentError, UsageError

_SPEC = importlib.util.spec_from_file_location("fake_tensorrt", Path(__file__).parent / "fake_tensorrt.py")
assert _SPEC is not None and _SPEC.loader is not None
fake = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = fake
_SPEC.loader.exec_module(fake)

VERSIONS = ("10.16.1.11", "11.4.0.106")
BATCH = (1, 2, 4)


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


@pytest.fixture(scope="session")
def traced() -> Any:
    """A refiner of two steps, dim 16, with any batch."""
    import torch
    from refiner_export.graph import trace

    from refiner.models import PoseDenoiser, UnrolledRefiner
    from refiner.models.inference_form import inference_form

    torch.manual_seed(3)
    denoiser = PoseDenoiser(dim=16, blocks=1, heads=2, joint_embedding=True).eval()
    config = {"diffusion": {"steps": 2, "timesteps": 50, "offset": 0.008, "terminal": "zero"}, "kind": "refiner"}
    return trace(inference_form(UnrolledRefiner(denoiser, torch.full((51,), 0.05), 27, config)), "refiner")


def small_graph(batch: str | int = "batch", operator: str = "Add", rest: tuple[Any, ...] = (9, 17, 3)) -> Any:
    """One node between the inputs of a refiner."""
    from onnx import TensorProto, helper

    def tensor(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    node = helper.make_node(operator, ["pose_3d", "pose_3d"], ["refined_pose_3d"], name="the_node")
    graph = helper.make_graph(
        [node],
        "small",
        [tensor("pose_2d", batch, 9, 17, 2), tensor("pose_3d", batch, *rest), tensor("image_size", batch, 2)],
        [tensor("refined_pose_3d", batch, *rest)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def fixed(graph: Any, batch: int) -> Any:
    copied = type(graph)()
    copied.CopyFrom(graph)
    for entry in (*copied.graph.input, *copied.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    return copied


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "device_at_hand", lambda: None)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``use(version, gpu=...)``: put the stand-in in the place of its module; returns its world."""

    def install(version: str, gpu: str | None = "9.0", **changes: Any) -> Any:
        world = fake.World(gpu, **changes)
        module = fake.make_tensorrt(world, version)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        device = None if gpu is None else Device("A GPU", gpu, "CUDA 13.0")
        monkeypatch.setattr(tensorrt, "device_at_hand", lambda: device)
        return world

    return install


def for_tensorrt(**changes: Any) -> TensorRtOptions:
    return TensorRtOptions(**{"module": "tensorrt", "batch": BATCH, **changes})


def for_rtx(capability: str | None = "8.6", **changes: Any) -> TensorRtOptions:
    return TensorRtOptions(**{"module": "tensorrt_rtx", "batch": BATCH, "compute_capability": capability, **changes})


# TensorRT for RTX, for real.


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_a_refiner_is_built_for_named_gpus(rtx, traced):
    plans = {}
    for capability in ("8.6", "8.9"):
        lines: list[str] = []
        built = build_plan(traced, for_rtx(capability), lines.append)
        plans[capability] = built.plan
        facts = json.loads(json.dumps(built.facts))
        assert facts["compute_capability"] == capability and facts["device"] is None
        assert facts["module"] == "tensorrt_rtx" and facts["tensorrt"] == facts["version"] == rtx.__version__
        assert facts["strongly_typed"] is True and facts["tf32"] is False and facts["parser_warnings"] == 0
        assert facts["profile"]["pose_2d"] == [[size, 27, 17, 2] for size in BATCH]
        assert facts["inputs"]["image_size"] == {"type": "float32", "shape": [-1, 2]}
        assert facts["outputs"] == {"refined_pose_3d": {"type": "float32", "shape": [-1, 27, 17, 3]}}
        assert facts["layers"] > 100 and facts["seconds"] > 0
        assert capability in lines[0] and len(lines) > 1, lines
    assert plans["8.6"] != plans["8.9"]
    assert all(b"pose_2d" in plan and not plan.startswith(b"{") for plan in plans.values())


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu", "rtx")
def test_a_fixed_batch_needs_no_profile(traced):
    options = for_rtx("8.9", batch=(1, 1, 1), workspace_bytes=2**28, optimisation_level=0)
    built = build_plan(fixed(traced, 1), options)
    assert built.facts["profile"] == {} and built.facts["inputs"]["pose_3d"]["shape"] == [1, 27, 17, 3]
    assert built.facts["workspace_bytes"] == 2**28 and built.facts["optimisation_level"] == 0
    assert len(built.plan) > 100_000


@pytest.mark.usefixtures("no_gpu")
def test_gpus_that_cannot_be_built_for(rtx):
    assert {"7.5", "8.6", "8.9", "12.0"} <= set(supported_capabilities(rtx))
    with pytest.raises(UsageError, match=r"cannot build for compute capability 9\.9; it can for 7\.5, .*8\.6, 8\.9"):
        build_plan(small_graph(), for_rtx("9.9"))
    for check in (lambda: build_plan(small_graph(), for_rtx(None)), lambda: require_device(rtx, for_rtx(None))):
        with pytest.raises(MissingComponentError, match=r"--compute-capability: 7\.5, .*8\.9"):
            check()
    require_device(rtx, for_rtx("8.9"))


@pytest.mark.usefixtures("no_gpu", "rtx")
def test_an_unknown_operator_is_named():
    graph = small_graph(operator="Wobble")
    with pytest.raises(ExportError, match=r"TensorRT for RTX 1\..* cannot read the graph: .*the_node.*Wobble"):
        build_plan(graph, for_rtx())


@pytest.mark.usefixtures("rtx")
def test_an_interrupt_stops_a_build():
    """A signal as from the keyboard; it comes when the first stage begins, in the middle of the build."""
    script = Path(__file__).parent / "interrupted_build.py"
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["interrupted", "works again"]


@pytest.mark.usefixtures("no_gpu", "rtx")
def test_what_the_builder_says_when_it_fails(monkeypatch):
    """Without its profile the graph cannot be built, and the error has TensorRT's own words."""
    monkeypatch.setattr(tensorrt, "_add_profile", lambda *arguments: {})
    with pytest.raises(ExportError, match=r"could not build the engine: .*no optimization profile has been defined"):
        build_plan(small_graph(), for_rtx())


# TensorRT, against the stand-in.


@pytest.mark.parametrize("version", VERSIONS)
def test_the_calls_of_a_build(use, version):
    world = use(version)
    built = build_plan(small_graph(), for_tensorrt(workspace_bytes=2**30, optimisation_level=4))
    # Version 10 is told to type strongly; 11 knows no other way and no flag for it.
    assert ("create_network", 1 << 1 if version.startswith("10") else 0) in world.calls
    flags = [call for call in world.calls if call[0] in ("set_flag", "clear_flag")]
    assert flags == [("clear_flag", "TF32")]
    assert ("set_memory_pool_limit", "WORKSPACE", 2**30) in world.calls
    shapes = [call[1:] for call in world.calls if call[0] == "set_shape"]
    assert shapes == [
        ("pose_2d", (1, 9, 17, 2), (2, 9, 17, 2), (4, 9, 17, 2)),
        ("pose_3d", (1, 9, 17, 3), (2, 9, 17, 3), (4, 9, 17, 3)),
        ("image_size", (1, 2), (2, 2), (4, 2)),
    ]
    order = ["create_network", "parse", "clear_flag", "set_memory_pool_limit", *["set_shape"] * 3]
    assert world.names() == [*order, "add_optimization_profile", "build_serialized_network"]
    assert built.plan.startswith(b"plan"), "something was put in front of the plan"
    assert built.facts["version"] == built.facts["tensorrt"] == version
    assert built.facts["compute_capability"] == "9.0" and built.facts["device"] == "A GPU"
    assert built.facts["driver"] == "CUDA 13.0" and built.facts["parser_warnings"] == 1
    assert built.facts["workspace_bytes"] == 2**30 and built.facts["optimisation_level"] == 4
    assert built.facts["timing_cache"] is False and json.dumps(built.facts)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_driver_there_is_no_builder(use, version):
    use(version, gpu=None)
    trt = load_tensorrt("tensorrt")
    for check in (lambda: build_plan(small_graph(), for_tensorrt()), lambda: require_device(trt, for_tensorrt())):
        with pytest.raises(
            MissingComponentError, match=r"on the GPU that runs them; no CUDA driver.*error: 35"
        ) as caught:
            check()
        assert caught.value.exit_code == 3


def test_the_gpu_at_hand_is_what_rtx_builds_for(use):
    world = use("1.7.1.116", gpu="8.9")
    built = build_plan(small_graph(), for_rtx(None))
    assert ("set_compute_capability", "SM89", 0) in world.calls and built.facts["compute_capability"] == "8.9"
    assert ("set_flag", "REQUIRE_USER_ALLOCATION") in world.calls
    assert built.facts["device"] == "A GPU"
    use("1.7.1.116", gpu="9.0")
    with pytest.raises(MissingComponentError, match=r"the GPU here \(A GPU, compute capability 9\.0\).*--engine trt"):
        build_plan(small_graph(), for_rtx(None))


def test_a_timing_cache_is_kept_and_used(use, tmp_path):
    file = tmp_path / "folder" / "timings"
    use("10.16.1.11")
    lines: list[str] = []
    assert build_plan(small_graph(), for_tensorrt(timing_cache=file), lines.append).facts["timing_cache"] is True
    assert json.loads(file.read_bytes()[7:])["timed"] == 1
    world = use("10.16.1.11")
    build_plan(small_graph(), for_tensorrt(timing_cache=file), lines.append)
    assert json.loads(file.read_bytes()[7:])["timed"] == 2
    # Never with timings of another GPU.
    assert [call for call in world.calls if call[0] == "set_timing_cache"] == [("set_timing_cache", False)]
    assert not any("afresh" in line for line in lines)
    assert sorted(path.name for path in file.parent.iterdir()) == ["timings"]


@pytest.mark.parametrize(("version", "gpu"), [("10.16.1.11", "8.9"), ("11.4.0.106", "9.0")])
def test_a_timing_cache_of_another_machine_is_started_afresh(use, tmp_path, version, gpu):
    file = tmp_path / "timings"
    use("10.16.1.11", gpu="9.0")
    build_plan(small_graph(), for_tensorrt(timing_cache=file))
    use(version, gpu=gpu)
    lines: list[str] = []
    build_plan(small_graph(), for_tensorrt(timing_cache=file), lines.append)
    assert any("timings is of another version of TensorRT or another GPU: started afresh" in line for line in lines)
    assert json.loads(file.read_bytes()[7:]) == {"version": version, "gpu": gpu, "timed": 1}


def test_a_file_that_is_no_timing_cache_is_started_afresh(use, tmp_path):
    file = tmp_path / "timings"
    file.write_bytes(b"something else")
    use("10.16.1.11")
    lines: list[str] = []
    build_plan(small_graph(), for_tensorrt(timing_cache=file), lines.append)
    assert any("afresh" in line for line in lines) and file.read_bytes().startswith(b"timings")


def test_a_failed_build_leaves_the_timing_cache_alone(use, tmp_path):
    file = tmp_path / "timings"
    file.write_bytes(b"timings" + json.dumps({"version": "10.16.1.11", "gpu": "9.0", "timed": 5}).encode())
    before = file.read_bytes()
    use("10.16.1.11", build_error="Could not find any implementation for node")
    with pytest.raises(ExportError, match=r"TensorRT 10\.16\.1\.11 could not build the engine: Could not find any"):
        build_plan(small_graph(), for_tensorrt(timing_cache=file))
    assert file.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unreadable_graph_is_an_error_with_the_parsers_words(use, version):
    use(version)
    with pytest.raises(ExportError, match=r"TensorRT 1.* cannot read the graph: In node 0 .*operator: Wobble"):
        build_plan(small_graph(operator="Wobble"), for_tensorrt())


def test_a_fixed_batch_must_be_the_one_asked_for(use):
    world = use("11.4.0.106")
    with pytest.raises(UsageError, match=r"pose_2d has a fixed batch of 3, and the engine is to take 1:2:4"):
        build_plan(small_graph(3), for_tensorrt())
    assert build_plan(small_graph(3), for_tensorrt(batch=(3, 3, 3))).facts["profile"] == {}
    assert "add_optimization_profile" not in world.names()


def test_nothing_but_the_batch_may_be_free(use):
    use("11.4.0.106")
    with pytest.raises(ExportError, match=r"pose_3d has the shape .*only the batch may be free"):
        build_plan(small_graph(rest=("frames", 17, 3)), for_tensorrt())


def test_long_builds_say_how_far_they_are(use, monkeypatch):
    monkeypatch.setattr(tensorrt, "REPORT_EVERY", 0.0)
    use("11.4.0.106", steps=2)
    lines: list[str] = []
    build_plan(small_graph(), for_tensorrt(), lines.append)
    assert lines == [
        "building with TensorRT 11.4.0.106 for A GPU (compute capability 9.0)",
        "  timing tactics",
        "  timing tactics: 1 of 2",
        "  timing tactics: 2 of 2",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": (2, 1, 4)}, "2:1:4"),
        ({"batch": (0, 1, 4)}, "from 1"),
        ({"compute_capability": "8.6"}, "for --engine trt-rtx"),
        ({"module": "tensorrt_rtx", "timing_cache": Path("timings")}, "--timing-cache is for --engine trt"),
        ({"timing_cache": Path()}, "is a folder"),
        ({"workspace_bytes": 0}, "at least 1"),
        ({"optimisation_level": 6}, "expected 0 to 5"),
        ({"module": "torch"}, "no module 'torch'"),
    ],
)
def test_options_that_do_not_go_together(changes, words):
    with pytest.raises(UsageError, match=words):
        build_plan(small_graph(), for_tensorrt(**changes))


@pytest.mark.parametrize(("module", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")])
def test_a_missing_module_says_how_to_install_it(monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingComponentError, match=rf"pip install 'pose-refiner\[{extra}\]'\. No other engine"
    ) as caught:
        load_tensorrt(module)
    assert caught.value.exit_code == 3


# The driver, and the stand-in itself.


class Driver:
    """libcuda of a machine with one GPU."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = b"A GPU"
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        ctypes.cast(version, ctypes.POINTER(ctypes.c_int))[0] = 12090
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = {75: 12, 76: 1}[attribute]
        return 0


def test_the_device_at_hand(monkeypatch):
    monkeypatch.setattr(gpu_module, "_load_driver", Driver)
    assert gpu_module.device_at_hand() == Device("A GPU", "12.1", "CUDA 12.9")
    monkeypatch.setattr(Driver, "cuInit", lambda self, flags: 100)
    assert gpu_module.device_at_hand() is None
    monkeypatch.setattr(gpu_module, "_load_driver", lambda: None)
    assert gpu_module.device_at_hand() is None


def stand_ins() -> list[Any]:
    """Every class and enumeration that a stand-in of some version offers."""
    shared = (fake.ILogger, fake.IProgressMonitor, *fake.COMMON, *fake.OF_RTX, *fake.OF_10, *fake.OF_11)
    return [*dict.fromkeys(shared), fake.IBuilderConfig10, fake.IExecutionContextRtx]


@pytest.mark.parametrize("found", stand_ins(), ids=lambda found: found.__name__)
def test_the_stand_in_offers_nothing_that_the_real_module_lacks(rtx, found):
    name = found.__name__.removesuffix("10").removesuffix("Rtx")
    real = getattr(rtx, name)
    own = {key for key in vars(found) if not key.startswith("_")}
    if issubclass(found, enum.Enum):
        own = set(found.__members__)
        with pytest.raises(AttributeError):
            _ = found.NO_SUCH_MEMBER
        if found not in fake.OF_10:  # numbers may differ between versions
            assert {key: int(found[key]) for key in own} == {key: int(getattr(real, key)) for key in own}
    assert not [key for key in own if not hasattr(real, key) and f"{name}.{key}" not in fake.ONLY_IN_TENSORRT_10]


def test_the_stand_in_of_cuda_offers_nothing_that_the_real_module_lacks():
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for name, found in vars(fake.make_cuda(fake.World())).items():
        if name.startswith("cuda"):
            assert hasattr(real, name), name
            if isinstance(found, type) and issubclass(found, enum.IntEnum):
                assert {member.name: int(member) for member in found}.items() <= {
                    member.name: int(member) for member in getattr(real, name)
                }.items()
            elif isinstance(found, int):
                assert found == getattr(real, name)
