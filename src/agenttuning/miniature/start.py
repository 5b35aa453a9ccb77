"""What the miniature trains from: its tokenizer and a small Llama with random weights, as a model folder.

The folder looks like any other checkpoint, so `train` needs no second way to begin.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from agenttuning.chat import save_tokenizer
from agenttuning.environments import TASKS
from agenttuning.miniature.general import SKILLS, samples
from agenttuning.miniature.tokenizer import build_tokenizer
from agenttuning.policies.teacher import GIVING_UP, HESITATION

PER_SKILL = 750  # conversations a skill, and episodes a task, whose texts the tokenizer is learned from


def tokenizer_texts(seed: int = 0) -> list[str]:
    """Training texts of all skills and expert play of all tasks, rendered as Llama-2 turns.

    The held-out task is among them: its words must be in the vocabulary, as they are in Llama-2's; its episodes are in
    no training set.
    """
    turns = [turn for skill in SKILLS for sample in samples(skill, "train", PER_SKILL, seed) for turn in sample.turns]
    for task in TASKS.values():
        for item in task.items("train", PER_SKILL // 3, seed):
            turns += [(task.INSTRUCTION, task.ACKNOWLEDGEMENT), *_expert_turns(task, item)]
    turns += [(HESITATION, GIVING_UP)] * (PER_SKILL // 10)
    return [f"[INST] {question} [/INST] {answer} " for question, answer in turns]


def _expert_turns(task, item: dict) -> list[tuple[str, str]]:
    environment = task.Environment(item)
    try:
        observation, turns = environment.reset(), []
        for _ in range(task.MAX_TURNS):
            move = environment.oracle()
            turns.append((observation, f"Thought: {move.thought}\nAction: {move.action}"))
            step = environment.step(move.action)
            observation = step.observation
            if step.done:
                break
        return turns
    finally:
        environment.close()


def make_start(config: Path, out: Path, seed: int) -> Path:
    """Write tokenizer and random weights for the LlamaConfig in the file `config` to `out`; returns `out`.

    The vocabulary size of the file is the upper limit of the tokenizer's; the model gets as many rows as there are
    tokens. Replaces an earlier `out` whole.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    values = json.loads(config.read_text(encoding="utf-8"))
    tokenizer = build_tokenizer(tokenizer_texts(), values["vocab_size"])
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**values, "vocab_size": len(tokenizer)}))
    look_back(model)
    partial = out.parent / f".{out.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    save_tokenizer(tokenizer, partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


GAIN = 8.0  # logits a frequency adds where a head looks; measured: 98 % of the attention then lies on one token
FREQUENCIES = 5  # the fastest rotations of a head: enough to tell offsets apart up to some sixty tokens


def look_back(model) -> None:
    """Start the heads of the first layer looking 1, 2, 3, ... tokens back, by the biases of their queries and keys.

    Finding a word again needs a head that knows what stood before each word; a small model takes some 0.3 M tokens to
    make one, or never does (docs/notes/miniature.md). Needs `attention_bias: true`; raises ValueError without.
    """
    import torch

    attention, config = model.model.layers[0].self_attn, model.config
    if not config.attention_bias:
        raise ValueError("the start needs attention_bias: true in config.json; its heads are set by their biases")
    width = config.hidden_size // config.num_attention_heads
    rotation = config.rope_parameters["rope_theta"] ** (-torch.arange(width // 2) * 2 / width)
    strength = (GAIN * width**0.5) ** 0.5
    with torch.no_grad():
        for head in range(config.num_attention_heads):
            for i in range(FREQUENCIES):
                phase = -(head + 1) * rotation[i]
                attention.q_proj.bias[head * width + i] = strength * torch.cos(phase)
                attention.q_proj.bias[head * width + width // 2 + i] = strength * torch.sin(phase)
                attention.k_proj.bias[head * width + i] = strength
