"""Hooks of mkdocs: README becomes the first page, and links to files outside of docs/ lead to the repository.

People also read the pages in the repository, so that links are relative to the files there. A link to a page stays a
link to this page. A picture outside of docs/ is copied into the site. A link to any other file or folder becomes an
address below ``repo_url``. A target that does not exist is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
README, HOME = "README.md", "index.md"
BRANCH = "main"
PICTURES = (".png", ".svg", ".gif", ".jpg")
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
log = logging.getLogger("mkdocs.hooks.docs_site")


def on_files(files: Files, config: Any) -> Files:
    """Add README as the first page, and the pictures that pages show."""
    home = (ROOT / README).read_text(encoding="utf-8")
    pictures = _pictures(home, ROOT)
    for page in files.documentation_pages():
        folder = Path(page.abs_src_path).parent
        pictures |= _pictures(page.content_string, folder)
    files.append(File.generated(config, HOME, content=home))
    for picture in sorted(pictures):
        files.append(File.generated(config, _site_name(picture), abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page for the site. Code blocks are not changed."""
    here = "" if page.file.src_uri == HOME else os.path.dirname(f"docs/{page.file.src_uri}")
    site_folder = os.path.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = os.path.normpath(os.path.join(here, target))
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, path)
            return match[0]
        address = _address(path, site_folder, config["repo_url"].rstrip("/"))
        return f"{match[1]}({address}{'#' + anchor if anchor else ''})"

    parts, last = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(link, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, LINK.sub(link, markdown[last:])])


def _address(path: str, site_folder: str, repository: str) -> str:
    if path == README:
        return os.path.relpath(HOME, site_folder or ".")
    if path.startswith("docs/"):
        return os.path.relpath(path.removeprefix("docs/"), site_folder or ".")
    if path.endswith(PICTURES):
        return os.path.relpath(_site_name(path), site_folder or ".")
    return f"{repository}/{'tree' if (ROOT / path).is_dir() else 'blob'}/{BRANCH}/{path}"


def _pictures(text: str, folder: Path) -> set[str]:
    """The pictures outside of docs/ that a page shows or links to, as paths in the repository."""
    targets = [target for _, target in LINK.findall(text) if "://" not in target and target.endswith(PICTURES)]
    paths = [os.path.relpath(os.path.normpath(folder / target), ROOT) for target in targets]
    return {path for path in paths if (ROOT / path).is_file()}


def _site_name(picture: str) -> str:
    return f"pictures/{picture.removeprefix('bench/reports/pictures/')}"
