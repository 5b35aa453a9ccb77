"""Before the first step: are documents that share a row really computed as if each stood alone?

Whether they are depends on the model's code, the attention, the collator and what the model is called with, and
nothing fails when one of them is wrong. So it is tried, with a small copy of the very model: its class and config with
few and narrow layers and random weights, which costs about as much for 70B as for 7B and does not touch how the real
weights are spread. Three documents go through the run's own collator and Trainer.model_inputs, forward and backward,
and each of them alone through eager attention, the plainest code there is.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from agenttuning.training.trainer import Trainer

VOCABULARY, WIDTH, EXPERTS, WINDOW = 128, 256, 4, 6
ROWS = ((13, 9), (17,))  # documents of each row, in tokens; longer than WINDOW
# Largest difference of a logit whose spread is 1, and of the gradient relative to its length. Measured
# (docs/attention.md): right is below 2e-5 in float32 and 0.07 in bf16, wrong is 1 or more.
TOLERANCE = {"float32": 1e-3, "half": 0.25}
# a window, a chunk or experts that these documents would not fill would not be tried; all experts, because which of
# two equal ones is chosen may depend on the last bit
SMALL = {
    "intermediate_size": WIDTH,
    "moe_intermediate_size": WIDTH,
    "shared_expert_intermediate_size": WIDTH,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": EXPERTS,
}
SHORT = {"sliding_window": WINDOW, "attention_chunk_size": WINDOW}


def report_probe(trainer: Trainer) -> None:
    """Print what the probe measured. Raises UserError where documents are not apart, or nothing could be measured."""
    attention = trainer.model.config._attn_implementation
    if not trainer.padding_free and attention in ("sdpa", "eager"):
        return  # one conversation a row, and the attention that every model is written for
    logits, gradient = probe(trainer)
    kind = "half" if trainer.args.bf16 or trainer.args.fp16 else "float32"
    together = "packed" if trainer.padding_free else "padded"
    said = f"conversations {together} and alone differ by {logits:.1e} in logits of spread 1"
    said += f" and {gradient:.1e} in gradients"
    if not max(logits, gradient) <= TOLERANCE[kind]:  # a figure that is no number is not below it
        raise UserError(
            f"{attention} does not keep the conversations of {type(_base(trainer.model)).__name__} apart: in a small "
            f"copy of it, {together} and alone differ by {logits:.1e} in logits of spread 1 and {gradient:.1e} in "
            f"gradients, where {TOLERANCE[kind]:g} is the most that rounding explains ({kind}); tokens would learn "
            "from conversations that are not theirs; set packing: false, or another launch.attention"
        )
    print(f"{'probe':<10} {said} (refused above {TOLERANCE[kind]:g})", flush=True)


def probe(trainer: Trainer) -> tuple[float, float]:
    """(largest difference of a logit in units of their spread, relative difference of the gradient) between documents
    in one batch and alone, in the run's own precision. Leaves random state and model as they were.

    Raises UserError where no small copy can be made, and where the attention fails in it.
    """
    import torch

    device, attention = trainer.args.device, trainer.model.config._attn_implementation
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _precision(trainer):
        torch.manual_seed(0)
        model, documents, alone = _alone(trainer)
        try:
            model.set_attn_implementation(attention)
            if trainer.args.gradient_checkpointing:
                # the name in transformers 5.23; the older one goes in version 6
                enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
                enable(trainer.args.gradient_checkpointing_kwargs)
            together = _together(trainer, model, documents)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # attentions are foreign code and raise what they like
            raise UserError(
                f"{attention} failed in a small copy of {type(model).__name__} ({type(error).__name__}: {error}), and "
                "so would the first step; choose another launch.attention, or set packing: false"
            ) from error
    spread, length = alone[0].std(), alone[1].norm()
    return float((together[0] - alone[0]).abs().max() / spread), float((together[1] - alone[1]).norm() / length)


def _alone(trainer: Trainer) -> tuple[PreTrainedModel, list[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The small copy, the documents, and (logits, gradient) of each document alone under eager attention."""
    import torch

    failed: Exception | None = None
    for narrow in (True, False):  # some architectures tie widths to each other in ways of their own
        try:
            model = small_copy(_base(trainer.model), narrow).to(trainer.args.device)
            documents = [torch.randint(VOCABULARY, (n,), device=trainer.args.device) for row in ROWS for n in row]
            logits = [model(input_ids=document[None], use_cache=False).logits[0] for document in documents]
            return model, documents, _gradient(model, torch.cat(logits))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: PERF203  the model's own code, with widths it was not written for
            failed = error
    raise UserError(
        f"no small copy of {type(_base(trainer.model)).__name__} could be run ({type(failed).__name__}: {failed}), so "
        "it is not known whether packed conversations stay apart; set packing: false and launch.attention: sdpa"
    ) from failed


