"""The products of the native engine, for every instruction set, against float64 on the same rounded operands."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "products_library.cpp"
# For each form its options of the compiler, the flag of the processor that runs it, and its products in bfloat16.
FORMS = {
    "baseline": ([], None, "portable"),
    "amx emulated": (["-DREFINER_AMX", "-DREFINER_AMX_EMULATED"], None, "AMX"),
}
if platform.machine() in ("x86_64", "AMD64"):
    BF16 = ["-march=x86-64-v4", "-mavx512bf16"]
    FORMS |= {
        "v3": (["-march=x86-64-v3"], "avx2", "portable"),
        "v4": (["-march=x86-64-v4"], "avx512bw", "portable"),
        "bf16": (BF16, "avx512_bf16", "AVX-512-BF16"),
        "amx": ([*BF16, "-mamx-tile", "-mamx-bf16", "-DREFINER_AMX"], "amx_bf16", "AMX"),
        "amx emulated on AVX-512": ([*BF16, "-DREFINER_AMX", "-DREFINER_AMX_EMULATED"], "avx512_bf16", "AMX"),
    }
STORE, GELU, ADD = range(3)
FLOATS = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here"),
    pytest.mark.skipif(not (ROOT / "csrc" / "cpu" / "products.cpp").is_file(), reason="not in a checkout"),
]


def processor_has(flag):
    info = Path("/proc/cpuinfo")
    return flag is None or (info.is_file() and flag in info.read_text(encoding="ascii").split())


@pytest.fixture(scope="module", params=FORMS)
def library(request, tmp_path_factory):
    options, flag, name = FORMS[request.param]
    if not processor_has(flag):
        pytest.skip(f"this processor has no {flag}")
    target = tmp_path_factory.mktemp("products") / "library.so"
    words = [shutil.which("c++"), "-std=gnu++17", "-O1", "-fPIC", "-shared", "-Wno-psabi", "-fno-math-errno"]
    words += [*options, "-DREFINER_ISA_NAMESPACE=isa_test", f"-I{ROOT / 'csrc' / 'include'}"]
    subprocess.run([*words, str(SOURCE), "-o", str(target)], check=True)
    loaded = ctypes.CDLL(str(target))
    whole = ctypes.c_int64
    loaded.product.argtypes = [ctypes.c_bool, ctypes.c_int, FLOATS, whole, FLOATS, *[whole] * 6]
    loaded.product.argtypes += [ctypes.c_void_p, ctypes.c_float, FLOATS]
    loaded.product.restype = None
    loaded.name.restype, loaded.panel.restype, loaded.depth.restype = ctypes.c_char_p, whole, whole
    assert loaded.name(False) == b"float32" and loaded.name(True) == name.encode()
    return loaded


def in_bfloat16(values):
    """The nearest numbers of bfloat16, ties to even, as float32; by arithmetic, not by bits."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    return np.ldexp(np.round(mantissa * 256.0), exponent - 8).astype(np.float32)


def same(values):
    return np.asarray(values, np.float32)


def run(
    library, bfloat16, end, a, weight, bias=None, *, first_input=0, first_output=0, outputs=None, eps=0.0, out=None
):
    outputs = len(weight) - first_output if outputs is None else outputs
    result = np.full((len(a), outputs), np.nan, np.float32) if out is None else out.copy()
    address = None if bias is None else bias.ctypes.data
    library.product(
        bfloat16, end, a, len(a), weight, *weight.shape, first_input, a.shape[1], first_output, outputs, address, eps,
        result,
    )  # fmt: skip
    return result


def problem(seed, rows, inputs, outputs):
    rng = np.random.default_rng(seed)
    a = rng.normal(0, 2, (rows, inputs)).astype(np.float32)
    weight = rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
    return a, weight, rng.normal(0, 1, outputs).astype(np.float32), rng.normal(0, 1, (rows, outputs)).astype(np.float32)


