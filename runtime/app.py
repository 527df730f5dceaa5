"""One run of the live command: bundle, source, session, outputs, and the last line."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from runtime.bundle import Bundle, load_bundle
from runtime.errors import PolicyError, SessionError, SourceError, TdrlError
from runtime.event_log import EventFile
from runtime.interrupt import outlive_hangup, stop_on_signals
from runtime.live import Stream
from runtime.outputs import Outputs
from runtime.periodic import Periodic
from runtime.policy import load_policy
from runtime.selftest import run_self_test
from runtime.sessions.base import StepSession
from runtime.sessions.choose import SessionChoice, choose_session, open_chosen
from runtime.sources.capture import explain_unusable
from runtime.sources.choose import open_source
from runtime.sources.uri import parse_source
from runtime.status_line import ServiceStatus, StatusLine
from runtime.watchdog import ServiceManager, Watchdog
from runtime.web.address import WebAddress
from runtime.web.start import start_web
from runtime.webhook import Webhook, WebhookUrl

BYTES_PER_MB = 1_000_000
MAY_COME = ("camera", "network")  # what waiting can mend
SIGNALLED = 128  # the shell's base for a command that a signal ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What the user asked for; `runtime/stream.py --help` describes each field."""

    source: str = field(repr=False)  # may hold a password
    bundle: Path
    allow_pipeline: bool = True
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
    realtime: bool = False
    max_seconds: float | None = None
    self_test: bool = True
    threads: int | None = None
    engine_dir: Path | None = None
    stats_every_s: float = 0.0


def run_stream(options: StreamOptions) -> tuple[int, str]:
    """Stream until the source ends or a signal comes.

    Args:
        options: What the user asked for.

    Returns:
        The status and the last line. The status is 0 where the source ended or was stopped, and
        128 plus the signal's number where a signal came before anything ran.

    Raises:
        BundleError: The bundle cannot be used; nothing was opened.
        PolicyError: The policy file cannot be used; nothing was opened.
        SourceError: The source cannot be opened; nothing was written.
        SessionError: The session cannot be made, or is wrong.
        RunFailedError: It ran and ended badly; its files are complete.
    """
    hook_url = None if options.webhook is None else WebhookUrl.parse(options.webhook)
    bundle = _prepared_bundle(options)
    uri = parse_source(options.source, allow_pipeline=options.allow_pipeline)
    if not (options.wait_for_source and uri.kind in MAY_COME):
        explain_unusable(uri)
    manager = ServiceManager.from_environment()
    with ExitStack() as opened:
        opened.enter_context(outlive_hangup())
        web = None
        if options.web is not None:
            web = opened.enter_context(start_web(options.web, options.web_token))
        session = opened.enter_context(_session(bundle, options))
        _check_watchdog(manager, bundle, session)
        source = opened.enter_context(
            open_source(
                options.source,
                realtime=options.realtime,
                wait=options.wait_for_source,
                software_decode=options.software_decode,
                allow_pipeline=options.allow_pipeline,
            )
        )
        # a camera that is off at boot is no reason to fail: the first attempt is enough
        manager.ready(f"started on {source.name}")
        stream = Stream(bundle, source, session, max_seconds=options.max_seconds)
        webhook = None if hook_url is None else opened.enter_context(Webhook(hook_url))
        outputs = opened.enter_context(
            Outputs(
                bundle,
                source.name,
                fps=None if source.is_live else source.fps,
                events=_event_file(options),
                webhook=webhook,
                board=None if web is None else web.board.add(bundle, stream),
                video=options.output,
                headless=options.headless,
            )
        )
        outputs.note("start", **_start_facts(bundle, session))
        signals = opened.enter_context(stop_on_signals(stream.stop))
        status = ServiceStatus(stream)
        opened.enter_context(Watchdog(manager, lambda: stream.progress, status.text))
        if options.stats_every_s > 0:
            line = StatusLine(stream)
            opened.enter_context(Periodic(options.stats_every_s, line.log, "status line"))
        failure = _play(stream, outputs)
        outputs.note("end", **asdict(stream.counts), **outputs.counts())
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


def _event_file(options: StreamOptions) -> EventFile | None:
    if options.events is None:
        return None
    max_bytes = round(options.events_max_mb * BYTES_PER_MB)
    return EventFile(options.events, max_bytes=max_bytes, keep=options.events_keep)


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
        bundle, choice, options.phases, threads=options.threads, engine_dir=options.engine_dir
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
        "temperature": bundle.operating.temperature,
        "policy": bundle.operating.policy.to_json(),
    }


def _play(stream: Stream, outputs: Outputs) -> TdrlError | OSError | None:
    """Show every moment; gives a failure instead of raising it, so that the files are finished.

    Where the end fails too, the first failure is given, and both are in the events.
    """
    failures: list[TdrlError | OSError] = []
    try:
        for moment in stream.moments():
            if not outputs.show(moment):
                stream.stop()
    except (TdrlError, OSError) as err:
        failures.append(err)
    finally:
        try:
            outputs.finish()
        except (TdrlError, OSError) as err:
            failures.append(err)
    for failure in failures:
        kind = "source_lost" if isinstance(failure, SourceError) else "failed"
        outputs.note(kind, message=str(failure))
    return failures[0] if failures else None


def _status(stream: Stream, signals: Sequence[int]) -> int:
    """A stream that ran and was stopped has done its work."""
    if signals and stream.counts.used == 0:
        return SIGNALLED + signal.Signals(signals[0]).value
    return 0