def _together(
    trainer: Trainer, model: PreTrainedModel, documents: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, gradient) of the documents as the run would compute them, in the order of `documents`."""
    import numpy
    import torch

    rest, rows, places = iter(documents), [], []
    for number, lengths in enumerate(ROWS if trainer.padding_free else [(n,) for row in ROWS for n in row]):
        ids = torch.cat([next(rest) for _ in lengths]).tolist()
        row = {"input_ids": ids, "labels": ids, "origin": numpy.zeros(len(ids), dtype="int8"), "row": number}
        rows.append({**row, "seq_lengths": list(lengths)} if trainer.padding_free else row)
        places += [(number, sum(lengths[:i]), n) for i, n in enumerate(lengths)]
    batch = trainer.data_collator(rows)
    batch["input_ids"] %= VOCABULARY  # what fills rows up has the id of the real padding token
    del batch["labels"]
    moved = {key: value.to(model.device) if hasattr(value, "to") else value for key, value in batch.items()}
    logits = model(**trainer.model_inputs(moved)).logits
    width, count = logits.shape[1], len(rows)
    starts = [
        n * width if len(logits) == count else sum(len(row["input_ids"]) for row in rows[:n]) for n in range(count)
    ]
    flat = logits.flatten(0, 1)
    return _gradient(model, torch.cat([flat[starts[row] + at : starts[row] + at + n] for row, at, n in places]))


def _gradient(model: PreTrainedModel, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, detached, and the gradient of a fixed weighted sum of them, all parameters in one row."""
    import torch

    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(logits.shape, generator=generator).to(logits.device)
    (logits.float() * weights).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return logits.detach().float(), gradient


def small_copy(model: PreTrainedModel, narrow: bool) -> PreTrainedModel:
    """A model of the same class and config in float32 with random weights, no dropout and eager attention, and only as
    many layers, from the first on, as have one of every kind. narrow: fewer heads and experts, smaller widths too.
    """
    import torch

    whole = copy.deepcopy(model.config)
    config = whole.get_text_config()
    layers = depth(model, config)
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == config.num_hidden_layers:
            setattr(config, name, value[:layers])
        elif "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    changed = {"num_hidden_layers": layers, "vocab_size": VOCABULARY, "pad_token_id": None}
    changed |= {name: size for name, size in SHORT.items() if getattr(config, name, None)}
    if narrow:
        changed |= {name: size for name, size in SMALL.items() if (getattr(config, name, None) or 0) > size}
        changed |= _fewer_heads(config)
    for name, value in changed.items():
        setattr(config, name, value)
    for part in {id(part): part for part in (whole, config)}.values():
        part.__dict__.pop("quantization_config", None)
    whole._attn_implementation = "eager"
    small = type(model)(whole).train()
    with torch.no_grad():
        for parameter in small.parameters():
            if parameter.dim() > 1:  # as large as its inputs, so that attention is far from uniform and a leak shows
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return small


def _fewer_heads(config: PretrainedConfig) -> dict[str, int]:
    """Two groups of heads of the real width and the real number of query heads each."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    few = min(groups, 2)
    changed = {"num_attention_heads": few * (heads // groups), "num_key_value_heads": few}
    if getattr(config, "head_dim", None):
        return {**changed, "hidden_size": min(config.hidden_size, WIDTH)}
    return {**changed, "hidden_size": changed["num_attention_heads"] * (config.hidden_size // heads)}


def depth(model: PreTrainedModel, config: PretrainedConfig) -> int:
    """How many layers, from the first on, hold one of every kind: of the same parts, and the same in the config's lists
    of layers. At least 2, so that what one layer mixes up reaches another.
    """
    import torch

    total = config.num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == total]
    lists = [v for v in vars(config).values() if isinstance(v, list | tuple) and len(v) == total]
    kinds = [
        (
            *(tuple((name, type(part).__name__) for name, part in stack[i].named_children()) for stack in stacks),
            *(repr(values[i]) for values in lists),
        )
        for i in range(total)
    ]
    return min(total, max(2, *(kinds.index(kind) + 1 for kind in kinds)))


def _base(model: Any) -> PreTrainedModel:
    """The model below an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _precision(trainer: Trainer) -> contextlib.AbstractContextManager:
    import torch

    if not (trainer.args.bf16 or trainer.args.fp16):
        return contextlib.nullcontext()
    return torch.autocast(trainer.args.device.type, torch.bfloat16 if trainer.args.bf16 else torch.float16)
