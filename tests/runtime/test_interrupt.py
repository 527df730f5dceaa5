from __future__ import annotations

import os
import pty
import signal
import time

import pytest

from runtime import interrupt
from runtime.interrupt import outlive_hangup, stop_on_signals


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


@pytest.fixture
def terminal():
    """A real terminal on the standard input."""
    usual = os.dup(0)
    ours, theirs = pty.openpty()
    os.dup2(theirs, 0)
    yield
    os.dup2(usual, 0)
    for each in (usual, ours, theirs):
        os.close(each)


@pytest.fixture
def no_terminal():
    usual = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    yield
    os.dup2(usual, 0)
    os.close(usual)
    os.close(nothing)


@pytest.mark.usefixtures("terminal")
def test_a_closed_terminal_asks_to_stop():
    stops = []
    with outlive_hangup(), stop_on_signals(lambda: stops.append(1)) as received:
        signal.raise_signal(signal.SIGHUP)
    assert received == [signal.SIGHUP]
    assert stops == [1]


@pytest.mark.usefixtures("no_terminal")
def test_a_hangup_without_a_terminal_is_nothing():
    before = signal.getsignal(signal.SIGHUP)
    with outlive_hangup():
        signal.raise_signal(signal.SIGHUP)
        with stop_on_signals(lambda: None) as received:
            signal.raise_signal(signal.SIGHUP)
    assert received == []
    assert signal.getsignal(signal.SIGHUP) == before
