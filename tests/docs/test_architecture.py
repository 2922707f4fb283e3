"""docs/architecture.md: the functions that it names exist, and the packages import what it says."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from pages import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCES = {"refiner": ROOT, "refiner_export": ROOT / "export", "refiner_bench": ROOT / "bench"}
SUBPACKAGES = {file.parent.name for file in (ROOT / "refiner").glob("*/*.py")}


def section(title):
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def named_functions(text):
    """(function, file) of every row of a table that names both."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.findall(r"`([^`]+)`", row) for row in rows]
    return [(names[0], names[1]) for names in cells if len(names) > 1 and "/" in names[1] and names[1].endswith(".py")]


def defined(file):
    """``function`` and ``Class.method`` of a file."""
    names = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names


def test_every_function_is_where_the_page_says():
    found = named_functions(TEXT)
    assert len(found) > 20
    assert [(name, file) for name, file in found if name not in defined(file)] == []
    # Named in the text.
    for name, file in (
        ("open_engine", "refiner/runtime/loading.py"),
        ("UnrolledRefiner.forward", "refiner/models/unrolled.py"),
        ("ArtefactEngine.__call__", "refiner/runtime/artefact.py"),
        ("with_figures", "bench/refiner_bench/readme.py"),
    ):
        assert f"`{name}`" in TEXT and f"`{file}`" in TEXT and name in defined(file)


def test_a_pose_reaches_the_engine_in_eight_hops(monkeypatch, tmp_path):
    """The functions of the table are called in its order."""
    import importlib

    import numpy as np

    hops = named_functions(section("From a command to the engine"))
    assert len(hops) <= 8 and hops[0] == ("main", "refiner/cli/refine.py")
    called = []

    def watch(function, name):
        def call(*given, **named):
            called.append(name)
            return function(*given, **named)

        return call

    for name, file in hops:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        owner = module
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        monkeypatch.setattr(owner, last, watch(getattr(owner, last), name))
        # Imported by name into the module of the hop before.
        if name == "run_strided":
            monkeypatch.setattr("refiner.runtime.refiner.run_strided", getattr(owner, last))
    from refiner.cli import refine

    rng = np.random.default_rng(0)
    np.save(tmp_path / "2d.npy", rng.uniform(100, 900, (30, 17, 2)))
    np.save(tmp_path / "3d.npy", rng.normal(0, 0.3, (30, 17, 3)))
    words = [
        "--pose-2d",
        str(tmp_path / "2d.npy"),
        "--pose-3d",
        str(tmp_path / "3d.npy"),
        "--image-size",
        "1000",
        "1000",
    ]
    assert refine.main([*words, "--output", str(tmp_path / "refined.npy")]) == 0
    assert list(dict.fromkeys(called)) == [name for name, _ in hops]


def package_of(module):
    """``refiner.data``, ``refiner_bench`` and so on; None for a single module of refiner."""
    parts = module.split(".")
    if parts[0] != "refiner":
        return parts[0] if parts[0] in SOURCES else None
    return f"refiner.{parts[1]}" if len(parts) > 1 and parts[1] in SUBPACKAGES else None


def imported(tree):
    """The modules that a file imports when it runs, with those of ``if TYPE_CHECKING`` left out."""
    typing = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "refiner":
                yield from (f"refiner.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_packages_import_what_the_table_says():
    found = defaultdict(set)
    exports = set()
    for package, folder in SOURCES.items():
        for file in (folder / package).rglob("*.py"):
            here = package_of(".".join(file.relative_to(folder).with_suffix("").parts))
            for module in imported(ast.parse(file.read_text())):
                there = package_of(module)
                if there is not None and here is not None and there != here:
                    found[here].add(there)
                if there == "refiner_export" and package == "refiner":
                    exports.add(file.name)
    rows = [line.strip("|").split("|") for line in section("Who imports whom").splitlines() if line.startswith("| `")]
    told = {re.findall(r"`([^`]+)`", left)[0]: set(re.findall(r"`([^`]+)`", right)) for left, right in rows}
    assert told == {package: found[package] for package in told}
    assert set(told) >= set(found)
    assert exports == set()
