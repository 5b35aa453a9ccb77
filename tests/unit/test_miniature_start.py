"""The miniature's start: the first layer's heads look 1, 2, 3, 4 tokens back before anything is learned."""

import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agenttuning.miniature.start import look_back
from agenttuning.recipe.schema import REPOSITORY


def test_each_head_looks_its_own_number_of_tokens_back():
    values = json.loads((REPOSITORY / "recipes/agentlm-tiny/config.json").read_text())
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**values, attn_implementation="eager"))
    look_back(model)
    ids = torch.randint(3, 1000, (1, 60))
    with torch.inference_mode():
        attention = model.model(input_ids=ids, use_cache=False, output_attentions=True).attentions[0][0]
    for head in range(4):
        assert attention[head, 50].argmax().item() == 50 - (head + 1)
        assert attention[head, 50, 50 - (head + 1)] > 0.9


def test_the_tokenizer_spells_no_marker_and_no_word_of_the_instructions():
    from agenttuning.environments import TASKS
    from agenttuning.miniature.start import tokenizer_texts
    from agenttuning.miniature.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(tokenizer_texts(), 1152)
    for task in TASKS.values():
        text = f"[INST] {task.INSTRUCTION} [/INST] Thought: {task.ACKNOWLEDGEMENT}"
        pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))
        words = len(text.split()) + sum(text.count(mark) for mark in ".,") + text.count("Actions:")
        assert len(pieces) == words, pieces
