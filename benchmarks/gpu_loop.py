"""The model, the rows and the step that train_gpu.py measures. Needs torch and transformers, and nothing of the Hub.

The step is the recipes': float32 weights under bf16 autocast (or what `weights` says), clipping at 1.0, AdamW with the
paper's values, one optimizer step for every `accumulate` micro-batches, documents packed into full rows.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, LlamaConfig

from agenttuning.model_size import LLAMA_2, Architecture, layer_parameters
from agenttuning.training import varlen
from data import document_tokens

GIB = 2**30
# As the recipes' sft-lora.yaml: all linear layers but the head.
LORA = {"r": 64, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
TINY = Architecture(vocabulary=256, hidden=32, layers=2, heads=2, kv_heads=2, head_size=16, mlp=64)
SIZES = {**LLAMA_2, "tiny": TINY}
TOLERATED = 0.1  # of attention_error: bf16 rounding gives about 0.01, a leak between documents 0.2 and more
PACKED = (varlen.NAME, "flash_attention_2", "flash_attention_3")  # they take document boundaries instead of a mask


@dataclass(frozen=True)
class Setting:
    """One way to train. size: a key of SIZES; accumulate and micro_steps count micro-batches of `rows` rows of `length`
    tokens; micro_steps are measured, after `warmup` that are not.
    """

    size: str
    method: str
    weights: str
    attention: str
    checkpointing: str
    hidden_dropout: float
    compile: bool
    rows: int
    length: int
    accumulate: int
    micro_steps: int
    warmup: int

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.rows * self.length


def pack(lengths: list[int], size: int) -> list[list[int]]:
    """Best-fit decreasing bins: each length goes where it leaves the least room, as TRL's `bfd` does."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (room left, bin), sorted
    for length in sorted(lengths, reverse=True):
        at = bisect_left(room, (length, -1))
        left, number = room.pop(at) if at < len(room) else (size, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(length)
        insort(room, (left - length, number))
    return bins


def documents(count: int, size: int, seed: int = 0) -> list[list[int]]:
    """`count` full rows of `size` tokens as lengths of their documents.

    Lengths are the mixture's (data.py), shrunk for rows below 4,096; longer ones are cut, as `split_at_turn` does, and
    what a row lacks its last document gets (0.3 % at 4,096), so that every token is trained and all shapes are alike.
    """
    rng = random.Random(seed)
    lengths: list[int] = []
    while sum(lengths) < 1.1 * count * size + size:
        rest = max(2, int(document_tokens(rng) * size / 4096))
        while rest > 0:
            lengths.append(min(rest, size))
            rest -= size
    bins = [bin for bin in pack(lengths, size) if sum(bin) > 0.9 * size]
    rng.shuffle(bins)
    return [[*bin[:-1], bin[-1] + size - sum(bin)] for bin in bins[:count]]


def batches(setting: Setting, device: torch.device, count: int) -> Iterator[dict]:
    """Micro-batches of random ids: a row below the other with positions for an attention with a mask, end to end with
    boundaries for the others. No label crosses from one document to the next.
    """
    generator = torch.Generator().manual_seed(0)
    rows = documents(count * setting.rows, setting.length)
    for number in range(count):
        mine = rows[number * setting.rows : (number + 1) * setting.rows]
        ids = torch.randint(3, SIZES[setting.size].vocabulary, (setting.rows, setting.length), generator=generator)
        positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in mine])
        batch = {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        if setting.attention in PACKED:
            batch = {name: tensor.reshape(1, -1) for name, tensor in batch.items()} | boundaries(mine, device)
        yield {**batch, "use_cache": False}


def boundaries(rows: list[list[int]], device: torch.device) -> dict:
    """The document boundaries of rows laid end to end, under the names that transformers and TRL's collator have."""
    lengths = [length for row in rows for length in row]
    ends = torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": max(lengths), "max_length_k": max(lengths)}


def build(setting: Setting, device: torch.device) -> torch.nn.Module:
    """The model with random weights, as `setting` has it trained; `measure` compiles it."""
    shape, torch_type = SIZES[setting.size], getattr(torch, setting.weights)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=max(4096, setting.length), rms_norm_eps=1e-5,
    )  # fmt: skip
    if setting.attention == varlen.NAME:
        varlen.register()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=setting.attention, dtype=torch_type)
    model.train()
    if setting.method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(**LORA))
    if setting.hidden_dropout:
        from agenttuning.training import dropout

        dropout.install(model, setting.hidden_dropout)
    if setting.checkpointing != "none":
        extra = {"context_fn": selective} if setting.checkpointing == "selective" else {}
        for layer in decoder_layers(model):
            layer.forward = functools.partial(recomputed, layer.forward, extra)
    return model


