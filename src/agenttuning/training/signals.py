"""SIGTERM and Ctrl-C stop a run at the end of its step, after a save, on all processes at the same step."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AT_ONCE = 2.0  # seconds: a second Ctrl-C within them is the launcher passing the first one on


def deaf(initialise: Any, worker: int) -> None:
    """Start a data-loading worker that no signal to stop reaches; it ends with its parent."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if initialise is not None:
        initialise(worker)


class StopOnSignal(TrainerCallback):
    """A context in which SIGTERM, or one Ctrl-C, asks the Trainer to save and stop; a second Ctrl-C stops at once.

    `asked` is the signal that this process or another one got, None without. Outside of the main thread, where Python
    sets no handlers, signals do what they did before.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.asked: int | None = None
        self.since, self.process, self.before = 0.0, os.getpid(), {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._asked) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a data-loading worker, which inherits handlers; its parent ends it
            return
        if number == signal.SIGINT and self.asked == number and time.monotonic() - self.since > AT_ONCE:
            raise KeyboardInterrupt
        if self.asked is None:
            self.asked, self.since = int(number), time.monotonic()
            more = "; once more stops at once, without" if number == signal.SIGINT else ""
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"{signal.Signals(number).name}: saving at the end of this step{more}", flush=True)

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # a batch system tells all processes of a job; a data-loading worker that dies of it would end the run at once
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
        if args.dataloader_num_workers:
            loader.worker_init_fn = functools.partial(deaf, loader.worker_init_fn)

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            self.asked = self._agreed()
        if self.asked is not None and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def _agreed(self) -> int | None:
        """The same answer on all processes: a signal reaches them one after the other, in different steps."""
        import torch

        asked = torch.tensor([self.asked or 0], device=self.accelerator.device)
        return int(self.accelerator.gather(asked).max()) or None
