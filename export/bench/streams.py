"""Many streams in one batch, and many phases of one stream: what a decision costs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from export.bench.decision import clip_call
from export.bench.effort import TINY, Case, Effort
from export.bench.models import (
    WINDOW_S,
    Models,
    StepCall,
    choice_of,
    fast_choice,
    name_of,
    one_thread_session,
)
from export.bench.values import Table
from export.step_ratios import cpu_times

STREAMS_TEXT = (
    "One step of N streams in one batch, one thread, the runtime's own choice of session. CPU "
    "time; the ratio is to N steps of one stream in the same round: below 1 a batch saves. A step "
    "follows one of another session, as a tick follows other work: its memory is not in the caches."
)
PHASES_TEXT = (
    "Every decision is one step, whatever T and the phases: phases decide how many there are in a "
    f"window ({WINDOW_S:g} s here). *Share of a core*: steps of a second. *Recomputed*: the clip "
    "graph of T frames for each decision, divided by the step of one phase, both in ONNX "
    "Runtime and float32."
)


def measure_streams(models: Models, effort: Effort) -> Table:
    """The table `streams`."""
    header = ("backbone", "1 stream, ms", *(f"{n} ÷ {n} × 1" for n in effort.streams if n > 1))
    table = Table("streams", "Streams in a batch", STREAMS_TEXT, header)
    for case in dict.fromkeys((TINY, *effort.cases)):
        _add_streams(table, models, case, effort)
    return table


def _add_streams(table: Table, models: Models, case: Case, effort: Effort) -> None:
    bundle, name = models.bundle(case), name_of(case)
    with ExitStack() as opened:
        calls = {}
        for count in effort.streams:
            session = one_thread_session(bundle, fast_choice(), num_streams=count)
            calls[count] = StepCall(opened.enter_context(session), case[1])
        ms = cpu_times(
            calls, effort.few_rounds, f"{name}, streams", warm_up=2, least_ms=effort.least_ms
        )
    one = effort.streams[0]
    cells = [str(table.add(f"{name}/{one}", ms[one], "ms"))]
    cells += [
        str(table.add(f"{name}/{count}", ms[count] / (count * ms[one]), "x"))
        for count in effort.streams[1:]
    ]
    table.rows.append((name, *cells))


def measure_phases(models: Models, effort: Effort) -> Table:
    """The table `phases`."""
    header = ("backbone", "T", "phases", "step, ms", "decisions/s", "share of a core", "recomputed")
    table = Table("phases", "Phases and segments", PHASES_TEXT, header)
    for case in effort.cases:
        _add_phases(table, models, case, effort)
    return table


def _add_phases(table: Table, models: Models, case: Case, effort: Effort) -> None:
    bundle, name = models.bundle(case), name_of(case)
    with ExitStack() as opened:
        calls: dict[str, Callable[[], object]] = {}
        for count in effort.phases:
            session = one_thread_session(bundle, fast_choice(), phases=count)
            calls[f"{count}"] = StepCall(opened.enter_context(session), case[1])
        plain = opened.enter_context(one_thread_session(bundle, choice_of("ort", "float32")))
        calls["float"] = StepCall(plain, case[1])
        for segments in effort.segments:
            calls[f"clip{segments}"] = clip_call(models, case, segments)
        ms = cpu_times(
            calls, effort.few_rounds, f"{name}, phases", warm_up=2, least_ms=effort.least_ms
        )
    for segments in effort.segments:
        ratio = table.add(
            f"{name}/T{segments}/recomputed", ms[f"clip{segments}"] / ms["float"], "x"
        )
        for count in effort.phases:
            step = table.add(f"{name}/{count} phases", ms[f"{count}"], "ms")
            rate = segments * count / WINDOW_S
            share = f"{rate * step.median / 10:.0f} %"
            line = (name, f"{segments}", f"{count}", f"{step}", f"{rate:g}", share, f"{ratio}")
            table.rows.append(line)
