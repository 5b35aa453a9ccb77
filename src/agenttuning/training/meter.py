"""What is counted and printed while a run trains: losses and tokens by source, speed, memory; a line a logging step."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import ProgressCallback
from transformers.trainer_callback import ExportableState

from agenttuning.machine import peak_rss

BY_SOURCE = "loss/"  # before a source's name, among the logged keys


class Meter(ProgressCallback, ExportableState):
    """Totals since step 0 of all processes together, carried over by checkpoints, and the one log line a logging step.

    tokens: without padding; attended: sum of the squared lengths of conversations; supervised and losses (their sum, in
    nats): per source; seconds: spent in training. `work` (FLOPs of so many tokens, so many attended) and `peak` (FLOP/s
    of all devices) make the MFU; without them there is none.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        super().__init__()
        self.sources = list(sources)
        self.tokens, self.attended, self.supervised, self.seconds = 0, 0, [0] * len(self.sources), 0.0
        self.losses = [0.0] * len(self.sources)
        self.since = time.perf_counter()
        self.logged = self.totals(0)  # at the last log line
        self.work: Callable[[int, int], float] | None = None
        self.peak: float | None = None

    def state(self) -> dict[str, Any]:
        self.tick()
        kept = ("tokens", "attended", "supervised", "losses", "seconds", "logged")
        return {"args": {"sources": self.sources}, "attributes": {name: getattr(self, name) for name in kept}}

    def totals(self, step: int) -> list:
        """[step, tokens, attended, seconds, supervised per source, losses per source]"""
        return [step, self.tokens, self.attended, self.seconds, list(self.supervised), list(self.losses)]

    def count(self, tokens: int, attended: int, supervised: Sequence[int], losses: Sequence[float]) -> None:
        """Add one step."""
        self.tokens, self.attended = self.tokens + tokens, self.attended + attended
        self.supervised = [total + more for total, more in zip(self.supervised, supervised, strict=True)]
        self.losses = [total + more for total, more in zip(self.losses, losses, strict=True)]

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def figures(self, step: int) -> dict[str, float]:
        """What is logged beside loss, rate and gradient norm, since the last log line: supervised tokens a step, tokens
        and supervised tokens a second, `loss/SOURCE` (mean per supervised token of the source; absent without any), mfu
        (absent where unknown), and the peak memory of this process in GiB.
        """
        self.tick()
        before, self.logged = self.logged, self.totals(step)
        steps, tokens, attended, seconds = (now - then for now, then in zip(self.logged[:4], before[:4], strict=True))
        supervised = [now - then for now, then in zip(self.logged[4], before[4], strict=True)]
        losses = [now - then for now, then in zip(self.logged[5], before[5], strict=True)]
        seconds = max(1e-9, seconds)
        found = {
            "supervised_per_step": sum(supervised) / max(1, steps),
            "tokens_per_second": tokens / seconds,
            "supervised_tokens_per_second": sum(supervised) / seconds,
            "peak_memory_gib": peak_memory() / 2**30,
        }
        for name, loss, count in zip(self.sources, losses, supervised, strict=True):
            if count:
                found[BY_SOURCE + name] = loss / count
        if self.work and self.peak:
            found["mfu"] = self.work(tokens, attended) / seconds / self.peak
        return found

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


def peak_memory() -> int:
    """Bytes that this process has held at most: on its GPU where there is one, else resident."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else peak_rss()


def log_line(step: int, steps: int, logs: dict[str, float]) -> str:
    """`step 10/2000  loss 1.2345 (agent 0.9876, chat 1.3210)  lr 5.00e-05  grad_norm 0.870  supervised 12,345 tok/step
    7,345 tok/s  2,345 supervised tok/s  mfu 41.2 %  61.2 GiB`, in one line. The MFU is absent where it is unknown.
    """
    sources = [(key[len(BY_SOURCE) :], value) for key, value in logs.items() if key.startswith(BY_SOURCE)]
    # one source alone would be the loss again, as a mean over tokens where the Trainer's is one over steps
    listed = ", ".join(f"{name} {value:.4f}" for name, value in sources)
    parts = [
        f"step {step}/{steps}",
        f"loss {logs['loss']:.4f}{f' ({listed})' if len(sources) > 1 else ''}",
        f"lr {logs['learning_rate']:.2e}",
        f"grad_norm {logs.get('grad_norm', math.nan):.3f}",
        f"supervised {logs['supervised_per_step']:,.0f} tok/step",
        f"{logs['tokens_per_second']:,.0f} tok/s",
        f"{logs['supervised_tokens_per_second']:,.0f} supervised tok/s",
        *([f"mfu {100 * logs['mfu']:.1f} %"] if "mfu" in logs else []),
        f"{logs['peak_memory_gib']:.2f} GiB",
    ]
    return "  ".join(parts)
