"""The golden curves: 40 steps of the tiny twin, through `train`, from a random start and rows that a program makes.

    python tests/golden/record.py            # prints how far this code is from curve.json
    python tests/golden/record.py --write    # writes curve.json anew; say in the commit message what moved it, and why

`packed` is recipes/agentlm-tiny/sft.yaml itself (packed rows, Muon); `adamw` trains the same model on unpacked rows
with the paper's optimizer, two micro-batches accumulated. Neither has dropout.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CURVE = HERE / "curve.json"
COMMAND = "python tests/golden/record.py --write"
START = "runs/golden/start"
SHARED = (f"model_name_or_path={START}", "max_steps=40", "logging_steps=1", "save_strategy='no'")
CURVES = {
    "packed": (),
    "adamw": ("packing=false", "launch.global_batch=8", "per_device_train_batch_size=4", "optim=adamw_torch_fused",
              "optim_args=null", "learning_rate=3.0e-3", "adam_epsilon=1.0e-8", "weight_decay=0.1"),
}  # fmt: skip
KEYS = ("loss", "grad_norm", "learning_rate", "loss_by_source")


def world(root: Path) -> None:
    """Write the twin's repository with a small corpus, few trajectories and a random start below `root`, the current
    directory.
    """
    from agenttuning.collect import collect
    from agenttuning.miniature.corpus import write_corpus
    from agenttuning.miniature.start import make_start

    for name in ("recipes/agentlm-tiny", "accelerate_configs", "data_cards"):
        shutil.copytree(REPOSITORY / name, root / name)
    folder = root / "recipes/agentlm-tiny"
    for name, key, number in (("general.yaml", "conversations", 400), ("collect.yaml", "items", 30)):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(re.sub(rf"\b{key}: \d+", f"{key}: {number}", text), encoding="utf-8")
    write_corpus(folder / "general.yaml")
    collect(folder / "collect.yaml")
    make_start(folder / "config.json", Path(START), seed=42)


def curve(root: Path, name: str, *overrides: str) -> list[dict]:
    """Train the curve `name` in the world at `root`, the current directory; its log as train.json has it, without the
    speeds.
    """
    from agenttuning import recipe
    from agenttuning.train import train

    run_dir = Path("runs/golden") / f"{name}-{len(list(Path('runs/golden').glob('*')))}"
    train(recipe.load(root / "recipes/agentlm-tiny", (*SHARED, *CURVES[name], *overrides), run_dir))
    log = json.loads((run_dir / "train.json").read_text(encoding="utf-8"))["log"]
    return [{key: entry[key] for key in KEYS} for entry in log]


def environment() -> dict:
    """Where the numbers come from."""
    import torch

    from agenttuning import run_record

    known = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.*)", known.read_text()) if known.exists() else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": COMMAND,
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": run_record.versions(),
    }


def distance(found: list[dict], golden: list[dict]) -> dict[str, float]:
    """The largest difference of a number from the golden one, relative to it, by key."""
    if len(found) != len(golden):
        return {"steps": abs(len(found) - len(golden))}
    apart = dict.fromkeys(KEYS, 0.0)
    for ours, theirs in zip(found, golden, strict=True):
        for key in KEYS:
            pairs = [(ours[key], theirs[key])]
            if isinstance(theirs[key], dict):
                pairs = [(ours[key].get(name), value) for name, value in theirs[key].items()]
            for mine, value in pairs:
                if None in (mine, value):
                    apart[key] = max(apart[key], 0.0 if mine is value else 1.0)
                else:
                    difference = abs(mine - value) / max(abs(value), 1e-12)
                    # what is no number would be passed over by max(), and by every comparison
                    apart[key] = max(apart[key], difference if math.isfinite(difference) else math.inf)
    return apart


def main() -> None:
    """See the module's docstring."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(REPOSITORY / "src")]
    with tempfile.TemporaryDirectory() as root, chdir(root):
        world(Path(root))
        found = {name: curve(Path(root), name) for name in CURVES}
    for name, golden in (json.loads(CURVE.read_text())["curves"] if CURVE.exists() else {}).items():
        print(name, distance(found[name], golden))
    if "--write" in sys.argv[1:]:
        content = {"environment": environment(), "curves": found}
        CURVE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"written: {CURVE}")


if __name__ == "__main__":
    main()
