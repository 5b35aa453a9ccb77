"""`torchrun masks_run.py RECIPE FOLDER`: two steps with hidden_dropout 0.5; each process writes FOLDER/mask-RANK.pt,
where the first embedding was dropped."""

import os
import sys
from pathlib import Path

import torch

from agenttuning.train import train
from agenttuning.training import dropout
from helpers.tiny_run import tiny_recipe


def main(recipe: str, folder: str) -> None:
    drop, file = dropout.dropout, Path(folder) / f"mask-{os.environ['RANK']}.pt"

    def watched(values, share):
        given = drop(values, share)
        if not file.exists():
            torch.save(given == 0, file)
        return given

    dropout.dropout = watched
    changes = ("max_steps=2", "per_device_train_batch_size=2", "hidden_dropout=0.5", "save_strategy='no'")
    one = tiny_recipe(Path(recipe), Path(folder) / "run", "launch.accelerate_config=ddp", *changes)
    train(one, cpu_processes=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
