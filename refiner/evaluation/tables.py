"""Tables as aligned plain text or Markdown. The first column is left-aligned, the other columns are right-aligned."""

from __future__ import annotations

from collections.abc import Sequence

from refiner.errors import ShapeError


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a plain-text table with a rule under the header. Raises ShapeError for a row of another length."""
    widths = _widths(header, rows)
    lines = [_aligned(header, widths, "  "), "  ".join("-" * width for width in widths)]
    lines += [_aligned(row, widths, "  ") for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table, whose source is aligned too. Raises ShapeError for a row of another length."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(width, 3) for width in _widths(escaped[0], escaped[1:])]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_aligned(row, widths, " | ") for row in (escaped[0], rule, *escaped[1:])]
    return "\n".join(f"| {line} |" for line in lines)


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    for row in rows:
        if len(row) != len(header):
            raise ShapeError(f"a table row has {len(row)} cells under {len(header)} columns: {list(row)}")
    return [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]


def _aligned(row: Sequence[str], widths: Sequence[int], separator: str) -> str:
    cells = [cell.ljust(widths[0]) if index == 0 else cell.rjust(widths[index]) for index, cell in enumerate(row)]
    return separator.join(cells)
