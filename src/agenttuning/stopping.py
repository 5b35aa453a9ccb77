"""SIGTERM ends work as Ctrl-C does: what is open is closed, what is begun is recorded, and nothing is left running."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agenttuning.errors import Stopped


@contextmanager
def stoppable() -> Iterator[None]:
    """A context, and a decorator, in which SIGTERM raises KeyboardInterrupt inside and Stopped outside.

    Python's own way with SIGTERM is to end at once, without `finally`: servers, sandboxes and folders would stay. A
    second SIGTERM is not heard, so that closing is not cut short. Outside of the main thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        if not told:
            told.append(number)
            signal.raise_signal(signal.SIGINT)  # asyncio knows how to end by this one

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, interrupt)
    if before[signal.SIGINT] is signal.SIG_IGN:  # as of a job in the background of a shell
        signal.signal(signal.SIGINT, lambda number, frame: signal.default_int_handler(number, frame) if told else None)
    try:
        yield
    except KeyboardInterrupt:
        if not told:
            raise
        print("stopped by SIGTERM; the same command goes on from here", file=sys.stderr, flush=True)
        raise Stopped(told[0]) from None
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set by something that is not Python
                signal.signal(number, handler)
