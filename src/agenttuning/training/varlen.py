"""An attention for transformers that runs on torch alone: documents laid end to end, each one seeing itself only.

`register() -> None` makes `attn_implementation="varlen"` known to transformers; `available(device) -> str | None` says
why it cannot run there, None where it can; `unfit(config) -> str | None` says why a model cannot use it. Needs torch
(>= 2.10) and transformers, nothing else of this package's dependencies.

On a CUDA device it is torch.nn.attention.varlen.varlen_attn, PyTorch's own flash attention. That kernel does not exist
for a CPU; there each document goes through scaled_dot_product_attention by itself, which is the definition the kernel
is compared with, and on long rows far less work than one mask over everything.

Where a document ends is read from `cu_seq_lens_q` (int32, 0 first and rows x length last), which TRL's padding-free
collator makes and transformers hands through to every layer. Without it a document ends where `position_ids` do not go
on by 1, the rule by which transformers builds its own masks. Rows padded on the right need neither: under causal
attention no token sees what comes after it.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from agenttuning.errors import UserError

NAME = "varlen"
HALVES = (torch.bfloat16, torch.float16)
ELSE = "write launch.attention: sdpa"


def register() -> None:
    """Make `attn_implementation="varlen"` known to transformers. Calling it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)


def available(device: str | torch.device = "cuda") -> str | None:
    """Why varlen cannot run on this device, or None. On a CUDA device the kernel is run forward and backward once."""
    device = torch.device(device)
    if device.type == "cpu":
        return None
    if device.type != "cuda" or torch.version.hip:
        where = "ROCm" if torch.version.hip else device.type
        return f"PyTorch's varlen kernel is used on NVIDIA GPUs only, not on {where}"
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    if kernel() is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen; it came with 2.10"
    if torch.cuda.get_device_capability(device)[0] < 8:
        return f"{torch.cuda.get_device_name(device)} is older than Ampere, which flash attention needs"
    return _trial(device)


@cache
def _trial(device: torch.device) -> str | None:
    query, key, value = (
        torch.randn(8, heads, 16, device=device, dtype=torch.bfloat16).requires_grad_() for heads in (4, 2, 2)
    )
    bounds = torch.tensor([0, 3, 8], device=device, dtype=torch.int32)
    try:
        _kernel(query, key, value, bounds, 5, 0.25, None).sum().backward()
    except (RuntimeError, TypeError, ValueError) as error:  # what a build without the kernel, or its dispatcher, raises
        return f"torch {torch.__version__} on {torch.cuda.get_device_name(device)}: {str(error).splitlines()[0]}"
    return None


def unfit(config: Any) -> str | None:
    """Why a model of this transformers config cannot use varlen, or None."""
    config = config.get_text_config()
    if getattr(config, "attention_dropout", 0.0):
        return f"attention_dropout is {config.attention_dropout} and the kernel has none"
    if getattr(config, "attn_logit_softcapping", None):
        return "the model caps its attention scores and the kernel does not"
    if getattr(config, "attention_chunk_size", None):
        return "the model attends in chunks and the kernel does not"
    if getattr(config, "model_type", "") == "gpt_oss":
        return "the model has attention sinks and the kernel has none"
    return None


