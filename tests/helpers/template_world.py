"""helpers.tiny_run's repository with a model whose tokenizer brings its own chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from helpers.template_tokenizer import FAMILIES, OWN, trl_template, write_tokenizer
from helpers.tiny_run import tiny_world


def template_of(name: str) -> str:
    """The template of one of template_tokenizer's names."""
    return OWN[name] if name in OWN else trl_template(name)


def template_world(folder: Path, name: str) -> Path:
    """Write the repository to `folder`, in chat format `tokenizer`; returns the recipe's path. A tokenizer of these
    families is refused in format llama2, which has `<s>`, `</s>` and `<unk>`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    recipe = tiny_world(folder)
    base = folder / "base"
    shutil.rmtree(base)
    write_tokenizer(base, FAMILIES.get(name, "chatml"), template_of(name))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = len(PreTrainedTokenizerFast.from_pretrained(base))
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=size, max_position_embeddings=2048))
    model.generation_config.eos_token_id = 1  # a base model ends with another token than its chat format
    model.save_pretrained(base)
    text = recipe.read_text().replace("max_length: 128", "max_length: 512")
    recipe.write_text(text.replace("  seed: 3\n", "  seed: 3\n  chat_format: tokenizer\n"))
    return recipe


def drop_template(model: Path) -> None:
    """Leave the tokenizer of a saved model without a chat template."""
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
