"""Links lead somewhere, and README is short."""

from __future__ import annotations

import re

import pytest
from pages import LINKING, ROOT, anchors_of, page_name, prose_of

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", LINKING, ids=page_name)
def test_links_lead_to_files_and_headings_of_the_checkout(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        there = file.exists() and file.is_relative_to(ROOT)
        if not there or (anchor and (file.suffix != ".md" or anchor not in anchors_of(file))):
            broken.append(link)
    assert broken == []


def test_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 10_000
    linked = {link.partition("#")[0] for link in re.findall(r"\]\((docs/[^)\s]+)\)", text)}
    assert {page.relative_to(ROOT).as_posix() for page in DOCS.glob("*.md")} <= linked
    examples = {f"examples/{file.name}" for file in (ROOT / "examples").glob("*.py")}
    assert examples == set(re.findall(r"^\| \[`\w+\.py`\]\((examples/\w+\.py)\)", text, re.MULTILINE))
