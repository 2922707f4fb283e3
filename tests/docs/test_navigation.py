"""Every page has a place in the site, and the reference names what there is."""

from __future__ import annotations

import importlib
import re

from pages import PAGES, ROOT

DOCS = ROOT / "docs"


def test_every_page_has_a_place_in_the_site():
    nav = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(nav) == sorted(["index.md", *(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))])


def test_what_the_reference_names_is_there_with_a_docstring():
    names = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
    assert {"refiner.runtime.refiner.Refiner", "refiner.evaluation.mpjpe", "refiner.errors"} <= set(names)
    assert len(names) == len(set(names))
    for name in names:
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last, None)
        assert (found or importlib.import_module(name)).__doc__, name
