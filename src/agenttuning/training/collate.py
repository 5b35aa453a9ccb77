"""Batches: TRL's collator, plus what is counted, and packed rows one below the other for an attention with a mask."""

from typing import Any

import numpy
import torch

COUNTED = ("counts", "origin", "rows")  # what `Collator` adds; no model takes them


class Collator:
    """TRL's collator, plus `counts`, `origin` and `rows`.

    counts: int64 tensor of the batch's tokens, the sum of the squared lengths of its conversations (what a causal
    attention inside them costs) and its supervised tokens per source. origin: int8, as `labels` is laid out, the number
    of the source at each supervised token and -1 elsewhere. rows: [number of the row in the data set, tokens] each.
    apart: TRL lays the packed rows of a batch end to end, as kernels with sequence boundaries want them. An attention
    with a mask would then pay for every pair of tokens of the whole batch, so it gets one row below the other.
    """

    def __init__(self, collator: Any, sources: int, apart: bool = False) -> None:
        self.collator, self.sources, self.apart = collator, sources, apart

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        flat = numpy.concatenate([row["origin"] for row in rows])
        supervised = numpy.bincount(flat[flat >= 0], minlength=self.sources)
        lengths = [len(row["input_ids"]) for row in rows]
        within = numpy.concatenate([row.get("seq_lengths", [len(row["input_ids"])]) for row in rows])
        batch = self.collator(rows)
        laid_out = torch.full_like(batch["labels"], -1, dtype=torch.int8)
        if len(laid_out) == len(rows):
            for place, row in zip(laid_out, rows, strict=True):
                place[: len(row["origin"])] = torch.from_numpy(row["origin"])
        else:  # end to end
            laid_out[0, : len(flat)] = torch.from_numpy(flat)
        batch["origin"] = laid_out
        if self.apart:
            batch = rows_apart(batch, lengths, self.collator.pad_token_id)
        batch["counts"] = torch.tensor([len(flat), int((within.astype("int64") ** 2).sum()), *supervised.tolist()])
        batch["rows"] = [[int(row["row"]), length] for row, length in zip(rows, lengths, strict=True)]
        return batch


def rows_apart(batch: dict[str, torch.Tensor], lengths: list[int], pad: int) -> dict[str, torch.Tensor]:
    """input_ids, labels, position_ids and origin of 1 x sum(lengths) as rows x max(lengths).

    What fills a row up has positions of its own from 0, which makes it one more conversation that no other sees.
    """
    apart = {}
    for name, filling in (("input_ids", pad), ("labels", -100), ("position_ids", None), ("origin", -1)):
        like = batch[name]
        tail = torch.arange(max(lengths)) if filling is None else like.new_full((max(lengths),), filling)
        parts = like[0].split(lengths)
        apart[name] = torch.stack([torch.cat([part, tail[: max(lengths) - len(part)]]) for part in parts])
    return apart
