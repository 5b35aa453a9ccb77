"""Whether what was collected holds items of the evaluation: the rule of data/contamination.py, over words.

The paper's rule counts Llama-2's tokens; a collection must be checkable without anybody's tokenizer, so that here
tokens are words, numbers and marks. Ten equal words are more than ten equal tokens: what this check finds, the other
(`agenttuning decontaminate`) finds as well, and it may find more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def overlap(rows: dict[str, list[dict]], items: dict[str, list[tuple[str, str]]]) -> dict[str, dict]:
    """For each task how its evaluation items, (id, first observation), stand in the rows of all tasks.

    Gives {task: {items, same, clean, between, dirty, too_short, same_ids}}; `same`: the observation stands whole in a
    row, which is an item that was trained on. The paper's rule gives the other four.
    """
    from agenttuning.data.contamination import KINDS, Check, Example, judge

    examples = [Example(task, item, (text,)) for task, found in items.items() for item, text in found]
    talks = [[{"content": turn["value"]} for turn in row["conversations"]] for found in rows.values() for row in found]
    texts = [text for example in examples for text in example.texts]
    # a lead of the prompt may stand before the observation
    turns = {part for talk in talks for turn in talk for part in _ends(turn["content"].strip(), texts)}
    check = Check(examples, _words([*texts, *(turn["content"] for talk in talks for turn in talk)]))
    verdict = judge(check, check.spans(talks))
    found = {}
    for task, of_task in items.items():
        kinds = {e.id: kind for e, kind in zip(examples, verdict.kinds, strict=True) if e.suite == task}
        counts = Counter(kinds.values())
        same = sorted(item for item, text in of_task if text.strip() in turns)
        by_rule = {kind: counts[kind] for kind in KINDS}
        found[task] = {"items": len(of_task), "same": len(same), **by_rule, "same_ids": same}
    return found


def _ends(turn: str, texts: list[str]) -> Iterable[str]:
    return (text.strip() for text in texts if text.strip() and turn.endswith(text.strip()))


def _words(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of the texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.BertPreTokenizer()
    known: dict[str, int] = {"<unk>": 0}
    for text in texts:
        for word, _ in split.pre_tokenize_str(text):
            known.setdefault(word, len(known))
    backend = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    backend.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
