"""Parameters, FLOPs and memory of a Llama-shaped model in closed form, from its architecture constants alone."""

import json
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
# fp32 parameter, gradient and two Adam moments: what TRL does by default (dtype float32, bf16 autocast).
BYTES_PER_PARAMETER = 16
# Without sharding, autocast keeps a bf16 copy of every weight through the step; FSDP and ZeRO cast layer by layer.
BYTES_OF_AUTOCAST = 2
# Korthikanti et al. 2022 (arXiv 2205.05198), equation 1 without the attention matrix, which fused kernels never store.
ACTIVATION_BYTES = 34
# Families whose weights are exactly these matrices; others (experts, biases, several towers) would be miscounted.
LLAMA_SHAPED = ("llama", "mistral")


@dataclass(frozen=True)
class Architecture:
    """Constants of a config.json: sizes are counts of units; `tied` says the output head is the input embedding."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    tied: bool = False


# config.json of each model on the Hub; parameters() of these gives Meta's 6.738, 13.016 and 68.977 billion.
LLAMA_2 = {
    "7b": Architecture(32000, 4096, 32, 32, 32, 128, 11008),
    "13b": Architecture(32000, 5120, 40, 40, 40, 128, 13824),
    "70b": Architecture(32000, 8192, 80, 64, 8, 128, 28672),
}
KNOWN = {f"meta-llama/Llama-2-{size}{chat}-hf": LLAMA_2[size] for size in LLAMA_2 for chat in ("", "-chat")}


def find(model: str) -> Architecture | str:
    """The architecture of a known Hub id or of a local folder's config.json; otherwise the reason why not, in words."""
    if model in KNOWN:
        return KNOWN[model]
    path = Path(model) / "config.json"
    if not path.is_file():
        return f"unknown: {path} is not there yet" if is_local(model) else f"unknown: {model} is not in our table"
    try:
        return from_config(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"unknown: {path} is not a config.json that we can read ({error})"


def is_local(model: str) -> bool:
    """Whether `model_name_or_path` means a folder: it exists, or it cannot be a Hub id (owner/name, one slash)."""
    return Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") != 1


def from_config(config: dict) -> Architecture:
    """From a config.json. Raises KeyError on a missing size, ValueError on a family that is not Llama-shaped."""
    family = config.get("model_type")
    if family not in LLAMA_SHAPED:
        raise ValueError(f"model_type {family} is not {' or '.join(LLAMA_SHAPED)}")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return Architecture(
        vocabulary=config["vocab_size"],
        hidden=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or hidden // heads,
        mlp=config["intermediate_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def layer_parameters(model: Architecture) -> int:
    """Parameters of one decoder layer: query and output, key and value, gated MLP, two norms."""
    attention = 2 * model.hidden * model.head_size * (model.heads + model.kv_heads)
    return attention + 3 * model.hidden * model.mlp + 2 * model.hidden


def parameters(model: Architecture) -> int:
    """All parameters; a tied head is counted once."""
    embeddings = model.vocabulary * model.hidden * (1 if model.tied else 2)
    return embeddings + model.layers * layer_parameters(model) + model.hidden


def flops_per_token(model: Architecture, length: int) -> int:
    """Training FLOPs per token, forward and backward, nothing recomputed, "causal" convention.

    6 x (parameters - input embedding) + 6 x layers x attention width x length: the attention term is half of the
    12 x ... of the PaLM convention because a causal mask leaves half of the square. The head, tied or not, multiplies.
    """
    multiplied = model.layers * layer_parameters(model) + model.hidden + model.vocabulary * model.hidden
    return 6 * multiplied + 6 * model.layers * model.heads * model.head_size * length


@dataclass(frozen=True)
class Memory:
    """Estimated bytes per GPU, and per machine's RAM where states are offloaded."""

    states: int
    activations: int
    working: int
    host: int

    @property
    def total(self) -> int:
        """Bytes on one GPU."""
        return self.states + self.activations + self.working


def memory(
    model: Architecture, tokens: int, world_size: int, sharded: bool, offloaded: bool, checkpointing: bool
) -> Memory:
    """Full fine-tuning with AdamW, `tokens` in one micro-batch. An estimate: fragmentation and buffers come on top.

    Sharded states divide by world_size and keep two gathered layers in bf16. Checkpointing stores one bf16 vector per
    token and layer and recomputes one layer at a time.
    """
    count = parameters(model)
    per_layer = ACTIVATION_BYTES * model.hidden * tokens
    stored = 2 * model.hidden * tokens * model.layers + per_layer if checkpointing else per_layer * model.layers
    gathered = 2 * 2 * layer_parameters(model) if sharded else BYTES_OF_AUTOCAST * count
    states = BYTES_PER_PARAMETER * count // (world_size if sharded else 1)
    return Memory(0 if offloaded else states, stored, gathered, BYTES_PER_PARAMETER * count if offloaded else 0)
