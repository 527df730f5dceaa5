from __future__ import annotations

import json

from runtime.events import Event, decision_to_json
from tests.runtime.test_decision import decision


def test_all_lines_have_type_source_and_three_clocks():
    event = Event(
        kind="reset",
        source="s",
        stream_time_s=1.5,
        monotonic_ns=7,
        utc="2026-01-01T00:00:00+00:00",
        details={"reason": "gap"},
    )
    assert event.to_json()["reason"] == "gap"
    for record in (event.to_json(), decision_to_json(decision(), ["a", "b"])):
        assert {"type", "source", "stream_time_s", "monotonic_ns", "utc"} <= record.keys()
    record = decision_to_json(decision(prob=0.25), ["a", "b"])
    assert record["top"] == [["b", 0.75], ["a", 0.25]]
    assert json.loads(json.dumps(record)) == record
