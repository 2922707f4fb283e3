"""The prose of code and pages: sentences have a subject, and retired words stay away."""

from __future__ import annotations

import re

import pytest
from pages import ROOT

FOLDERS = ("refiner", "export", "bench", "studies", "examples", "csrc", "docs", "tests", ".ci")
ENDINGS = {".py", ".md", ".cpp", ".h", ".cu", ".toml", ".js", ".html"}
# What npm installs and builds.
OTHERS = {"node_modules", "dist"}
FILES = [
    file
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in ENDINGS and "reports" not in file.parts and not OTHERS & set(file.parts)
]
FILES += [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
# A sentence that begins with "Of": at the start of a docstring or comment, or behind a full stop.
BEGINS_WITH_OF = re.compile(r"(?:^\s*|[.!?:;]\s+|\"\"\"|#\s|//\s|^\s*[-*]\s)Of\s+[a-z]", re.MULTILINE)
# Words of an earlier private vocabulary, as whole words.
RETIRED = re.compile(r"\bbeats?\b", re.IGNORECASE)
THIS = "test_prose.py"


@pytest.mark.parametrize(("pattern", "name"), [(BEGINS_WITH_OF, "begins with Of"), (RETIRED, "retired word")])
def test_no_sentence_is_of_the_old_style(pattern, name):
    faults = []
    for file in FILES:
        if file.name == THIS:
            continue
        text = file.read_text(encoding="utf-8")
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            faults.append(f"{file.relative_to(ROOT)}:{line}: {match.group(0).strip()}")
    assert faults == [], name
