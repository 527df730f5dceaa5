"""Tables of the report's page; what stands in them is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> str:
    """A table that scrolls sideways where a screen is narrow.

    Args:
        heads: The columns' heads.
        rows: What stands in them.
        text_columns: So many columns hold text and begin at the left; the others hold numbers.
    """
    lines = [_row("th", heads, text_columns)] if heads else []
    lines += [_row("td", row, text_columns) for row in rows]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """What was measured and what came out, a line each; lines of both break."""
    return table((), rows, text_columns=2)


def _row(tag: str, cells: Sequence[object], text_columns: int) -> str:
    found = []
    for place, cell in enumerate(cells):
        kind = ' class="text"' if place < text_columns else ""
        found.append(f"<{tag}{kind}>{escape(str(cell))}</{tag}>")
    return f"<tr>{''.join(found)}</tr>"
