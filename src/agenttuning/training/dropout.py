"""Hidden dropout as Megatron-LM has it, which the paper's models were trained with and transformers' Llama lacks.

Megatron-LM (megatron/core: fusions/fused_bias_dropout.py, transformer/transformer_layer.py, models/common/embeddings/
language_model_embedding.py; one `hidden_dropout` for all of them) drops, of the hidden state,
  - what attention adds, after its output projection and before the residual sum,
  - what the MLP or the experts add, before the residual sum,
  - the embeddings, on their way into the first layer:
2 x layers + 1 places. Forward hooks do the same here, so that nothing of it is saved: they act in training mode alone,
and a model's class and config stay what they are. Masks come from torch's own random state, which gradient
checkpointing keeps for the second pass and checkpoints keep for a resumed run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.functional import dropout
from transformers import TrainerCallback

from agenttuning.errors import UserError
from agenttuning.recipe.accelerate_config import validate

if TYPE_CHECKING:
    import torch

    from agenttuning.recipe import Recipe
    from agenttuning.training.trainer import Trainer

# A layer of these parts adds what self_attn and mlp return to the residual stream as it is. A further part (a norm
# after the MLP, as in Gemma 2; a second MLP) would stand between, and Megatron drops directly before the sum.
PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def probability(recipe: Recipe) -> float:
    """The recipe's hidden_dropout; 0 without the key. Raises UserError outside [0, 1), and where recomputed activations
    would be dropped by another mask than the first time.
    """
    value = recipe.values.get("hidden_dropout") or 0.0
    if not 0 <= value < 1:
        raise UserError(f"{recipe.path}: hidden_dropout is {value}; it is the share that is dropped, in [0, 1)")
    for key in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        options = recipe.values.get(key)
        if value and isinstance(options, dict) and options.get("preserve_rng_state") is False:
            raise UserError(
                f"{recipe.path}: {key} says preserve_rng_state: false; with hidden_dropout the second pass would drop "
                "other values than the first and give the gradient of another loss; remove it"
            )
    if value and validate(recipe.accelerate_config).get("fsdp_config", {}).get("fsdp_activation_checkpointing"):
        # accelerate 1.15, fsdp2_apply_ac: checkpoint_wrapper(layer, preserve_rng_state=False)
        name = recipe.accelerate_config.name
        raise UserError(
            f"{recipe.path}: hidden_dropout with fsdp_activation_checkpointing: true in {name}; accelerate recomputes "
            "without the first pass's random state, so the gradient would be of another mask; write "
            "fsdp_activation_checkpointing: false there and activation_checkpointing: true in the recipe"
        )
    return float(value)


def places(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The embedding, then self_attn and mlp of each layer: modules whose output Megatron-LM drops from.

    Works on a plain and on an adapted model. Raises UserError for a model that is not built that way.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = plain.get_decoder()
    layers = list(getattr(decoder, "layers", []))
    strange = [layer for layer in layers if {name for name, _ in layer.named_children()} != PARTS]
    if strange or not layers or len(layers) != plain.config.num_hidden_layers:
        parts = ", ".join(name for layer in strange[:1] for name, _ in layer.named_children()) or "none that is known"
        raise UserError(
            f"hidden_dropout: the layers of {type(plain).__name__} are not of {', '.join(sorted(PARTS))} (seen: "
            f"{parts}), so it is not known where Megatron-LM would drop; write hidden_dropout: 0"
        )
    return [plain.get_input_embeddings(), *(part for layer in layers for part in (layer.self_attn, layer.mlp))]


def install(model: torch.nn.Module, share: float) -> list[Any]:
    """Drop `share` of the output at every place of `model` while it trains; returns the hooks' handles."""
    if not share:
        return []

    def drop(module: torch.nn.Module, _: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):  # attention returns its weights, experts may return their router's
            return (dropout(output[0], share), *output[1:])
        return dropout(output, share)

    return [place.register_forward_hook(drop) for place in places(model)]


class OwnMasks(TrainerCallback):
    """Give each process random state of its own for its device, so that processes do not drop the same places.

    transformers seeds all alike. Only the device's generator is changed: on GPUs the order of the rows does not depend
    on it. It runs before a resumed run restores its state, and not at all on one process.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        import torch

        if args.world_size > 1:
            on_gpu = args.device.type == "cuda"
            (torch.cuda if on_gpu else torch).manual_seed(args.seed + args.process_index)


def prepare(trainer: Trainer, recipe: Recipe) -> None:
    """What a Trainer needs for the recipe's hidden_dropout and LoRA's own; nothing where neither is asked for."""
    from trl import ModelConfig

    share, get = probability(recipe), recipe.values.get
    install(trainer.model, share)
    own = get("lora_dropout", ModelConfig.lora_dropout) if get("use_peft") else 0
    if not share and not own:
        return
    args = trainer.args
    on_cpus = args.world_size > 1 and args.device.type == "cpu"
    if on_cpus and args.train_sampling_strategy == "group_by_length":
        raise UserError(
            "train_sampling_strategy: group_by_length takes the order of rows from the random state that dropout needs "
            "different in each process on a CPU; rows would be lost and repeated; use one process, or random"
        )
    parallel = trainer.accelerator.parallelism_config
    if parallel is not None and parallel.tp_size > 1:
        raise UserError(
            "dropout with tensor parallelism: the processes of one group hold the same activations and would drop "
            "different ones, which trains on a sum of two models; leave parallelism_config_tp_size out"
        )
    trainer.add_callback(OwnMasks())
