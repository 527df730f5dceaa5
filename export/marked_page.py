"""A page that people write, with a part between two marks that a command writes."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import ExportError
from runtime.files import whole_file

END = "<!-- end -->"


def begin_mark(command: str) -> str:
    """The line before the part that a command writes.

    Example:
        >>> begin_mark("python -m export.scale --write")
        '<!-- written by python -m export.scale --write -->'
    """
    return f"<!-- written by {command} -->"


def write_between_marks(text: str, path: Path, begin: str) -> None:
    """Replace what is between a page's marks; the rest of it stays.

    Args:
        text: What to put there, Markdown.
        path: The page.
        begin: Its first mark, of `begin_mark`.

    Raises:
        ExportError: The page has no marks.
    """
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ExportError(f"{path} has no marks {begin} and {END}; put them where the tables go")
    with whole_file(path) as part:
        part.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}", encoding="utf-8")
