"""No function of the files that are compiled for several instruction sets is shared with another file."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8") if (ROOT / "CMakeLists.txt").is_file() else ""
SOURCES = re.findall(r"^refiner_add_isa_variants\(\w+ (\S+)\)", BUILD, re.MULTILINE)
# Points at the routine of the C++ runtime that unwinds; every compiler writes the same address.
DATA = re.compile(r"DW\.ref\.__gxx_personality_v0")


# The oldest processor and one that has every instruction set of x86-64 that the sources ask for. Nothing is run.
MACHINES = ("", "-march=sapphirerapids") if platform.machine() in ("x86_64", "AMD64") else ("",)
CROSS = "aarch64-linux-gnu-g++"


def shared_symbols(source: Path, target: Path, machine: str = "", compiler: str = "c++") -> list[str]:
    """The symbols of which the linker keeps one copy among all files, when nothing is inlined by choice."""
    words: list[str] = [shutil.which(compiler) or "", "-std=gnu++17", "-O0", "-fPIC", "-fvisibility=hidden"]
    include = ROOT / "csrc" / "include"
    words += [machine] if machine else []
    words += [
        "-Wno-psabi",
        f"-I{include}",
        "-DREFINER_ISA_NAMESPACE=isa_baseline",
        "-c",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(words, check=True)
    listed = subprocess.run(["nm", "-C", str(target)], check=True, capture_output=True, text=True).stdout
    weak = [line.split(maxsplit=2)[2] for line in listed.splitlines() if re.match(r"[0-9a-f]+ [VWu] ", line)]
    return [name for name in weak if not DATA.search(name)]


pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nm names weak symbols as ELF has them"),
    pytest.mark.skipif(not all(map(shutil.which, ("c++", "nm"))), reason="no compiler here"),
    pytest.mark.skipif(not SOURCES, reason="not in a checkout"),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("source", SOURCES)
def test_no_function_is_shared(tmp_path, source, machine):
    assert shared_symbols(ROOT / source, tmp_path / "object.o", machine) == []


@pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"{CROSS} is missing")
@pytest.mark.parametrize("source", SOURCES)
def test_no_function_is_shared_on_arm(tmp_path, source):
    assert shared_symbols(ROOT / source, tmp_path / "object.o", "-march=armv8.2-a+bf16", CROSS) == []


def test_a_shared_function_is_found(tmp_path):
    source = tmp_path / "shared.cpp"
    source.write_text("inline int twice(int x) { return 2 * x; }\nint four(int x) { return twice(twice(x)); }\n")
    assert shared_symbols(source, tmp_path / "object.o") == ["twice(int)"]
