"""Several sources opened side by side: in their order, and all closed where one cannot be."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from runtime.errors import SourceError
from runtime.sources import open_all
from runtime.sources.memory import MemorySource
from runtime.sources.open_all import open_sources
from runtime.sources.several import SourceText, parse_sources
from tests.videos import moving_bar, write_video


def test_they_come_in_their_order(tmp_path):
    paths = [write_video(tmp_path / f"{n}.mp4", moving_bar(3 + n)) for n in range(4)]
    with ExitStack() as opened:
        sources = open_sources([SourceText(str(path)) for path in paths], opened)
        assert [sum(1 for _ in source) for source in sources] == [3, 4, 5, 6]


def test_they_open_at_the_same_time_and_close_where_one_fails(monkeypatch, caplog):
    made = []

    def slow(text, **options):
        time.sleep(0.3)
        if text.startswith("bad"):
            raise SourceError(f"{text} cannot be opened")
        made.append(MemorySource([], name=text))
        return made[-1]

    monkeypatch.setattr(open_all, "open_source", slow)
    wanted = [SourceText(text) for text in ("a", "bad 1", "b", "bad 2", "c")]
    started_s = time.monotonic()
    with ExitStack() as opened, pytest.raises(SourceError, match="bad 1 cannot be opened"):
        open_sources(wanted, opened)
    assert time.monotonic() - started_s < 1.2
    assert sorted(source.name for source in made) == ["a", "b", "c"]
    assert all(source._stopped for source in made)
    assert [record.message for record in caplog.records] == ["bad 2 cannot be opened"]


def test_two_ways_to_write_one_file_are_one(tmp_path):
    film = write_video(tmp_path / "film.mp4", moving_bar(3))
    (tmp_path / "link.mp4").symlink_to(film)
    with pytest.raises(ValueError, match=r"link\.mp4 is given twice; give each source once"):
        parse_sources([SourceText(str(film)), SourceText(str(tmp_path / "link.mp4"))])
