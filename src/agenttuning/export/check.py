"""What an export must prove: the same weights, rounded once, the same tokens, and the same answers when it is loaded
as anybody would load it. Weights pass a module at a time, so that 70B needs no machine that holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat import encode, load_tokenizer
from agenttuning.errors import UserError
from agenttuning.training.saving import PROBE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from agenttuning.export.layout import Layout

# Both sides compute in float32 from the same bfloat16 numbers; what differs is the order of sums: 1e-6 to 1e-4 of the
# logits' spread on tiny models (tests). A wrong config or a swapped tensor gives differences as large as the spread.
TOLERANCE = 1e-3
PROBES = [
    [
        {"role": "user", "content": "What is in the drawer?"},
        {"role": "assistant", "content": "Thought: I look.\nAction: open drawer 1"},
        {"role": "user", "content": "The drawer 1 is open. In it, you see a café mug."},
        {"role": "assistant", "content": "Thought: That is all.\nAction: finish"},
    ],
    [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}],
]


def compare_weights(folder: Path, layout: Layout) -> None:
    """Raise UserError unless the folder holds each tensor as the checkpoint has it, rounded, bit by bit."""
    import torch

    from agenttuning.export.readers import from_safetensors

    written = from_safetensors(folder)
    wrong = [] if written.shapes.keys() == layout.specs.keys() else ["the list of tensors"]
    for name in layout.specs:
        if wrong:
            break
        first, second = layout.read(name), written.read(name)
        same = first.shape == second.shape and first.dtype == second.dtype
        if not same or not torch.equal(_bits(first), _bits(second)):
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{wrong[0]} was read back other than it was written; nobody would get the trained model; look at the "
            "disk, and export again"
        )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def compare_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise UserError unless the folder's tokenizer gives the trained ids, loaded by us and by AutoTokenizer."""
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for probe in (PROBE, *PROBES):
        trained = encode(probe, tokenizer).input_ids
        seen = {"agenttuning": encode(probe, ours).input_ids}
        if probe is not PROBE:  # its literal </s> is a control token to whoever tokenises a rendered text
            seen["AutoTokenizer"] = theirs.apply_chat_template(probe, tokenize=True, return_dict=False)
        for loader, ids in seen.items():
            if list(ids) != trained:
                at = next((i for i, (a, b) in enumerate(zip(ids, trained, strict=False)) if a != b), len(trained))
                raise UserError(
                    f"{loader} gives {list(ids[at : at + 4])} where training had {trained[at : at + 4]} (token {at} of "
                    "a probe); the model would be asked in another format than it was trained in; check the base "
                    "model's tokenizer.json"
                )


def probe_ids(tokenizer: PreTrainedTokenizerFast, longest: int | None, system: str | None) -> list[int]:
    """Ids of all probes, one after the other, as far as the model can take them."""
    ids = [token for probe in (PROBE, *PROBES) for token in encode(probe, tokenizer, system_prompt=system).input_ids]
    return ids[:longest] if longest else ids


def compare_logits(
    folder: Path, reference: Callable[[Path], PreTrainedModel], ids: list[int], scratch: Path
) -> dict[str, Any]:
    """Load the folder as a user would, compare its logits with the source's and return the figures.

    reference(scratch) gives the source's model, whose weights are fetched when they are used. Raises UserError where
    the loader finds tensors too few or too many, and where the logits differ by more than TOLERANCE of their spread.
    """
    import torch
    from transformers import AutoModelForCausalLM

    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # "... offloaded to the disk": on purpose
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, device_map={"": "disk"}, offload_folder=str(scratch / "export"), output_loading_info=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading.get(what):
            raise UserError(f"transformers loads the export with {what} {sorted(loading[what])[:3]}; a bug: report it")
    if model.dtype != torch.bfloat16:
        raise UserError(f"transformers loads the export as {model.dtype}; its config.json should say bfloat16")
    got = _logits(model, ids)
    source = reference(scratch / "source")
    exact = _logits(source, ids)
    with _rounded(source):
        wanted = _logits(source, ids)
    spread = float(wanted.std())
    worst = float((got - wanted).abs().max())
    figures = {
        "tokens": len(ids),
        "spread": spread,
        "difference": worst,
        "tolerance": TOLERANCE * spread,
        "difference_of_rounding": float((got - exact).abs().max()),
        "same_first_choice": float((got.argmax(-1) == exact.argmax(-1)).float().mean()),
    }
    if not worst <= TOLERANCE * spread:  # also where it is no number
        raise UserError(
            f"the export's logits differ from the source's by up to {worst:.3g}, and {TOLERANCE * spread:.3g} is what "
            "the order of sums explains; it would answer otherwise than the trained model; a config of the base "
            "that does not fit these weights is the likeliest cause"
        )
    return figures


def _logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    import torch

    model.float()  # its weights are elsewhere: they are turned into float32 when they are fetched
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


class Fetched(Mapping):
    """Tensors that a function gives by name."""

    def __init__(self, names: Iterable[str], read: Callable[[str], torch.Tensor]) -> None:
        self.names, self.read = names, read

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return sum(1 for _ in self.names)


def rounded(tensors: Mapping) -> Fetched:
    """The same tensors as bfloat16 holds them."""
    import torch

    def read(name: str) -> torch.Tensor:
        tensor = tensors[name]
        return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor

    return Fetched(tensors, read)


@contextmanager
def _rounded(model: PreTrainedModel) -> Iterator[None]:
    """Let a model fetch its weights rounded."""
    hooks = [getattr(module, "_hf_hook", None) for module in model.modules()]
    hooks = [one for hook in hooks for one in getattr(hook, "hooks", [hook])]
    hooks = [(one, one.weights_map) for one in hooks if getattr(one, "weights_map", None) is not None]
    if not hooks:
        raise RuntimeError("a reference model must fetch its weights through accelerate's hooks")
    for hook, weights in hooks:
        hook.weights_map = rounded(weights)
    try:
        yield
    finally:
        for hook, weights in hooks:
            hook.weights_map = weights


def fetching(model: PreTrainedModel, names: list[str], read: Callable[[str], torch.Tensor]) -> PreTrainedModel:
    """A model without weights that gets each from `read` when it needs it."""
    from accelerate import cpu_offload

    return cpu_offload(model, "cpu", offload_buffers=True, state_dict=Fetched(names, read))
