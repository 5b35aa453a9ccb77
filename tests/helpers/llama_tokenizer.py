"""A tokenizer with Llama-2's exact structure, built in-process in a second: ids 0/1/2 are <unk>/<s>/</s>, 256 byte
pieces, BPE with byte fallback, the normalizer of tokenizer.json (prepend "▁", then spaces to "▁") and no pre-tokenizer.
"""

from __future__ import annotations

import json

TEXTS = [
    "[INST] [/INST] <<SYS>> <</SYS>> You are a helpful, respectful and honest assistant.",
    "Thought: I open the drawer. Action: open drawer 1. The drawer holds a mug, a pen and two keys.",
    "Think: list the files first. Act: bash. The output of the OS: total 12, three files were found.",
    "What was the total number of goals? Action: Operation SELECT count FROM goals WHERE team = 'Rome';",
    "</s> <s> <unk> a < b > c / d",
]


def build_tokenizer(texts: list[str] = TEXTS, merges: int = 400):
    """Return a PreTrainedTokenizerFast trained on `texts`; merges never cross a word, except runs of spaces as in
    Llama-2.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>"]
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(BPE())
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[A-Za-z]+|▁?\[|▁?<|."), behavior="isolated")
    learner.train_from_iterator(texts, BpeTrainer(vocab_size=merges, special_tokens=[], show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"], "▁▁", "▁▁▁▁"]
    pairs = [*map(tuple, learned["merges"]), ("▁", "▁"), ("▁▁", "▁▁")]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(BPE(vocab=vocab, merges=pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizer
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
