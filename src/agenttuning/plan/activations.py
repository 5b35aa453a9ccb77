"""Bytes that autograd keeps between forward and backward, layer by layer, under transformers 5.23 and PEFT 0.21.

Counted tensor by tensor with torch.autograd.graph.saved_tensors_hooks on small models, where these formulas are exact
to the byte (tests/unit/test_plan_memory.py holds them to it). What a GPU does otherwise: an attention kernel has its
own few vectors, and a dropout mask has 1 byte an element there (4 on a CPU).

Three streams: `mixed` is autocast on float32 weights (one GPU, DDP), where the residual stays float32; `bf16` is what
FSDP's mixed precision, DeepSpeed and bfloat16 weights give; `fp32` is no mixed precision.
"""

from agenttuning.model_size import Architecture, linears
from agenttuning.plan.method import Method

# hidden vectors kept around the two norms of a dense layer, in bytes a unit of hidden: inputs, normalised, and what the
# linear layers take (autocast casts a norm's output once for each of the q, k, v, gate and up projections)
NORMS = {"mixed": 16 + 10, "bf16": 16, "fp32": 24}
UNMASKED = ("flash", "varlen", "kernels")  # parts of names of attentions that take lengths and build no mask


def element(stream: str) -> int:
    """Bytes of one element of what the linear layers make."""
    return 4 if stream == "fp32" else 2


def masked(attention: str) -> bool:
    """Whether this attention stores the packed boundaries as a square. `auto` may end at sdpa, so it counts as that."""
    return not any(word in attention for word in UNMASKED)


def of_layer(
    model: Architecture,
    method: Method,
    tokens: int,
    attention: str,
    stream: str,
    gpu: bool = True,
    dropped: bool = False,
    row: int | None = None,
) -> float:
    """Bytes that one decoder layer keeps for a micro-batch of `tokens`. dropped: with hidden dropout, which has a mask
    for what attention adds and one for what the MLP adds. row: tokens of a row where rows lie one below the other,
    which is the side of each square that an attention with a mask stores; None where they lie end to end.
    """
    side = row or tokens
    size, frozen = element(stream), method.kind != "full"
    hidden, queries, keys = model.hidden, model.queries, model.keys
    each = 4 * 2  # the two norms' scales
    each += 8 * hidden if frozen else NORMS[stream] * hidden
    expanded = queries if masked(attention) else keys  # sdpa with a mask has keys and values repeated for every head
    each += size * (2 * queries + 2 * expanded)
    if attention == "eager":  # the softmax in float32, and cast
        each += model.heads * side * (4 + (2 if stream != "fp32" else 0))
    else:
        each += 4 * model.heads + (size * side if masked(attention) else 0)
    if model.qk_norm:
        normalised = 0 if frozen else size
        each += (4 + normalised) * (queries + keys) + 4 * (model.heads + model.kv_heads)
    each += _mlp(model, size, frozen, stream) + (2 * hidden * (1 if gpu else size) if dropped else 0)
    return tokens * (each + _adapter(model, method, size, gpu))


def _mlp(model: Architecture, size: int, frozen: bool, stream: str) -> float:
    if not model.experts:
        return size * (3 if frozen else 4) * model.mlp
    # grouped_mm over rows sorted by expert; autocast does not reach it, so float32 weights compute in float32
    hidden, wide, mixed = model.hidden, model.expert_mlp, stream == "mixed" and not frozen
    vectors = hidden + 3 * wide if frozen else 2 * hidden + 4 * wide
    each = model.active_experts * ((4 if mixed else size) * vectors + 34) + 4 * model.experts
    return each - (2 * hidden if mixed else 0)  # one cast of the norm's output (for the router), not gate's and up's


def _adapter(model: Architecture, method: Method, size: int, gpu: bool) -> float:
    """Each adapted layer keeps a cast of its input and the low-rank vector, and with dropout a mask."""
    if method.kind == "full":
        return 0
    shapes = [linears(model)[name] for name in method.targets]
    mask = (1 if gpu else 4) if method.dropout else 0
    inputs = sum((size + mask) * wide * count for wide, _, count in shapes) / model.layers
    return inputs + sum(size * method.rank * count for _, _, count in shapes) / model.layers


def stored(
    model: Architecture,
    method: Method,
    tokens: int,
    attention: str,
    stream: str,
    checkpointing: bool,
    gpu: bool = True,
    dropped: bool = False,
    row: int | None = None,
) -> float:
    """Bytes of all layers. With checkpointing each layer keeps its input, and one at a time is computed again."""
    one = of_layer(model, method, tokens, attention, stream, gpu, dropped, row)
    if not checkpointing:
        return model.layers * one
    residual = 2 if stream == "bf16" else 4
    return residual * model.hidden * tokens * model.layers + one


def loss_head(model: Architecture, method: Method, tokens: int, stream: str) -> float:
    """Bytes around TRL's fused output head: the last norm, the gradient of the hidden states, one tile of logits
    (trl.kernels: 4,096 x 32,768), and the head's own gradient in float32 where the head is trained.
    """
    tile = element(stream) * min(tokens, 4096) * min(model.vocabulary, 32768)
    trained = method.kind == "full" or "lm_head" in method.whole
    return tokens * model.hidden * (4 + 10) + tile + (4 * model.vocabulary * model.hidden if trained else 0)
