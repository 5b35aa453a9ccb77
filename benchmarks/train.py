"""How fast the tiny twin trains on a CPU through our `train`, beside TRL's own SFTTrainer.

    python benchmarks/train.py [--steps 60] [--repetitions 3]

Both get the same packed rows in the same order, the same random start of recipes/agentlm-tiny/config.json, the batch,
schedule, precision and threads of recipes/agentlm-tiny/sft.yaml, and AdamW (the twin's own optimizer is not in TRL), so
that what differs is the trainer: what surrounds the model in a step. That their losses are the same is checked. They
run in turn, each in a process of its own; tokens per second are those of the log lines, the first `--warmup` steps left
out. Conversations are generated (data.py), 16 times shorter than the paper's mixture as the twin's rows are. Nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from data import ROOT, SHARES, write_sources

sys.path.insert(0, str(ROOT / "src"))
TWIN = ROOT / "recipes" / "agentlm-tiny"
EVERY = 5  # steps a log line
# As the Makefile has them for the small runs.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000", "TOKENIZERS_PARALLELISM": "false"}


def write_world(root: Path, steps: int) -> Path:
    """Sources, a random start and the twin's recipe over them, with AdamW; returns the recipe's path."""
    import torch
    import yaml
    from transformers import LlamaConfig, LlamaForCausalLM

    from agenttuning.chat import load_tokenizer, save_tokenizer

    shape = json.loads((TWIN / "config.json").read_text())
    write_sources(root, 0.05, shape["vocab_size"], shrink=16)
    tokenizer = load_tokenizer(str(root / "tokenizer"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**shape, "vocab_size": len(tokenizer)}))
    model.save_pretrained(root / "start")
    save_tokenizer(tokenizer, root / "start")
    recipe = yaml.safe_load((TWIN / "sft.yaml").read_text())
    recipe.pop("optim_args")
    recipe |= {"model_name_or_path": str(root / "start"), "optim": "adamw_torch_fused", "learning_rate": 0.003}
    recipe |= {"max_steps": steps, "logging_steps": EVERY, "save_strategy": "no"}
    sources = {name: {"share": share} for name, share in SHARES.items()}
    recipe["mixture"] |= {"sources": sources, "overlong": "truncate_end", "max_overlong_loss": 1.0}
    path = root / "recipes" / "bench" / "sft.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(recipe))
    return path


def ours(root: Path, path: Path) -> dict:
    """Our `train`: tokens per second and loss of each log line."""
    from agenttuning.recipe import load
    from agenttuning.train import train

    with contextlib.redirect_stdout(sys.stderr):
        train(load(path, (), root / "run"))
    record = json.loads((root / "run" / "train.json").read_text())
    return {
        "tokens_per_second": [entry["tokens_per_second"] for entry in record["log"]],
        "losses": [entry["loss"] for entry in record["log"]],
        "tokens": record["tokens"],
        "threads": record["threads"],
    }


def peer(root: Path, path: Path) -> dict:
    """SFTTrainer on the rows that ours makes, with the recipe's keys and otherwise its own defaults."""
    from dataclasses import fields

    import torch
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from agenttuning import plan
    from agenttuning.chat import load_for
    from agenttuning.data.prepare import prepare
    from agenttuning.data.rows import trainable_rows
    from agenttuning.recipe import load

    recipe = load(path, (), root / "run")
    tokenizer = load_for(recipe)
    with contextlib.redirect_stdout(sys.stderr):
        rows = trainable_rows(prepare(recipe, tokenizer, root / "run" / "data"), recipe)
    known = {field.name for field in fields(SFTConfig)}
    settings = SFTConfig(
        **{key: value for key, value in recipe.values.items() if key in known},
        output_dir=str(root / "peer"), gradient_accumulation_steps=plan.accumulation(recipe, 1), use_cpu=True,
        dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True,
    )  # fmt: skip
    lines = []

    class Lines(TrainerCallback):
        def on_train_begin(self, *_, **__):
            lines.append((time.perf_counter(), 0, 0.0))

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:
                lines.append((time.perf_counter(), logs["num_tokens"], logs["loss"]))

    model = AutoModelForCausalLM.from_pretrained(root / "start", dtype=torch.float32)
    trainer = SFTTrainer(
        model, args=settings, train_dataset=rows.remove_columns("origin"), processing_class=tokenizer,
        callbacks=[Lines()],
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    pairs = zip(lines, lines[1:], strict=False)
    return {
        "tokens_per_second": [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs],
        "losses": [loss for _, _, loss in lines[1:]],
        "tokens": lines[-1][1],
        "threads": torch.get_num_threads(),
    }


def measured(part: str, steps: int) -> dict:
    """Run `part` in a process of its own on a world of its own, which is the same each time."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**THREADS, **os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
        env |= {"HF_DATASETS_CACHE": f"{folder}/cache"}
        words = [sys.executable, __file__, "--part", part, "--root", f"{folder}/world", "--steps", str(steps)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{part} failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def compare(ours: list[dict], peers: list[dict], warmup: int) -> dict:
    """Median speed of each run after the warm-up, the ratio of each pair of neighbours, and how far losses differ.

    Ends the program where they differ by more than rounding: the two would not have done the same work.
    """
    apart = max(abs(a - b) for a, b in zip(ours[0]["losses"], peers[0]["losses"], strict=True))
    if apart > 2e-3 or ours[0]["tokens"] != peers[0]["tokens"]:
        raise SystemExit(
            f"the losses differ by {apart:.4f}, the tokens are {ours[0]['tokens']:,} and {peers[0]['tokens']:,}: ours "
            "and TRL did not train the same, so their speeds say nothing"
        )
    skipped = warmup // EVERY
    mine, theirs = ([statistics.median(run["tokens_per_second"][skipped:]) for run in runs] for runs in (ours, peers))
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {
        "ours_tokens_per_second": mine,
        "peer_tokens_per_second": theirs,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "losses_apart": apart,
        "tokens": ours[0]["tokens"],
        "threads": ours[0]["threads"],
        "n": len(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of a run (default 60)")
    parser.add_argument("--warmup", type=int, default=20, help="steps left out (default 20)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each, in turn (default 3)")
    parser.add_argument("--out", type=Path, help="write the record there, e.g. benchmarks/results/train-cpu.json")
    for hidden in ("--part", "--root"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        root = Path(given.root)
        print(json.dumps({"ours": ours, "peer": peer}[given.part](root, write_world(root, given.steps))))
        return
    if given.steps // EVERY - given.warmup // EVERY < 1:
        parser.error(f"--steps {given.steps} leaves no log line after --warmup {given.warmup}")
    load, runs = os.getloadavg(), {"ours": [], "peer": []}
    for _ in range(given.repetitions):
        for part, found in runs.items():
            found.append(measured(part, given.steps))
    result = compare(runs["ours"], runs["peer"], given.warmup)
    print(f"{'run':>4} {'ours':>8} {'TRL':>8} tokens/s   ratio")
    table = zip(result["ours_tokens_per_second"], result["peer_tokens_per_second"], result["ratios"], strict=True)
    for number, (mine, theirs, ratio) in enumerate(table, 1):
        print(f"{number:>4} {mine:>8,.0f} {theirs:>8,.0f} {'':>8} {ratio:>8.2f}")
    spread = f"{min(result['ratios']):.2f} to {max(result['ratios']):.2f}"
    print(f"ours is {result['ratio']:.2f} times as fast ({spread}), losses {result['losses_apart']:.1e} apart")
    cores = f"{os.cpu_count()} cores, {result['threads']} threads"
    print(f"{cores}, load average {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after")
    if given.out:
        from agenttuning import run_record

        machine = {"machine": platform.platform(), "cores": os.cpu_count(), "load": [load[0], os.getloadavg()[0]]}
        head = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": run_record.commit(ROOT), **machine}
        head["versions"] = run_record.versions()
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**head, "steps": given.steps, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