def mask(
    batch_size: int, q_length: int, kv_length: int, attention_mask: torch.Tensor | None = None, **others: Any
) -> None:
    """No mask is ever built. Raises UserError where leaving it out would change the result: padding that is not on the
    right, and more keys than queries (decoding from a cache).

    attention_mask: None, or rows x kv_length, true at tokens.
    """
    config = others.get("config")
    if config is not None and (reason := unfit(config)):
        raise UserError(f"attention varlen: {reason}; {ELSE}")
    if q_length != kv_length:
        raise UserError(
            f"attention varlen: {q_length} queries and {kv_length} keys: a cache is in use, and the queries would be "
            "taken for the document's first tokens; train with use_cache=False, generate with sdpa"
        )
    if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
        raise UserError(
            "attention varlen: a row is padded on the left or inside; its tokens would attend to padding; pad on the "
            f"right, or {ELSE}"
        )


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    position_ids: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function. query: rows x heads x length x width; key and value may have fewer heads.
    Returns rows x length x heads x width, and no weights.

    Raises UserError for what neither the kernel nor the loop over documents does: a mask, dropout, capped scores,
    sinks, a position bias, attention that is not causal, a cache, float32 on a GPU.
    """
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    refused = {
        "an attention_mask": attention_mask is not None,
        f"dropout {dropout}": dropout > 0,
        "attention that is not causal": not is_causal,
        "keys from a cache": key.shape[2] != query.shape[2],
        **{name: others.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "cache")},
    }
    if any(refused.values()):
        raise UserError(f"attention varlen does not do: {', '.join(k for k, no in refused.items() if no)}; {ELSE}")
    rows, heads, length, width = query.shape
    if torch.is_autocast_enabled(query.device.type):
        # rotary embeddings leave queries and keys in float32 under autocast, and the kernel is not on autocast's list
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(half), key.to(half), value.to(half)
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    bounds, longest = boundaries(rows, length, query.device, cu_seq_lens_q, max_length_q, position_ids)
    window = sliding_window if sliding_window and sliding_window < longest else None
    scale = width**-0.5 if scaling is None else scaling
    if query.is_cuda:
        if query.dtype not in HALVES:
            raise UserError(f"attention varlen: the kernel takes bf16 or fp16, not {query.dtype}; set bf16: true")
        out = _kernel(query, key, value, bounds, longest, scale, window)
    else:
        out = by_document(query, key, value, bounds, scale, window)
    return out.view(rows, length, heads, value.shape[-1]), None


def boundaries(
    rows: int,
    length: int,
    device: torch.device,
    cu_seq_lens: torch.Tensor | None,
    longest: int | None,
    position_ids: torch.Tensor | None,
) -> tuple[torch.Tensor, int]:
    """Where documents start in the rows laid end to end: int32, 0 first and rows x length last; and the longest one.

    Raises ValueError for boundaries that are not of this batch (read only where that costs no wait for the GPU).
    """
    if cu_seq_lens is not None:
        cu_seq_lens = cu_seq_lens.to(device=device, dtype=torch.int32)
        if device.type == "cpu" and not _cover(cu_seq_lens, rows, length):
            raise ValueError(f"cu_seq_lens {cu_seq_lens.tolist()} do not cut {rows} rows of {length} into documents")
        return cu_seq_lens, int(cu_seq_lens.diff().max()) if longest is None else int(longest)
    if position_ids is None:
        starts = torch.arange(0, rows * length, length, device=device)
    else:
        if position_ids.dim() != 2:
            raise UserError(f"attention varlen: position_ids of {position_ids.dim()} dimensions; {ELSE}")
        steps = position_ids.expand(rows, length).diff(dim=1, prepend=position_ids[:, :1].expand(rows, 1))
        starts = (steps != 1).flatten().nonzero().flatten()  # a row's first step is 0
    bounds = pad(starts, (0, 1), value=rows * length).to(device=device, dtype=torch.int32)
    return bounds, int(bounds.diff().max())


def _cover(bounds: torch.Tensor, rows: int, length: int) -> bool:
    return int(bounds[0]) == 0 and int(bounds[-1]) == rows * length and bool((bounds.diff() > 0).all())


def by_document(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """Causal attention of each document by itself. query: tokens x heads x width; key, value may have fewer heads."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (key, value))
    query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    parts = []
    for q, k, v in zip(*(part.split(bounds.diff().tolist(), dim=1) for part in (query, key, value)), strict=True):
        seen = None
        if window is not None:
            apart = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
            seen = (apart >= 0) & (apart < window)
        # a batch dimension: without one torch takes a path that stores every pair of tokens
        out = scaled_dot_product_attention(q[None], k[None], v[None], seen, is_causal=seen is None, scale=scale)
        parts.append(out[0])
    return torch.cat(parts, dim=1).transpose(0, 1).contiguous()


@cache
def kernel() -> Any:
    """torch's varlen_attn, or None where this build has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """varlen_attn by the signature that this torch has: older ones take `is_causal` and neither scale nor window, 2.13
    takes `window_size`, where (-1, 0) is causal, and `enable_gqa`.
    """
    takes, extra = inspect.signature(kernel()).parameters, {}
    if "window_size" in takes:
        extra["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        extra["is_causal"] = True
    else:
        raise UserError(f"attention varlen: torch {torch.__version__} has no window_size for its kernel; {ELSE}")
    if "scale" in takes:
        extra["scale"] = scale
    else:
        query = query * (scale * query.shape[-1] ** 0.5)
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in takes:
            extra["enable_gqa"] = True
        else:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return kernel()(query, key, value, bounds, bounds, longest, longest, **extra)
