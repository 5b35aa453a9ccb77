"""Batches: TRL's collator, plus what is counted, and packed rows one below the other for an attention with a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import torch

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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
        if self.collator.padding_free:
            check_boundaries(batch, within.tolist())
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


def rows_lie_apart(config: PretrainedConfig) -> bool:
    """Whether packed rows of this model are better one below the other: its attention builds a mask, and no layer goes
    by `seq_idx` or `cu_seq_lens`, which only rows laid end to end have (linear attention, convolutions, state spaces).
    """
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    masked = config._attn_implementation in ("sdpa", "eager")
    return masked and kinds <= {"full_attention", "sliding_attention", "chunked_attention"}


def check_boundaries(batch: dict[str, torch.Tensor], lengths: list[int]) -> None:
    """Raise UserError unless the batch's boundaries are those of documents of these lengths, laid end to end.

    Attention goes by them alone: one that is missing or misplaced joins two conversations and nothing else shows it.
    Here, because the tensors are not on a GPU yet.
    """
    fill = batch["input_ids"].shape[1] - sum(lengths)  # pad_to_multiple_of: every token of it a document by itself
    lengths = [*lengths, *[1] * fill]
    bounds, positions = numpy.cumsum([0, *lengths]), numpy.concatenate([numpy.arange(n) for n in lengths])
    wrong = [
        name
        for name, right in (("position_ids", positions[None]), ("cu_seq_lens_q", bounds), ("cu_seq_lens_k", bounds))
        if not numpy.array_equal(batch.get(name, torch.empty(0)), right)
    ]
    if batch.get("max_length_q") != max(lengths):
        wrong.append("max_length_q")
    if wrong:
        raise UserError(
            f"the packed batch has {wrong[0]} {batch.get(wrong[0])}, which are not the boundaries of documents of "
            f"{lengths} tokens; conversations would attend to each other; TRL's collator is another than this code "
            "was written for (constraints.txt has the version); install that one, or set packing: false"
        )


def rows_apart(batch: dict[str, torch.Tensor], lengths: list[int], pad: int) -> dict[str, torch.Tensor]:
    """input_ids, labels, position_ids and origin of 1 x sum(lengths) as rows x max(lengths).

    What fills a row up has positions of its own from 0, which makes it one more conversation that no other sees.
    """
    apart = {}
    for name, filling in (("input_ids", pad), ("labels", -100), ("position_ids", None), ("origin", -1)):
        like = batch[name]
        tail = torch.arange(max(lengths)) if filling is None else like.new_full((max(lengths),), filling)
        parts = like[0, : sum(lengths)].split(lengths)
        apart[name] = torch.stack([torch.cat([part, tail[: max(lengths) - len(part)]]) for part in parts])
    return apart
