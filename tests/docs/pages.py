"""The pages that users read, cut into blocks of code, links and headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Pages that are not of the documentation, but link to it.
OTHER_PAGES = ("refiner/checkpoints/README.md", "export/examples/web/README.md")
LINKING = [*PAGES, *(ROOT / page for page in OTHER_PAGES)]
FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# On the line above a block that no test runs.
NOT_RUN = re.compile(r"<!-- not run: (?P<why>.+) -->\n$")
SEPARATORS = ("&&", "|", ";", ">")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block; ``not_run`` says why no test runs it."""

    where: str
    language: str
    text: str
    not_run: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block as words, without comments, redirections and variables."""
        found: list[list[str]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((place for place, word in enumerate(words) if word in SEPARATORS), len(words))
                command = words[:end]
                while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                    command = command[1:]
                if command:
                    found.append(command)
                words = words[end + (2 if words[end : end + 1] == [">"] else 1) :]
        return found


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        marker = NOT_RUN.search(text[: found.start()])
        where = f"{page_name(page)}:{line}"
        blocks.append(Block(where, found["language"], found["text"], marker["why"] if marker else None))
    return blocks


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
