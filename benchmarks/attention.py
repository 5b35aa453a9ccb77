"""Packed against alone for every attention that can train here, and what packed rows cost.

    PYTHONPATH=src:tests python benchmarks/attention.py [--seconds 20]

First table: training/probe.py (three documents of 13, 9 and 17 tokens in two rows, against each alone under eager
attention) on a small random model of each architecture; the largest difference of a logit, whose spread is 1, and the
relative difference of the gradient. Second: tokens per second, forward and backward, of a Llama of 2.6 M parameters on
one row of 2,048 tokens in four documents; the attentions take turns for `--seconds`, and the median is printed. eager
is left out of it: it is the measure of what is right, not of speed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from agenttuning.training import attention, varlen
from agenttuning.training.probe import probe
from helpers.tiny_models import tiny, trainer_of

KINDS = ("llama", "qwen3", "smollm3", "qwen3_moe", "mistral", "gemma3_text")
LENGTH, DOCUMENTS = 2048, 4


def present(device: str) -> list[str]:
    """The attentions that can train on this device."""
    names = ["eager", "sdpa"]
    names += [] if varlen.available(device) else ["varlen"]
    if device == "cuda":
        flash = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
        names += ["flex_attention", *(name for name in flash if attention._flash_missing(name) is None)]
    return names


def exactness(device: str, names: list[str]) -> None:
    precisions = (False, True) if device == "cpu" else (True,)
    print("| model | attention | compute | logits | gradient | seconds |\n|---|---|---|---|---|---|")
    probe(trainer_of(tiny("llama", "sdpa")))  # imports and first calls are not the probe's time
    for kind in KINDS:
        for name in names:
            for bf16 in precisions:
                model = tiny(kind, name)
                start = time.perf_counter()
                logits, gradient = probe(trainer_of(model, bf16=bf16, device=device))
                took, compute = time.perf_counter() - start, "bf16" if bf16 else "float32"
                print(f"| {kind} | {name} | {compute} | {logits:.1e} | {gradient:.1e} | {took:.2f} |", flush=True)


def speed(device: str, names: list[str], seconds: float) -> None:
    names = [name for name in names if name != "eager"]
    changes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 6}
    models = {name: tiny("llama", name, **changes, vocab_size=2048).to(device) for name in names}
    part = LENGTH // DOCUMENTS
    batch = {
        "input_ids": torch.randint(3, 2048, (1, LENGTH)),
        "position_ids": torch.arange(part).repeat(DOCUMENTS)[None],
    }
    batch |= {"cu_seq_lens_q": torch.arange(0, LENGTH + 1, part, dtype=torch.int32)}
    batch = {key: value.to(device) for key, value in batch.items()}
    batch |= {"cu_seq_lens_k": batch["cu_seq_lens_q"], "max_length_q": part, "max_length_k": part}
    took: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, model in models.items():
            start = time.perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                logits = model(**batch, use_cache=False).logits
            logits.float().square().mean().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            took[name].append(time.perf_counter() - start)
    print("\n| attention | tokens/s, packed | n |\n|---|---|---|")
    for name, times in took.items():
        print(f"| {name} | {LENGTH / statistics.median(times):,.0f} | {len(times)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    device, words = "cuda" if torch.cuda.is_available() else "cpu", parser.parse_args()
    here = present(device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads\n")
    exactness(device, here)
    speed(device, here, words.seconds)
