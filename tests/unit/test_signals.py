"""What one signal, or two, do to a run. That it saves and goes on exactly: tests/faults/test_killed.py."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from agenttuning.training import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with pytest.raises(ZeroDivisionError), signals.StopOnSignal(None):
        assert [signal.getsignal(number) for number in signals.SIGNALS] != before
        1 / 0  # noqa: B018
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_a_second_ctrl_c_stops_at_once(monkeypatch, capsys):
    with signals.StopOnSignal(None) as stop:
        send(signal.SIGINT)
        assert stop.asked == signal.SIGINT
        assert "SIGINT: saving at the end of this step; once more" in capsys.readouterr().out
        send(signal.SIGINT)  # right after it: a launcher that passes the first one on
        monkeypatch.setattr(signals, "AT_ONCE", -1)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_sigterm_changes_nothing():
    with signals.StopOnSignal(None) as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.asked == signal.SIGTERM


def test_after_the_last_step_there_is_nothing_to_stop():
    stop, control = signals.StopOnSignal(None), SimpleNamespace(should_save=False, should_training_stop=False)
    stop.asked = signal.SIGTERM
    stop.on_step_end(SimpleNamespace(world_size=1), SimpleNamespace(global_step=6, max_steps=6), control)
    assert not control.should_save
    stop.on_step_end(SimpleNamespace(world_size=1), SimpleNamespace(global_step=5, max_steps=6), control)
    assert control.should_save and control.should_training_stop
