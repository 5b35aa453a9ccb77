"""Parameters and FLOPs of decoder-only models in closed form, from the constants of their config.json alone.

Six families of transformers whose weights are exactly these matrices; a test holds the counts to transformers' own, on
the meta device. Other families would be miscounted and are refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "qwen3_moe")
QK_NORMED = ("qwen3", "qwen3_moe")


@dataclass(frozen=True)
class Architecture:
    """Constants of a config.json. Sizes count units; `tied`: the output head is the input embedding.

    qkv_bias, output_bias, mlp_bias: which linear layers have one. qk_norm: a norm of head_size each for queries and
    keys. experts: of a sparse layer (0: all layers are dense), active_experts of them per token, expert_mlp wide;
    sparse_layers: how many layers are.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    experts: int = 0
    active_experts: int = 0
    expert_mlp: int = 0
    sparse_layers: int = 0

    @property
    def queries(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_size


# The Llama 2 family and Llama 3.1: config.json on the Hub, parameters() gives Meta's 6.738, 13.016, 68.977 and 8.030
# billion. SmolLM3: the defaults of transformers' SmolLM3Config. Qwen3: config.json as copied in public repositories
# (Chen-Oliver/qwen3-8b-base; slime's scripts/models/qwen3-30B-A3B.sh), not read on the Hub. A folder or the Hub's cache
# with a config.json wins over this table.
LLAMA_2 = {
    "7b": Architecture(32000, 4096, 32, 32, 32, 128, 11008),
    "13b": Architecture(32000, 5120, 40, 40, 40, 128, 13824),
    "70b": Architecture(32000, 8192, 80, 64, 8, 128, 28672),
}
LLAMA_3_8B = Architecture(128256, 4096, 32, 32, 8, 128, 14336)
QWEN3_30B_A3B = Architecture(
    151936, 2048, 48, 32, 4, 128, 6144, qk_norm=True, experts=128, active_experts=8, expert_mlp=768, sparse_layers=48
)
KNOWN = {
    **{f"meta-llama/Llama-2-{size}{chat}-hf": LLAMA_2[size] for size in LLAMA_2 for chat in ("", "-chat")},
    **dict.fromkeys(("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"), LLAMA_3_8B),
    "Qwen/Qwen3-8B": Architecture(151936, 4096, 36, 32, 8, 128, 12288, qk_norm=True),
    **dict.fromkeys(("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B-Instruct-2507"), QWEN3_30B_A3B),
    "HuggingFaceTB/SmolLM3-3B": Architecture(128256, 2048, 36, 16, 4, 128, 11008, tied=True),
}


def find(model: str, cached: Path | None = None) -> Architecture | str:
    """The architecture of a local folder, of `cached` (a snapshot in the Hub's cache) or of a known Hub id, the first
    of these that there is; otherwise the reason why not, in words.
    """
    folders = [folder for folder in (Path(model), cached) if folder and (folder / "config.json").is_file()]
    if not folders:
        if model in KNOWN:
            return KNOWN[model]
        path = Path(model) / "config.json"
        return f"unknown: {path} is not there yet" if is_local(model) else f"unknown: {model} is not in our table"
    path = folders[0] / "config.json"
    try:
        return from_config(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"unknown: {path} is not a config.json that we can read ({error})"


def is_local(model: str) -> bool:
    """Whether `model_name_or_path` means a folder: it exists, or it cannot be a Hub id (owner/name, one slash)."""
    return Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") != 1


def from_config(config: dict) -> Architecture:
    """From a config.json. Raises KeyError on a missing size, ValueError on a family that is not one of FAMILIES."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type {family} is not {', '.join(FAMILIES[:-1])} or {FAMILIES[-1]}")
    heads, hidden, layers = config["num_attention_heads"], config["hidden_size"], config["num_hidden_layers"]
    # what a config leaves out is the family's default in transformers: Qwen3's heads are 128 wide, Qwen2's have biases
    head_size = config.get("head_dim") or (128 if family == "qwen3" else hidden // heads)
    biased = family == "qwen2" or (family != "mistral" and bool(config.get("attention_bias", False)))
    sparse, experts = 0, 0
    if family == "qwen3_moe":
        experts = config.get("num_experts") or config["num_local_experts"]
        dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
        sparse = sum(number not in dense and (number + 1) % step == 0 for number in range(layers)) if experts else 0
    return Architecture(
        vocabulary=config["vocab_size"],
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=head_size,
        mlp=config["intermediate_size"],
        tied=bool(config.get("tie_word_embeddings", family == "smollm3")),
        qkv_bias=biased,
        output_bias=biased and family != "qwen2",
        mlp_bias=family in ("llama", "smollm3") and bool(config.get("mlp_bias", False)),
        qk_norm=family in QK_NORMED,
        experts=experts if sparse else 0,
        active_experts=config["num_experts_per_tok"] if sparse else 0,
        expert_mlp=config["moe_intermediate_size"] if sparse else 0,
        sparse_layers=sparse,
    )


def linears(model: Architecture) -> dict[str, tuple[int, int, int]]:
    """The nn.Linear layers inside the decoder, by transformers' name: (in, out, how many of them). Experts and routers
    are no nn.Linear in transformers 5 but stacked weights.
    """
    every, dense = model.layers, model.layers - model.sparse_layers
    found = {
        "q_proj": (model.hidden, model.queries, every),
        "k_proj": (model.hidden, model.keys, every),
        "v_proj": (model.hidden, model.keys, every),
        "o_proj": (model.queries, model.hidden, every),
        "gate_proj": (model.hidden, model.mlp, dense),
        "up_proj": (model.hidden, model.mlp, dense),
        "down_proj": (model.mlp, model.hidden, dense),
    }
    return {name: shape for name, shape in found.items() if shape[2]}


def linear_parameters(model: Architecture) -> int:
    """Weights of all `linears`, without biases."""
    return sum(wide * high * count for wide, high, count in linears(model).values())


def expert_parameters(model: Architecture, experts: int | None = None) -> int:
    """Weights of `experts` (default: all) experts of every sparse layer."""
    return model.sparse_layers * (model.experts if experts is None else experts) * 3 * model.hidden * model.expert_mlp


def small_parameters(model: Architecture) -> int:
    """What is neither embedding, head, linear weight nor expert: norms, biases, routers."""
    norms = model.layers * (2 * model.hidden + 2 * model.head_size * model.qk_norm) + model.hidden
    attention = (model.queries + 2 * model.keys) * model.qkv_bias + model.hidden * model.output_bias
    dense = (2 * model.mlp + model.hidden) * model.mlp_bias
    routers = model.sparse_layers * model.experts * model.hidden
    return norms + model.layers * attention + (model.layers - model.sparse_layers) * dense + routers


def head_parameters(model: Architecture) -> int:
    """Weights of the output head, which is the input embedding where they are tied."""
    return model.vocabulary * model.hidden


def parameters(model: Architecture) -> int:
    """All parameters; a tied head is counted once."""
    embeddings = head_parameters(model) * (1 if model.tied else 2)
    return embeddings + linear_parameters(model) + expert_parameters(model) + small_parameters(model)


def active_parameters(model: Architecture) -> int:
    """Parameters that one token meets: all, less the experts it is not sent to."""
    return parameters(model) - expert_parameters(model, model.experts - model.active_experts)


def layer_parameters(model: Architecture) -> int:
    """Parameters of the largest decoder layer."""
    shared = (small_parameters(model) - model.hidden) // model.layers
    attention = 2 * model.hidden * (model.queries + model.keys)
    dense = 3 * model.hidden * model.mlp if model.layers > model.sparse_layers else 0
    return shared + attention + max(dense, 3 * model.hidden * model.expert_mlp * model.experts)


def flops_per_token(model: Architecture, length: int, adapter: int | None = None) -> int:
    """Training FLOPs per token, forward and backward, nothing recomputed, "causal" convention.

    6 x (active parameters - input embedding) + 6 x layers x attention width x length: the attention term is half of the
    12 x ... of the PaLM convention because a causal mask leaves half of the square. The head, tied or not, multiplies.
    adapter: parameters of a LoRA adapter on frozen weights, whose own gradients are never computed: 4 x (...) for them
    and 6 x adapter.
    """
    embedding = 0 if model.tied else head_parameters(model)
    multiplied = active_parameters(model) - embedding
    attention = 6 * model.layers * model.queries * length
    return 6 * multiplied + attention if adapter is None else 4 * multiplied + 6 * adapter + attention
