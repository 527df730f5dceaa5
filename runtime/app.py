"""One run of the live command: bundle, sources, session, outputs, and the last line."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from runtime.bundle import Bundle, load_bundle
from runtime.errors import PolicyError, SessionError, SourceError, TdrlError
from runtime.event_log import EventFile, EventLog
from runtime.interrupt import outlive_hangup, stop_on_signals
from runtime.lane import Lane, StreamCounts
from runtime.latency import LatencyStats
from runtime.live import Streams, check_paces
from runtime.outputs import Outputs
from runtime.periodic import Periodic
from runtime.policy import load_policy
from runtime.recordings.recorder import AFTER_S, Recorder, RecordSpan, default_before_s
from runtime.recordings.replay import refuse_copies, tell_replays
from runtime.recordings.store import RecordingStore
from runtime.scene_cut import SceneCuts
from runtime.selftest import run_self_test
from runtime.sessions.base import StepSession
from runtime.sessions.choose import SessionChoice, choose_session, open_chosen
from runtime.sources.capture import explain_unusable
from runtime.sources.open_all import open_sources
from runtime.sources.several import SourceText, parse_sources
from runtime.sources.uri import SourceUri
from runtime.status_line import ServiceStatuses, StatusLines
from runtime.watchdog import ServiceManager, Watchdog
from runtime.web.address import WebAddress
from runtime.web.board import Board
from runtime.web.start import start_web
from runtime.webhook import Webhook, WebhookUrl

BYTES_PER_MB = 1_000_000
MAY_COME = ("camera", "network")  # what waiting can mend
SILENCE_CHECK_S = 1.0
SIGNALLED = 128  # the shell's base for a command that a signal ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What the user asked for; `runtime/stream.py --help` describes each field."""

    sources: tuple[SourceText, ...]
    bundle: Path
    wait_for_source: bool = False
    software_decode: bool = False
    precision: str = "auto"
    backend: str = "auto"
    phases: int | None = None
    window_s: float | None = None
    headless: bool = False
    output: Path | None = None
    events: Path | None = None
    events_max_mb: float = 100.0
    events_keep: int = 5
    webhook: str | None = field(default=None, repr=False)
    web: WebAddress | None = None
    web_token: str | None = field(default=None, repr=False)
    policy: Path | None = None
    record: Path | None = None
    record_max_mb: float = 2000.0
    record_before_s: float | None = None
    record_after_s: float = AFTER_S
    scene_cuts: float | None = None
    realtime: bool = False
    max_seconds: float | None = None
    self_test: bool = True
    threads: int | None = None
    engine_dir: Path | None = None
    stats_every_s: float = 0.0


def run_stream(options: StreamOptions) -> tuple[int, str]:
    """Stream until every source has ended or a signal comes.

    Args:
        options: What the user asked for.

    Returns:
        The status and the last lines. The status is 0 where the sources ended or were stopped,
        and 128 plus the signal's number where a signal came before anything ran.

    Raises:
        BundleError: The bundle cannot be used; nothing was opened.
        PolicyError: The policy file cannot be used; nothing was opened.
        SourceError: A source cannot be opened; nothing was written.
        SessionError: The session cannot be made, or is wrong.
        RunFailedError: It ran and ended badly, for one source at least; its files are complete.
    """
    hook_url = None if options.webhook is None else WebhookUrl.parse(options.webhook)
    bundle = _prepared_bundle(options)
    uris = _usable_sources(options)
    manager = ServiceManager.from_environment()
    with ExitStack() as opened:
        opened.enter_context(outlive_hangup())
        web = None
        if options.web is not None:
            web = opened.enter_context(start_web(options.web, options.web_token))
        session = opened.enter_context(_session(bundle, options))
        _check_watchdog(manager, bundle, session)
        sources = open_sources(
            options.sources,
            opened,
            realtime=options.realtime,
            wait=options.wait_for_source,
            software_decode=options.software_decode,
        )
        names = [uri.name for uri in uris]
        # a camera that is off at boot is no reason to fail: the first attempt is enough
        manager.ready(f"started on {', '.join(names)}")
        streams = Streams(
            bundle,
            sources,
            session,
            realtime=options.realtime,
            max_seconds=options.max_seconds,
            names=names,
        )
        tell_replays(uris, bundle, session.num_phases)
        if options.scene_cuts is not None:
            for lane in streams.lanes:
                lane.stepper.reset_on(SceneCuts(options.scene_cuts))
        webhook = None if hook_url is None else opened.enter_context(Webhook(hook_url))
        board = None if web is None else web.board
        outputs = _open_outputs(streams, options, webhook, board, opened)
        for each in outputs.values():
            each.note("start", **_start_facts(bundle, session))
        signals = opened.enter_context(stop_on_signals(streams.stop))
        status = ServiceStatuses(streams.lanes)
        opened.enter_context(Watchdog(manager, lambda: streams.progress, status.text))
        if options.stats_every_s > 0:
            lines = StatusLines(streams.lanes)
            opened.enter_context(Periodic(options.stats_every_s, lines.log, "status line"))
        if any(lane.source.is_live for lane in streams.lanes):
            opened.enter_context(Periodic(SILENCE_CHECK_S, _silences(outputs), "silence watch"))
        failures = _play(streams, outputs, webhook)
        for lane, each in outputs.items():
            each.note("end", **asdict(lane.counts), **each.counts())
    if failures:
        message = _failed(failures)
        raise RunFailedError(message, summary(streams.lanes)) from failures[0]
    return _status(streams.lanes, signals), summary(streams.lanes)


