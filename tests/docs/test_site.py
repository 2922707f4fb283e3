"""The site builds without a warning: links, anchors, places in the navigation, docstrings."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from pages import ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed: the extra docs")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: the extra docs")


PAGE = "export/examples/web/page.jpg"


def build(folder, *options):
    environment = {**os.environ, "REPO_URL": "https://example.org/somebody/refiner", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_site_builds_strictly(tmp_path):
    result = build(tmp_path / "site")
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    home = (tmp_path / "site" / "index.html").read_text()
    # README is the first page: its links to pages stay in the site, those to other files go to the repository.
    assert 'href="accuracy.html"' in home and 'href="https://example.org/somebody/refiner/blob/main/examples/' in home
    assert "docs/" not in "".join(re.findall(r'href="([^"]+)"', home))
    assert (tmp_path / "site" / "pictures" / PAGE).is_file() and f'src="pictures/{PAGE}"' in home
    streaming = (tmp_path / "site" / "streaming.html").read_text()
    assert 'src="pictures/live-view.png"' in streaming
    study = (tmp_path / "site" / "screen-models.html").read_text()
    assert 'href="https://example.org/somebody/refiner/tree/main/bench/reports/pictures/study"' in study
    reference = (tmp_path / "site" / "reference" / "pipeline.html").read_text()
    assert "look_ahead" in reference and "compare_input" in reference and "sees_rays" in reference


def test_a_link_to_a_file_that_is_not_there_ends_the_build(tmp_path):
    configuration = (ROOT / "mkdocs.yml").read_text()
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "page.md").write_text("# Page\n\n[code](../refiner/nothing.py) and [page](#no-heading)\n")
    nav = re.sub(r"^nav:\n(  .*\n)+", "nav:\n  - index.md\n  - page.md\n", configuration, flags=re.MULTILINE)
    nav = nav.replace(".ci/docs_site.py", str(ROOT / ".ci" / "docs_site.py"))
    (tmp_path / "mkdocs.yml").write_text(nav)
    result = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert result.returncode != 0
    assert "page.md links to refiner/nothing.py, which does not exist" in result.stderr
    assert "no-heading" in result.stderr
