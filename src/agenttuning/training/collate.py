"""Batches: TRL's collator, plus what is counted, and packed rows one below the other for an attention with a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import torch

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


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
        if self.collator.padding_free:
            check_boundaries(batch, [n for row in rows for n in row.get("seq_lengths", [len(row["input_ids"])])])
        if self.apart:
            batch = rows_apart(batch, [len(row["input_ids"]) for row in rows], self.collator.pad_token_id)
        batch["counts"] = torch.tensor([len(origin), *supervised.tolist()])
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
    """input_ids, labels and position_ids of 1 x sum(lengths) as rows x max(lengths).

    What fills a row up has positions of its own from 0, which makes it one more conversation that no other sees.
    """
    apart = {}
    for name, filling in (("input_ids", pad), ("labels", -100), ("position_ids", None)):
        tail = torch.arange(max(lengths)) if filling is None else torch.full((max(lengths),), filling)
        parts = batch[name][0, : sum(lengths)].split(lengths)
        apart[name] = torch.stack([torch.cat([part, tail[: max(lengths) - len(part)]]) for part in parts])
    return apart