class RunFailedError(TdrlError):
    """A run that ended badly after it had begun; carries the last line."""

    def __init__(self, message: str, last_line: str) -> None:
        super().__init__(message)
        self.last_line = last_line


def summary(lanes: Sequence[Lane]) -> str:
    """The last lines: counts and latency, of each of several streams and then of all.

    Returns:
        Lines for people.
    """
    each = [f"{lane.name}: {_summary(lane.counts, lane.latency)}" for lane in lanes]
    counts = StreamCounts(
        *(sum(getattr(lane.counts, one.name) for lane in lanes) for one in fields(StreamCounts))
    )
    total = _summary(counts, LatencyStats.of_all(lane.latency for lane in lanes))
    return total if len(lanes) == 1 else "\n".join([*each, total])


def _summary(counts: StreamCounts, latency: LatencyStats) -> str:
    return (
        f"frames captured {counts.captured}, used {counts.used}, dropped {counts.dropped}; "
        f"steps {counts.used}, missed ticks {counts.missed}, reconnects {counts.reconnects}; "
        f"{latency.summary()}"
    )


def _usable_sources(options: StreamOptions) -> list[SourceUri]:
    """The sources, as far as can be told before one is opened."""
    uris = parse_sources(options.sources)
    paces = [(uri.name, uri.kind != "file") for uri in uris]
    check_paces(paces, realtime=options.realtime)
    if options.record is not None:
        refuse_copies(uris)
    for uri in uris:
        if not (options.wait_for_source and uri.kind in MAY_COME):
            explain_unusable(uri)
    return uris


def _prepared_bundle(options: StreamOptions) -> Bundle:
    bundle = load_bundle(options.bundle)
    if options.window_s is not None:
        bundle = _with_window(bundle, options.window_s)
    if options.policy is None:
        return bundle
    longest_lag_s = bundle.sampling.warm_up_s
    try:
        policy = load_policy(
            options.policy, bundle.operating.policy, bundle.labels, longest_lag_s=longest_lag_s
        )
    except PolicyError as err:
        for problem in err.problems[:-1]:
            logger.error("%s", problem)
        raise PolicyError(err.problems[-1]) from err
    return replace(bundle, operating=replace(bundle.operating, policy=policy))


def _with_window(bundle: Bundle, window_s: float) -> Bundle:
    trained_s = bundle.sampling.window_s
    if window_s != trained_s:
        logger.warning(
            "window %g s, trained with %g s: accuracy was measured with the latter",
            window_s,
            trained_s,
        )
    return replace(
        bundle,
        sampling=replace(bundle.sampling, window_s=window_s),
        operating=bundle.operating.stretched(window_s / trained_s),
    )


def _open_outputs(
    streams: Streams,
    options: StreamOptions,
    webhook: Webhook | None,
    board: Board | None,
    opened: ExitStack,
) -> dict[Lane, Outputs]:
    """What each stream is shown and written to; the event file, which all share, comes last."""
    outputs: dict[Lane, Outputs] = {}
    for number, lane in enumerate(streams.lanes, 1):
        outputs[lane] = opened.enter_context(
            Outputs(
                lane.bundle,
                lane.name,
                fps=None if lane.source.is_live else lane.source.fps,
                webhook=webhook,
                board=None if board is None else board.add(lane.bundle, lane),
                video=_video_of(options.output, number, len(streams.lanes)),
                headless=options.headless,
            )
        )
    if options.events is not None:
        log = opened.enter_context(EventLog(_event_file(options.events, options)))
        for each in outputs.values():
            each.log_to(log)
    if options.record is not None:
        _record(outputs, options.record, options, opened)
    if len(outputs) > 1:
        for lane, each in outputs.items():
            each.prefix = f"{lane.name}: "
    return outputs


def _silences(outputs: Mapping[Lane, Outputs]) -> Callable[[], None]:
    """A job that ends the actions of cameras which give no frames."""
    live = [each for lane, each in outputs.items() if lane.source.is_live]

    def look() -> None:
        for each in live:
            each.end_if_silent(time.monotonic_ns())

    return look