SIZES = [
    (1, 2, 1), (5, 9, 64), (6, 64, 65), (7, 48, 130), (17, 256, 96), (31, 96, 200), (32, 34, 64), (33, 100, 7),
    (48, 512, 64), (65, 31, 129),
]  # fmt: skip


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_products_equal_float64(library, bfloat16, rows, inputs, outputs):
    a, weight, bias, residual = problem(rows, rows, inputs, outputs)
    rounded = in_bfloat16 if bfloat16 else same
    exact = rounded(a).astype(np.float64) @ rounded(weight).astype(np.float64).T
    # Sums of `inputs` products of the size 2 / sqrt(inputs), each rounded to float32.
    close = {"rtol": 0, "atol": 2e-6 * max(1.0, inputs**0.5 / 4)}
    np.testing.assert_allclose(run(library, bfloat16, STORE, a, weight), exact, **close)
    np.testing.assert_allclose(run(library, bfloat16, STORE, a, weight, bias), exact + bias, **close)
    added = run(library, bfloat16, ADD, a, weight, bias, out=residual)
    np.testing.assert_allclose(added, exact + bias + residual, **close)
    activated = run(library, bfloat16, GELU, a, weight, bias)
    expected = (exact + bias) * ndtr(exact + bias)
    if bfloat16:  # the result is an operand; half a unit in its last place
        np.testing.assert_allclose(activated, expected, rtol=2.0**-8, atol=close["atol"])
        np.testing.assert_array_equal(in_bfloat16(activated), activated)
    else:
        np.testing.assert_allclose(activated, expected, **close)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_parts_of_a_weight_matrix(library, bfloat16):
    panel = library.panel(bfloat16)
    _, weight, bias, _ = problem(3, 1, 160, 5 * panel + 3)
    a = problem(4, 19, 64, 1)[0]
    rounded = in_bfloat16 if bfloat16 else same
    for first_input, first_output, outputs in ((0, 0, panel), (64, 2 * panel, 2 * panel), (96, 4 * panel, panel + 3)):
        part = weight[first_output : first_output + outputs, first_input : first_input + 64]
        exact = rounded(a).astype(np.float64) @ rounded(part).astype(np.float64).T + bias[:outputs]
        result = run(
            library, bfloat16, STORE, a, weight, bias, first_input=first_input, first_output=first_output,
            outputs=outputs,
        )  # fmt: skip
        np.testing.assert_allclose(result, exact, rtol=0, atol=5e-6)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("dim", [2, 16, 40, 64, 72, 256])
def test_layer_norm(library, bfloat16, dim):
    rng = np.random.default_rng(dim)
    a = (rng.normal(0, 1, (9, dim)) * rng.uniform(0.01, 30, (9, 1)) + rng.normal(0, 3, (9, 1))).astype(np.float32)
    identity = np.eye(dim, dtype=np.float32)
    exact = a.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-5)
    result = run(library, bfloat16, STORE, a, identity, eps=1e-5)
    np.testing.assert_allclose(result, exact, rtol=2.0**-8 if bfloat16 else 1e-5, atol=2e-4 if dim == 2 else 2e-5)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_row_is_the_same_alone_and_keeps_its_own_broken_numbers(library, bfloat16):
    a, weight, bias, _ = problem(5, 41, 96, 70)
    whole = run(library, bfloat16, GELU, a, weight, bias)
    for first, last in ((0, 1), (3, 9), (16, 41), (40, 41)):
        alone = run(library, bfloat16, GELU, a[first:last].copy(), weight, bias)
        np.testing.assert_array_equal(alone, whole[first:last])
    a[7, 3], a[20, 5], a[33, 95] = np.nan, np.inf, -np.inf
    spoilt = run(library, bfloat16, GELU, a, weight, bias)
    np.testing.assert_array_equal(np.delete(spoilt, (7, 20, 33), 0), np.delete(whole, (7, 20, 33), 0))
    assert np.isnan(spoilt[7]).all() and not np.isfinite(spoilt[[20, 33]]).all()


def test_roundings_to_bfloat16(library):
    """Ties to even, NaN of every kind, and the largest numbers."""
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 3.3e38, 2.0**-100, 0.0, -0.0])
    strange = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    values = np.concatenate([ties.astype(np.float32), strange]).reshape(-1, 1).repeat(2, axis=1)
    values[:, 1] = 0.0
    result = run(library, True, STORE, values, np.array([[1.0, 0.0]], np.float32))[:, 0]
    np.testing.assert_array_equal(result[: len(ties)], in_bfloat16(ties.astype(np.float32)))
    assert np.isnan(result[len(ties) :]).all()


def test_gelu_far_out(library):
    """Its error everywhere, and what large numbers, infinities and NaN give."""
    x = np.concatenate([np.linspace(-14, 14, 20001), [-1e30, -50, -1e-30, 0, 1e-30, 50, 1e30]]).astype(np.float32)
    one = np.ones((1, 1), np.float32)
    result = run(library, False, GELU, x[:, None].copy(), one)[:, 0]
    exact = x.astype(np.float64) * ndtr(x.astype(np.float64))
    assert np.abs(result - exact)[np.abs(x) <= 14].max() < 6e-7
    np.testing.assert_allclose(result, exact, rtol=1e-6, atol=6e-7)
    assert np.isnan(run(library, False, GELU, np.array([[np.nan]], np.float32), one)).all()
