"""Opens several sources side by side: each camera may take seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from runtime.errors import TdrlError
from runtime.sources.choose import open_source
from runtime.sources.frame import FrameSource
from runtime.sources.several import SourceText

logger = logging.getLogger(__name__)


def open_sources(
    wanted: Sequence[SourceText],
    opened: ExitStack,
    *,
    realtime: bool = False,
    wait: bool = False,
    software_decode: bool = False,
) -> list[FrameSource]:
    """Open sources, all at once.

    Args:
        wanted: What the user wrote.
        opened: Closes them, those that opened also where another one did not.
        realtime: See `runtime.sources.choose.open_source`.
        wait: The same.
        software_decode: The same.

    Raises:
        ValueError: No known kind of source, or a wrong query.
        SourceError: One cannot be opened; where several cannot, the others are logged.
    """

    def open_one(each: SourceText) -> FrameSource:
        return open_source(
            each.text,
            realtime=realtime,
            wait=wait,
            software_decode=software_decode,
            allow_pipeline=each.is_typed,
        )

    if len(wanted) == 1:
        source: FrameSource = opened.enter_context(open_one(wanted[0]))
        return [source]
    with ThreadPoolExecutor(len(wanted), "open") as pool:
        attempts: list[Future[FrameSource]] = [pool.submit(open_one, each) for each in wanted]
    sources: list[FrameSource] = []
    failures: list[Exception] = []
    for attempt in attempts:
        try:
            sources.append(opened.enter_context(attempt.result()))
        except (TdrlError, ValueError, OSError) as err:
            failures.append(err)
    for failure in failures[1:]:
        logger.error("%s", failure)
    if failures:
        raise failures[0]
    return sources