def _record(
    outputs: Mapping[Lane, Outputs], folder: Path, options: StreamOptions, opened: ExitStack
) -> None:
    """Keep frames around the actions of every stream, in one folder."""
    max_bytes = round(options.record_max_mb * BYTES_PER_MB)
    store = opened.enter_context(RecordingStore(folder, max_bytes=max_bytes))
    is_paced = options.realtime or any(lane.source.is_live for lane in outputs)
    for lane, each in outputs.items():
        before_s = options.record_before_s
        if before_s is None:
            before_s = default_before_s(lane.bundle.sampling)
        recorder = Recorder(
            store,
            lane.bundle,
            RecordSpan(before_s, options.record_after_s),
            source=lane.name,
            is_live=lane.source.is_live,
            waits=not is_paced,
            phases=lane.stepper.phases,
        )
        each.record_to(opened.enter_context(recorder))


def _video_of(path: Path | None, number: int, count: int) -> Path | None:
    """Where a stream's video goes: `out.mp4`, of several streams `out-1.mp4` and so on."""
    if path is None or count == 1:
        return path
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _event_file(path: Path, options: StreamOptions) -> EventFile:
    max_bytes = round(options.events_max_mb * BYTES_PER_MB)
    return EventFile(path, max_bytes=max_bytes, keep=options.events_keep)


def _session(bundle: Bundle, options: StreamOptions) -> StepSession:
    """A session that has passed the self-test.

    Where nobody asked for OpenVINO and it computes this bundle wrongly, ONNX Runtime does it.
    """
    choice = choose_session(bundle, options.backend, options.precision)
    try:
        return _proven(bundle, choice, options)
    except SessionError as err:
        if (options.backend, choice.backend) != ("auto", "openvino"):
            raise
        logger.warning("%s; ONNX Runtime takes over, slower", err)
    choice = choose_session(bundle, "ort", options.precision)
    return _proven(bundle, replace(choice, reason="OpenVINO failed here"), options)


def _proven(bundle: Bundle, choice: SessionChoice, options: StreamOptions) -> StepSession:
    session = open_chosen(
        bundle,
        choice,
        options.phases,
        num_streams=len(options.sources),
        threads=options.threads,
        engine_dir=options.engine_dir,
    )
    if options.self_test:
        try:
            run_self_test(bundle, session, choice.precision)
        except TdrlError:
            session.close()
            raise
    return session


def _check_watchdog(manager: ServiceManager, bundle: Bundle, session: StepSession) -> None:
    """A window of minutes has ticks so rare that the manager would take it for a hang."""
    sampling = bundle.sampling
    interval_s = sampling.window_s / (sampling.num_segments * session.num_phases)
    if manager.watchdog_s is not None and 2 * interval_s > manager.watchdog_s:
        logger.warning(
            "a step every %.1f s is too rare for a watchdog of %g s: raise WatchdogSec or --phases",
            interval_s,
            manager.watchdog_s,
        )


def _start_facts(bundle: Bundle, session: StepSession) -> dict[str, object]:
    return {
        "bundle": bundle.name,
        "session": session.description,
        "window_s": bundle.sampling.window_s,
        "num_segments": bundle.sampling.num_segments,
        "consensus_len": bundle.sampling.consensus_len,
        "phases": session.num_phases,
        "streams": session.num_streams,
        "temperature": bundle.operating.temperature,
        "policy": bundle.operating.policy.to_json(),
    }


def _play(
    streams: Streams, outputs: Mapping[Lane, Outputs], webhook: Webhook | None
) -> list[TdrlError | OSError]:
    """Show every moment; gives failures instead of raising them, so that the files are finished.

    An output that was lost is one, and ends nothing before its time. All are in the events.
    """
    failures: list[TdrlError | OSError | None] = []
    unfinished = dict(outputs)

    def finish(lane: Lane, failure: TdrlError | OSError | None) -> None:
        output = unfinished.pop(lane)
        output.finish()
        if failure is not None:
            kind = "source_lost" if isinstance(failure, SourceError) else "failed"
            output.note(kind, message=str(failure))
        failures.extend((failure, output.failure))

    reason: TdrlError | OSError | None = None
    try:
        for lane, moment in streams.moments():
            if moment is None:
                finish(lane, lane.failure)
                _tell_end(lane, 0 if streams.is_stopping else len(unfinished))
            elif not outputs[lane].show(moment):
                streams.stop()
    except (TdrlError, OSError) as err:
        reason = err
    finally:
        for lane in list(unfinished):
            finish(lane, reason)
        if webhook is not None:
            webhook.close()
    return list(dict.fromkeys(each for each in failures if each is not None))


def _tell_end(lane: Lane, left: int) -> None:
    """Say that a stream has ended while others go on."""
    if left and lane.failure is not None:
        logger.error("%s; %d stream(s) go on", lane.failure, left)
    elif left and not lane.source.is_live:
        logger.info("%s ended; %d stream(s) go on", lane.name, left)


def _failed(failures: Sequence[TdrlError | OSError]) -> str:
    """The one line of a run that failed."""
    others = "" if len(failures) == 1 else f"; {len(failures)} failures in all, see above"
    return f"{failures[0]}{others}"


def _status(lanes: Sequence[Lane], signals: Sequence[int]) -> int:
    """Streams that ran and were stopped have done their work."""
    if signals and all(lane.counts.used == 0 for lane in lanes):
        return SIGNALLED + signal.Signals(signals[0]).value
    return 0
