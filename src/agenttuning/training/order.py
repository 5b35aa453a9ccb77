"""The order of the rows, by seed and pass alone, so that a resumed run sees what the uninterrupted one would have.

transformers' LengthGroupedSampler draws from the global generator: a run resumed in its second pass would get an order
that depends on how many random numbers its first steps used. And where several processes skip batches in a resume,
accelerate 1.15 tells the pass to its own random sampler alone.
"""

from __future__ import annotations

from typing import Any

import torch


class Repeatable(torch.utils.data.Sampler):
    """A sampler with a `generator`, whose order in each pass is drawn from seed + pass."""

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self.seed, self.epoch = sampler, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self):
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from self.sampler


def repeatable(sampler: Any, args: Any) -> Any:
    """`sampler`, made Repeatable where it groups by length; accelerate makes RandomSampler so by itself."""
    if type(sampler).__name__ == "LengthGroupedSampler":
        return Repeatable(sampler, args.seed if args.data_seed is None else args.data_seed)
    return sampler


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the pass to the innermost sampler of a loader, under batch samplers of any depth."""
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
