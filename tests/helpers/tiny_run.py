"""A repository in a folder: cards with local rows, a tiny random Llama (hidden 32, 2 layers), a recipe over both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from helpers.conversations import agent_row, chat_row
from helpers.llama_tokenizer import build_tokenizer

RECIPE = """
model_name_or_path: {model}
max_steps: 6
max_length: 128
per_device_train_batch_size: 4
learning_rate: 5.0e-3
lr_scheduler_type: cosine
warmup_steps: 2
weight_decay: 0.1
seed: 7
bf16: false
activation_checkpointing: false
logging_steps: 1
save_steps: 2
report_to: none
loss: flags
mixture:
  sources: {{agents: {{share: 0.5}}, chats: {{share: 0.5}}}}
  seed: 3
launch: {{global_batch: 4, accelerate_config: cpu}}
"""
CONFIGS = Path(__file__).resolve().parents[2] / "accelerate_configs"


def tiny_model(folder: Path, dropout: float = 0.0, seed: int = 0) -> Path:
    """Write tokenizer and model. Attention dropout makes random state matter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from agenttuning.chat import save_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**shape, vocab_size=len(tokenizer), max_position_embeddings=256, attention_dropout=dropout)
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def tiny_world(folder: Path, dropout: float = 0.0) -> Path:
    """Write the whole repository to `folder`; returns the recipe's path."""
    rows = {
        "agents": ("agentinstruct", [agent_row(number, steps=1 + number % 3) for number in range(12)]),
        "chats": ("sharegpt", [chat_row(number, exchanges=1 + number % 2) for number in range(20)]),
    }
    for name, (format, content) in rows.items():
        (folder / "raw").mkdir(parents=True, exist_ok=True)
        (folder / "raw" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        (folder / "data_cards" / name).mkdir(parents=True)
        card = f"path: raw/{name}.jsonl\nformat: {format}\nmade_by: make {name}\n"
        (folder / "data_cards" / name / "source.yaml").write_text(card)
    shutil.copytree(CONFIGS, folder / "accelerate_configs")
    recipe = folder / "recipes" / "tiny" / "sft.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE.format(model=tiny_model(folder / "base", dropout)))
    return recipe


def tiny_recipe(path: Path, run_dir: Path, *overrides: str):
    from agenttuning import recipe

    return recipe.load(path, overrides, run_dir)


def losses(run_dir: Path) -> list[float]:
    """The loss of every logged step, as train.json holds it."""
    return [entry["loss"] for entry in json.loads((run_dir / "train.json").read_text())["log"]]


def weights(folder: Path) -> dict:
    """The tensors of a saved model, by name."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
