"""One run of the live command: bundle, source, session, outputs, and the last line."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.bundle import Bundle, load_bundle
from runtime.errors import SourceError, TdrlError
from runtime.interrupt import stop_on_signals
from runtime.live import Stream
from runtime.outputs import Outputs
from runtime.selftest import run_self_test
from runtime.sessions.base import StepSession
from runtime.sessions.choose import choose_session, open_chosen
from runtime.sources.capture import explain_unusable
from runtime.sources.choose import open_source
from runtime.sources.uri import parse_source

SIGNALLED = 128  # the shell's base for a command that a signal ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What the user asked for; `runtime/stream.py --help` describes each field."""

    source: str
    bundle: Path
    precision: str = "auto"
    backend: str = "auto"
    phases: int | None = None
    window_s: float | None = None
    headless: bool = False
    output: Path | None = None
    events: Path | None = None
    realtime: bool = False
    max_seconds: float | None = None
    self_test: bool = True
    threads: int | None = None
    engine_dir: Path | None = None


def run_stream(options: StreamOptions) -> tuple[int, str]:
    """Stream until the source ends or a signal comes.

    Args:
        options: What the user asked for.

    Returns:
        The status and the last line. The status is 0 where the source ended or was stopped, and
        128 plus the signal's number where a signal came before anything ran.

    Raises:
        BundleError: The bundle cannot be used; nothing was opened.
        SourceError: The source cannot be opened; nothing was written.
        SessionError: The session cannot be made, or is wrong.
        RunFailedError: It ran and ended badly; its files are complete.
    """
    bundle = _prepared_bundle(options)
    explain_unusable(parse_source(options.source))
    with ExitStack() as opened:
        session = opened.enter_context(_session(bundle, options))
        source = opened.enter_context(open_source(options.source, realtime=options.realtime))
        stream = Stream(bundle, source, session, max_seconds=options.max_seconds)
        outputs = opened.enter_context(
            Outputs(
                bundle,
                source.name,
                fps=None if source.is_live else source.fps,
                events=options.events,
                video=options.output,
                headless=options.headless,
            )
        )
        outputs.note("start", **_start_facts(bundle, session))
        signals = opened.enter_context(stop_on_signals(stream.stop))
        failure = _play(stream, outputs)
        outputs.note("end", **asdict(stream.counts))
    if failure is not None:
        raise RunFailedError(str(failure), summary(stream)) from failure
    return _status(stream, signals), summary(stream)


class RunFailedError(TdrlError):
    """A run that ended badly after it had begun; carries the last line."""

    def __init__(self, message: str, last_line: str) -> None:
        super().__init__(message)
        self.last_line = last_line


def summary(stream: Stream) -> str:
    """The last line: counts and latency.

    Returns:
        One line for people.
    """
    counts = stream.counts
    return (
        f"frames captured {counts.captured}, used {counts.used}, dropped {counts.dropped}; "
        f"steps {counts.used}, missed ticks {counts.missed}, reconnects {counts.reconnects}; "
        f"{stream.latency.summary()}"
    )


def _prepared_bundle(options: StreamOptions) -> Bundle:
    bundle = load_bundle(options.bundle)
    if options.window_s is None:
        return bundle
    trained_s = bundle.sampling.window_s
    if options.window_s != trained_s:
        logger.warning(
            "window %g s, trained with %g s: accuracy was measured with the latter",
            options.window_s,
            trained_s,
        )
    return replace(bundle, sampling=replace(bundle.sampling, window_s=options.window_s))


def _session(bundle: Bundle, options: StreamOptions) -> StepSession:
    choice = choose_session(bundle, options.backend, options.precision)
    session = open_chosen(
        bundle, choice, options.phases, threads=options.threads, engine_dir=options.engine_dir
    )
    if options.self_test:
        try:
            run_self_test(bundle, session, choice.precision)
        except TdrlError:
            session.close()
            raise
    return session


def _start_facts(bundle: Bundle, session: StepSession) -> dict[str, object]:
    return {
        "bundle": bundle.name,
        "session": session.description,
        "window_s": bundle.sampling.window_s,
        "num_segments": bundle.sampling.num_segments,
        "consensus_len": bundle.sampling.consensus_len,
        "phases": session.num_phases,
    }


def _play(stream: Stream, outputs: Outputs) -> TdrlError | None:
    """Show every moment; gives a failure instead of raising it, so that the files are finished."""
    failure = None
    try:
        for moment in stream.moments():
            if not outputs.show(moment):
                stream.stop()
    except TdrlError as err:
        failure = err
    outputs.finish()
    if failure is not None:
        kind = "source_lost" if isinstance(failure, SourceError) else "failed"
        outputs.note(kind, message=str(failure))
    return failure


def _status(stream: Stream, signals: Sequence[int]) -> int:
    """A stream that ran and was stopped has done its work."""
    if signals and stream.counts.used == 0:
        return SIGNALLED + signal.Signals(signals[0]).value
    return 0
