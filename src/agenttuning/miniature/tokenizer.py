"""The miniature's own tokenizer: byte-fallback BPE with the exact structure of Llama-2's (prepend, replace, no
pre-tokenizer), so that everything that holds for the real one is exercised by the small one."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Units that merges never cross while training: chat markers, the two headings, words with their leading space,
# single digits (as Llama-2 splits numbers) and single other characters.
UNIT = re.compile(r"▁?\[/?INST\]|▁?(?:Thought|Action):|▁?_?[A-Za-z]+|\d|▁|.", re.DOTALL)


def build_tokenizer(texts: Iterable[str], vocab_size: int):
    """Train on `texts`; returns a PreTrainedTokenizerFast of at most `vocab_size` entries.

    Ids 0, 1, 2 are <unk>, <s>, </s> as in Llama-2; the padding token is <unk> (shared pad and end would teach a
    model never to stop).
    """
    import json

    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(BPE())
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(UNIT.pattern), behavior="isolated")
    size = vocab_size - len(specials) - len(bytes_)
    learner.train_from_iterator(texts, BpeTrainer(vocab_size=size, special_tokens=[], show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    # A newline stays a byte token, as in Llama-2.
    pieces = [piece for piece, _ in sorted(learned["vocab"].items(), key=lambda entry: entry[1]) if piece != "\n"]
    vocab = {piece: index for index, piece in enumerate([*specials, *bytes_, *pieces])}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer  # and no pre-tokenizer: the merges alone decide, as in Llama-2
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
