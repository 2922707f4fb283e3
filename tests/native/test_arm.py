"""The kernels on 64-bit ARM: the program of tests/native/kernels, cross-compiled and run under QEMU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A fork of a process with threads cannot start threads under QEMU; the group `fork` needs a real processor.
GROUPS = ("numbers", "products", "procrustes", "sampling", "attention", "gradients", "windows", "frames", "mixste")
GROUPS += ("pool",)
BFLOAT16_GROUPS = ("bfloat16_products", "bfloat16_networks")
QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")

pytestmark = pytest.mark.slow


def missing(what):
    """Skip by the name of what is missing; fail where REFINER_ARM_REQUIRED is set, as .ci/check-arm does."""
    if os.environ.get("REFINER_ARM_REQUIRED"):
        pytest.fail(f"{what}, and REFINER_ARM_REQUIRED is set")
    pytest.skip(what)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Builds the program once for each compiler: program(compiler) is its path."""
    built = {}

    def build(compiler):
        if compiler not in built:
            for tool in (compiler, "aarch64-linux-gnu-g++", "qemu-aarch64", "cmake", "ninja"):
                if shutil.which(tool) is None:
                    missing(f"{tool} is missing")
            folder = tmp_path_factory.mktemp("arm")
            configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={compiler}"]
            configure += ["--toolchain", "cmake/aarch64-linux-gnu.cmake", "-DREFINER_KERNEL_TESTS=ON"]
            for command in (configure, ["cmake", "--build", folder]):
                result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT)
                assert result.returncode == 0, result.stdout + result.stderr
            built[compiler] = folder / "kernel_tests"
        return built[compiler]

    return build


# An early ARMv8 processor has none of the instructions that came later: what runs on it runs on all. Clang, because
# macOS has no other compiler.
@pytest.mark.parametrize(
    ("compiler", "processor", "wanted", "bfloat16", "groups"),
    [
        ("aarch64-linux-gnu-g++", "cortex-a53", "", "none", GROUPS),
        ("aarch64-linux-gnu-g++", "cortex-a53", "baseline", "portable", BFLOAT16_GROUPS),
        ("aarch64-linux-gnu-g++", "max", "", "BFMMLA", GROUPS + BFLOAT16_GROUPS),
        ("clang++", "max", "", "BFMMLA", GROUPS + BFLOAT16_GROUPS),
    ],
)
def test_kernels_equal_their_references(program, compiler, processor, wanted, bfloat16, groups):
    command = [*QEMU, "-cpu", processor, program(compiler), *groups]
    environment = os.environ | {"REFINER_ISA": wanted}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    sys.stdout.write(f"\n{compiler}, QEMU's {processor}:\n{result.stdout}{result.stderr}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"bfloat16: {bfloat16}\n" in result.stdout
    # Every group compared something.
    counts = dict(re.findall(r"^(\w+): (\d+) comparisons, 0 failed$", result.stdout, re.MULTILINE))
    assert set(counts) == set(groups)
    assert all(int(count) > 0 for count in counts.values())


def test_a_group_that_compares_nothing_fails(program):
    """An early processor has no instructions for bfloat16."""
    command = [*QEMU, "-cpu", "cortex-a53", program("aarch64-linux-gnu-g++"), "bfloat16_products"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "bfloat16_products: 0 comparisons" in result.stdout
