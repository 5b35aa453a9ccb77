"""Batches: TRL's collator, plus what is counted, and packed rows one below the other for an attention with a mask."""

from typing import Any

import numpy
import torch


class Collator:
    """TRL's collator, plus `counts`: an int64 tensor of the batch's tokens and its supervised tokens per source.

    apart: TRL lays the packed rows of a batch end to end, as kernels with sequence boundaries want them. An attention
    with a mask would then pay for every pair of tokens of the whole batch, so it gets one row below the other.
    """

    def __init__(self, collator: Any, sources: int, apart: bool = False) -> None:
        self.collator, self.sources, self.apart = collator, sources, apart

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        origin = numpy.concatenate([row["origin"] for row in rows])
        supervised = numpy.bincount(origin[origin >= 0], minlength=self.sources)
        batch = self.collator(rows)
        if self.apart:
            batch = rows_apart(batch, [len(row["input_ids"]) for row in rows], self.collator.pad_token_id)
        batch["counts"] = torch.tensor([len(origin), *supervised.tolist()])
        return batch


def rows_apart(batch: dict[str, torch.Tensor], lengths: list[int], pad: int) -> dict[str, torch.Tensor]:
    """input_ids, labels and position_ids of 1 x sum(lengths) as rows x max(lengths).

    What fills a row up has positions of its own from 0, which makes it one more conversation that no other sees.
    """
    apart = {}
    for name, filling in (("input_ids", pad), ("labels", -100), ("position_ids", None)):
        tail = torch.arange(max(lengths)) if filling is None else torch.full((max(lengths),), filling)
        parts = batch[name][0].split(lengths)
        apart[name] = torch.stack([torch.cat([part, tail[: max(lengths) - len(part)]]) for part in parts])
    return apart
