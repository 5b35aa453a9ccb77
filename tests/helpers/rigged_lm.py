"""A model whose answers a test decides, behind lm-eval's own code: only its two calls of the network are replaced, so
that what is kept in `asked` are the very ids that a network would have got.
"""

from __future__ import annotations

from collections.abc import Callable


class Rig:
    """asked: the ids of every row that was asked, without padding. prefers(text): the letter that is likeliest after
    the prompt `text`; says(text): the reply to it. `text` is decoded, special tokens in it.
    """

    def __init__(self, lm, prefers: Callable[[str], str] | None = None, says: Callable[[str], str] | None = None):
        self.tokenizer, self.prefers, self.says = lm.tokenizer, prefers, says
        self.asked: list[list[int]] = []
        lm._model_call, lm._model_generate = self._call, self._generate

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _call(self, inps, attn_mask=None, labels=None):
        import torch

        logits = torch.zeros(*inps.shape, len(self.tokenizer))
        for row, padded in enumerate(inps.tolist()):
            ids = padded
            while ids and ids[-1] == 0:  # lm-eval pads with zeros at the right
                ids = ids[:-1]
            self.asked.append(ids)
            letter = self.prefers(self.tokenizer.decode(ids))
            logits[row, :, self.ids(f" {letter}")[-1]] = logits[row, :, self.ids(letter)[-1]] = 12.0
        return logits

    def _generate(self, context, max_length, stop, **_):
        import torch

        width = context.shape[1]
        rows = []
        for padded in context.tolist():
            ids = padded
            while ids and ids[0] == self.tokenizer.pad_token_id:
                ids = ids[1:]
            self.asked.append(ids)
            said = self.ids(self.says(self.tokenizer.decode(ids)))[: max_length - width]
            rows.append([*padded, *said, self.tokenizer.eos_token_id])
        longest = max(map(len, rows))
        return torch.tensor([row + [self.tokenizer.eos_token_id] * (longest - len(row)) for row in rows])
