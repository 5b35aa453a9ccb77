"""What is counted and printed while a run trains: tokens, supervised tokens by source, speed; one line a step."""

import math
import time
from collections.abc import Sequence
from typing import Any

from transformers import ProgressCallback
from transformers.trainer_callback import ExportableState


class Meter(ProgressCallback, ExportableState):
    """Totals since step 0, carried over by checkpoints, and the one log line per logging step.

    tokens: without padding; supervised: per source; seconds: spent in training, all processes in parallel.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        super().__init__()
        self.sources = list(sources)
        self.tokens, self.supervised, self.seconds = 0, [0] * len(self.sources), 0.0
        self.since = time.perf_counter()
        self.logged = (0, 0, 0, 0.0)  # step, tokens, supervised, seconds at the last log line

    def state(self) -> dict[str, Any]:
        self.tick()
        kept = {"tokens": self.tokens, "supervised": self.supervised, "seconds": self.seconds, "logged": self.logged}
        return {"args": {"sources": self.sources}, "attributes": kept}

    def count(self, counts: list[int]) -> None:
        self.tokens += counts[0]
        self.supervised = [total + more for total, more in zip(self.supervised, counts[1:], strict=True)]

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def figures(self, step: int) -> dict[str, float]:
        """Supervised tokens a step and tokens a second since the last log line."""
        self.tick()
        before, self.logged = self.logged, (step, self.tokens, sum(self.supervised), self.seconds)
        steps, tokens, supervised, seconds = (now - then for now, then in zip(self.logged, before, strict=True))
        return {"supervised_per_step": supervised / max(1, steps), "tokens_per_second": tokens / max(1e-9, seconds)}

    def on_train_begin(self, args, state, control, **kwargs):
        # the Trainer restores callbacks from checkpoints by replacing them; ours is referred to from elsewhere
        for name, value in state.stateful_callbacks.get("Meter", {}).get("attributes", {}).items():
            setattr(self, name, value)
        self.since = time.perf_counter()
        if not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        line = log_line(state.global_step, state.max_steps, logs)
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            print(line, flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.tick()
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)


def log_line(step: int, steps: int, logs: dict[str, float]) -> str:
    """`step 10/2000  loss 1.2345  lr 5.00e-05  grad_norm 0.87  supervised 12,345 tok/step  7,345 tok/s`"""
    return (
        f"step {step}/{steps}  loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}  "
        f"grad_norm {logs.get('grad_norm', math.nan):.3f}  supervised {logs['supervised_per_step']:,.0f} tok/step  "
        f"{logs['tokens_per_second']:,.0f} tok/s"
    )
