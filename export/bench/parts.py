"""What each part of TDRL costs: the plain backbone, with PEM, with the temporal module, both."""

from __future__ import annotations

from contextlib import ExitStack

from export.bench.effort import Case, Effort
from export.bench.models import (
    UNITS,
    Models,
    Part,
    StepCall,
    choice_of,
    name_of,
    one_thread_session,
)
from export.bench.values import Table
from export.step_ratios import cpu_times
from runtime.sessions.choose import Backend, SessionChoice
from runtime.sessions.ov import has_openvino

TEXT = (
    "One step, one thread, same session and precision; TM is the temporal shift. CPU time, ratios "
    "to the plain backbone round by round."
)
HEADER = ("backbone", "session", "plain, ms", "PEM ÷ plain", "TM ÷ plain", "TDRL ÷ plain")


def measure(models: Models, effort: Effort) -> Table:
    """The table `parts`."""
    table = Table("parts", "The price of each part", TEXT, HEADER)
    for case in effort.cases:
        for choice in sessions():
            _add(table, models, case, choice, effort)
    return table


def sessions() -> list[SessionChoice]:
    """What runs them: those that a user would take."""
    found = [choice_of("ort", "float32")]
    if has_openvino():
        found += [choice_of("openvino", "float32"), choice_of("openvino", "int8")]
    return found


def _add(table: Table, models: Models, case: Case, choice: SessionChoice, effort: Effort) -> None:
    name, session_name = name_of(case), f"{ENGINE_NAMES[choice.backend]}, {choice.precision}"
    with ExitStack() as opened:
        calls: dict[Part, StepCall] = {}
        for part in UNITS:
            session = one_thread_session(models.bundle(case, part), choice)
            calls[part] = StepCall(opened.enter_context(session), case[1])
        ms = cpu_times(calls, effort.rounds, f"{name}, {session_name}", least_ms=effort.least_ms)
    key = f"{name}/{choice.backend} {choice.precision}"
    cells = [str(table.add(f"{key}/plain", ms["none"], "ms"))]
    cells += [
        str(table.add(f"{key}/{part}", ms[part] / ms["none"], "x"))
        for part in UNITS
        if part != "none"
    ]
    table.rows.append((name, session_name, *cells))


ENGINE_NAMES: dict[Backend, str] = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
