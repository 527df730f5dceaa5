"""How a stream does, in one line now and then: its rate beside clocks, temperature and power.

A frame rate alone misleads on a Jetson: it falls with the power mode and the heat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.device_facts import Facts, device_state, power_mode
from runtime.lane import Lane, StreamCounts

CLOCKS = (("GPU", "gpu"), ("CPU", "cpu"))

logger = logging.getLogger(__name__)


class StatusLine:
    """What happened since the last line. For one thread, which need not be the stream's.

    Args:
        stream: The stream.
        state: Gives the machine's clocks, temperatures and power; it may take its time.
    """

    def __init__(self, stream: Lane, state: Callable[[], Facts] | None = None) -> None:
        self._stream = stream
        self._state = state or machine_state
        self._since_s = time.monotonic()
        self._counts = stream.counts
        self._latency = stream.latency.copy()

    def log(self) -> None:
        """Log the line."""
        logger.info("%s", self.text())

    def text(self) -> str:
        """The line, and begin the next one."""
        now_s, counts = time.monotonic(), self._stream.counts
        latency = self._stream.latency.copy()
        recent = latency.since(self._latency)
        elapsed_s = now_s - self._since_s
        parts = [_rates(self._counts, counts, elapsed_s)]
        if recent.count:
            p50, p99 = recent.percentile(50), recent.percentile(99)
            parts.append(f"latency p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        self._since_s, self._counts, self._latency = now_s, counts, latency
        machine = machine_text(self._state())
        return "; ".join([*parts, machine] if machine else parts)


class StatusLines:
    """The same for several streams: a line for each, by name, and one for the machine.

    Args:
        streams: The streams, one or more; one alone has a single line.
        state: As in `StatusLine`.
    """

    def __init__(self, streams: Sequence[Lane], state: Callable[[], Facts] | None = None) -> None:
        self._state = state or machine_state
        self._is_alone = len(streams) == 1
        self._lines = {
            stream.name: StatusLine(stream, self._state if self._is_alone else dict)
            for stream in streams
        }

    def log(self) -> None:
        """Log the lines."""
        for name, line in self._lines.items():
            text = line.text()
            logger.info("%s", text if self._is_alone else f"{name}: {text}")
        machine = "" if self._is_alone else machine_text(self._state())
        if machine:
            logger.info("%s", machine)


def machine_state(root: Path = Path("/")) -> Facts:
    """Clocks, temperatures, power and power mode; no program is started on a Jetson.

    Args:
        root: Where the system's files are.
    """
    mode = power_mode(root)
    return device_state(root) | ({"power_mode": mode} if mode else {})


def machine_text(state: Facts) -> str:
    """The machine's part of the line; empty where nothing can be read.

    Args:
        state: As `machine_state` gives it.

    Example:
        >>> machine_text({"gpu_clock_mhz": 612, "gpu_max_mhz": 1020, "gpu_c": 61.5, "cpu_c": 60.0,
        ...     "power_w": 9.31, "power_mode": "15W"})
        'GPU 612 of 1020 MHz, hottest gpu 61.5 °C, 9.3 W, mode 15W'
    """
    parts = []
    for name, key in CLOCKS:
        now, most = state.get(f"{key}_clock_mhz"), state.get(f"{key}_max_mhz")
        if now is not None:
            limit = "" if most is None else f" of {most:g}"
            parts.append(f"{name} {now:g}{limit} MHz")
    celsius = {name: float(value) for name, value in state.items() if name.endswith("_c")}
    if celsius:
        hottest = max(celsius, key=celsius.__getitem__)
        parts.append(f"hottest {hottest.removesuffix('_c')} {celsius[hottest]:.1f} °C")
    if "power_w" in state:
        parts.append(f"{float(state['power_w']):.1f} W")
    if "power_mode" in state:
        parts.append(f"mode {state['power_mode']}")
    return ", ".join(parts)


class ServiceStatus:
    """The short line that `systemctl status` shows. For one thread.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: Lane) -> None:
        self._stream = stream
        self._since_s = time.monotonic()
        self._captured = stream.counts.captured

    def text(self) -> str:
        """Frames a second since the last call that saw one, and what is going on."""
        now_s, captured = time.monotonic(), self._stream.counts.captured
        frames, elapsed_s = captured - self._captured, now_s - self._since_s
        if frames:
            self._since_s, self._captured = now_s, captured
        decision = self._stream.latest_decision
        last = "nothing decided yet"
        if decision is not None and decision.action is None:
            last = "none of the actions"
        elif decision is not None:
            last = f"{decision.action} {100 * decision.prob:.0f} %"
        name = self._stream.name
        if frames == 0:
            return f"no frame from {name} for {elapsed_s:.0f} s; {last}"
        return f"{frames / max(elapsed_s, 1e-9):.1f} fps from {name}; {last}"


class ServiceStatuses:
    """The same for several streams, one after the other. For one thread.

    Args:
        streams: The streams, one or more.
    """

    def __init__(self, streams: Sequence[Lane]) -> None:
        self._each = [ServiceStatus(stream) for stream in streams]

    def text(self) -> str:
        """As `ServiceStatus.text`."""
        return " | ".join(each.text() for each in self._each)


def _rates(before: StreamCounts, now: StreamCounts, elapsed_s: float) -> str:
    """What the source and the schedule did in between."""
    captured = now.captured - before.captured
    return (
        f"{captured / max(elapsed_s, 1e-9):.1f} fps, steps {now.used - before.used}, "
        f"missed ticks {now.missed - before.missed}, dropped {now.dropped - before.dropped}, "
        f"reconnects {now.reconnects - before.reconnects} in {elapsed_s:.0f} s"
    )
