"""The loss of every token of a micro-batch, as a by-product of computing the loss, without a second look at the logits.

On a CPU the model computes its loss itself, through `loss_function`; ours is transformers' ForCausalLMLoss with the sum
taken outside of the cross entropy, which gives the same gradients to the bit. On a GPU, TRL's head returns the
log-probability of each label and never holds all logits; a hook reads it as it passes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Keep = Callable[[torch.Tensor], None]


def keep_own(model: torch.nn.Module, keep: Keep) -> None:
    """Let `model` hand the losses of each forward with labels to `keep`: float32, batch x (length - 1), place i is that
    of predicting token i + 1, 0 where the label is -100.
    """

    def loss_function(logits, labels, vocab_size, num_items_in_batch=None, ignore_index=-100, **_):
        shifted = functional.pad(labels, (0, 1), value=ignore_index)[..., 1:].contiguous().to(logits.device)
        losses = functional.cross_entropy(
            logits.float().view(-1, vocab_size), shifted.view(-1), ignore_index=ignore_index, reduction="none"
        )
        keep(losses.detach().view(shifted.shape)[..., :-1])
        count = shifted.ne(ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / torch.as_tensor(count, device=losses.device)

    model.loss_function = loss_function


def keep_fused(model: torch.nn.Module, keep: Keep, loss_type: str) -> None:
    """The same from TRL's fused head: the losses that it sums, of `loss_type` "nll" or "dft"."""

    def read(_module, _arguments, output):
        log_probs = getattr(output, "log_probs", None)
        if log_probs is not None:
            losses = -log_probs.detach()
            keep(losses * log_probs.detach().exp() if loss_type == "dft" else losses)

    model.register_forward_hook(read)
