from __future__ import annotations

import signal
import time

import pytest

from runtime import interrupt
from runtime.interrupt import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_its_echo_does_no_more(number):
    stops = []
    with stop_on_signals(lambda: stops.append(1)) as received:
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert received == [number, number]
    assert stops


def test_a_later_second_one_acts_as_usual(monkeypatch):
    monkeypatch.setattr(interrupt, "ECHO_S", 0.05)
    with pytest.raises(KeyboardInterrupt), stop_on_signals(lambda: None) as received:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT, signal.SIGINT]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals(lambda: None):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