def recomputed(forward, extra: dict, *arguments, **named):
    """A decoder layer's forward under checkpointing. Inside the layer's call, so that a compiled layer holds it: around
    a compiled one, where older versions of transformers have it, torch 2.13 fails with `selective`.
    """
    return checkpoint(functools.partial(forward, **named), *arguments, use_reentrant=False, **extra)


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Its decoder layers, with or without adapters around it."""
    return list(getattr(model, "base_model", model).get_decoder().layers)


def selective() -> tuple:
    """Contexts of checkpointing that keep what matrix products and attention gave and compute the rest again."""
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    def policy(_context, operation, *_, **__) -> CheckpointPolicy:
        name = str(operation)
        kept = any(word in name for word in ("aten.mm", "aten.addmm", "aten.bmm", "attention", "attn", "flash"))
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def attention_error(model: torch.nn.Module, setting: Setting, device: torch.device) -> float | None:
    """How far the last logits of one row lie from those of sdpa with its mask, in their standard deviations.

    A root mean square, for TOLERATED. None where sdpa is what is measured. One row, because that one holds two
    documents, and the last of more rows may hold one, which nothing could leak into.
    """
    if setting.attention == "sdpa":
        return None
    from dataclasses import replace

    inner = getattr(model, "base_model", model)
    found = []
    model.eval()  # nothing is dropped
    for name in (setting.attention, "sdpa"):
        inner.set_attn_implementation(name)
        batch = next(batches(replace(setting, attention=name, rows=1), device, 1))
        with torch.no_grad(), autocast(setting, device):
            labels = batch.pop("labels")
            logits = model(**batch, logits_to_keep=0 if labels.numel() < 512 else 64).logits
        found.append(logits.reshape(-1, logits.shape[-1])[-64:].float())
    inner.set_attn_implementation(setting.attention)
    model.train()
    return float((found[0] - found[1]).square().mean().sqrt() / found[1].std())


def autocast(setting: Setting, device: torch.device) -> torch.autocast:
    """bf16 on a GPU, for float32 weights and float32 adapters; a CPU computes in what the weights are."""
    enabled = device.type == "cuda" and (setting.weights == "float32" or setting.method == "lora")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def measure(setting: Setting, device: torch.device, model: torch.nn.Module | None = None) -> dict:
    """Train (`model`, or a new one) and measure: seconds are medians between marks on the device, so nothing between
    steps is left out. Ends the program where documents see each other, or the loss is no number.
    """
    model = model or build(setting, device)
    error = attention_error(model, setting, device)
    if error is not None and not error < TOLERATED:
        raise SystemExit(
            f"{setting.attention}: the logits of packed documents are {error:.2f} of their spread away from sdpa's: "
            "they see each other, and the speed of that would mean nothing"
        )
    if setting.compile:  # not before: the check runs another attention too
        for layer in decoder_layers(model):
            layer.compile()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=5e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=device.type == "cuda"
    )
    clock, losses = Clock(device), []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number, batch in enumerate(list(batches(setting, device, setting.warmup + setting.micro_steps))):
        begun = clock.mark()
        with autocast(setting, device):
            loss = model(**batch).loss / setting.accumulate
        loss.backward()
        computed = clock.mark()
        losses.append(loss.detach())
        if (number + 1) % setting.accumulate == 0:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        updated = clock.mark()
        if number >= setting.warmup:
            clock.keep("micro", begun, computed)
            if (number + 1) % setting.accumulate == 0:
                clock.keep("update", computed, updated)
    found = clock.seconds()
    final = float(losses[-1]) * setting.accumulate
    if not math.isfinite(final):
        raise SystemExit(f"the loss of the last micro-batch is {final}; a time of such steps would mean nothing")
    return summary(setting, found["micro"], statistics.median(found["update"])) | {
        "loss": final,
        "attention_error": error,
        **peak(device),
    }


def summary(setting: Setting, micro: list[float], update: float) -> dict:
    """Tokens a second of whole optimizer steps of `accumulate` micro-batches, and how the micro-batches spread."""
    middle = statistics.median(micro)
    quarter = statistics.quantiles(micro, n=4) if len(micro) > 1 else [middle] * 3
    return {
        "tokens_per_second": setting.accumulate * setting.tokens / (setting.accumulate * middle + update),
        "micro_step_seconds": middle,
        "micro_step_seconds_quartiles": [quarter[0], quarter[2]],
        "update_seconds": update,
        "n": len(micro),
    }


def peak(device: torch.device) -> dict:
    """The most memory that tensors held, and that the allocator took, in GiB; None on a CPU."""
    if device.type != "cuda":
        return {"peak_gib": None, "peak_reserved_gib": None}
    held, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak_gib": held / GIB, "peak_reserved_gib": reserved / GIB}


class Clock:
    """Marks in the order of the device's work, read when all is done: CUDA events, or the time on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda, self.kept = device.type == "cuda", {}

    def mark(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def keep(self, name: str, begun, ended) -> None:
        self.kept.setdefault(name, []).append((begun, ended))

    def seconds(self) -> dict[str, list[float]]:
        if self.cuda:
            torch.cuda.synchronize()
        pairs = self.kept.items()
        if self.cuda:
            return {name: [a.elapsed_time(b) / 1000 for a, b in marks] for name, marks in pairs}
        return {name: [b - a for a, b in marks] for name, marks in pairs}


@functools.cache
def flops_per_token(size: str, method: str, length: int, attended: float) -> dict[str, float]:
    """Training FLOPs per token, nothing recomputed: of matrix products, and with attention in three conventions.

    causal: half of the square, as model_size.flops_per_token; full: all of it, as PaLM; documents: what packed
    documents need, `attended` being the mean number of tokens that a token sees. Frozen weights (LoRA) have no
    gradient of their own: 4 instead of 6 FLOPs per weight, and 6 per weight of the adapter.
    """
    shape = SIZES[size]
    query, value = (heads * shape.head_size for heads in (shape.heads, shape.kv_heads))
    widths = 2 * (shape.hidden + query) + 2 * (shape.hidden + value) + 3 * (shape.hidden + shape.mlp)
    multiplied = shape.layers * layer_parameters(shape) + shape.hidden + shape.vocabulary * shape.hidden
    adapter = shape.layers * LORA["r"] * widths if method == "lora" else 0
    products = 4 * multiplied + 6 * adapter if adapter else 6 * multiplied
    one = 12 * shape.layers * shape.heads * shape.head_size
    return {
        "matmul": products,
        "causal": products + one * length / 2,
        "full": products + one * length,
        "documents": products + one * attended,
    }


def attended(setting: Setting) -> float:
    """Mean number of earlier tokens that a token sees in the rows measured."""
    rows = documents((setting.warmup + setting.micro_steps) * setting.rows, setting.length)
    return sum(length * length / 2 for row in rows for length in row) / sum(map(sum, rows))
