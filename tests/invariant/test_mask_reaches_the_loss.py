"""What the mask hides does not reach the loss, what it shows does, all the way through data, trainer and model."""

from __future__ import annotations

import copy
import json

import pytest

from agenttuning.train import train
from helpers.tiny_run import losses, tiny_recipe, tiny_world

ROW = {
    "id": "a",
    "conversations": [
        {"from": "human", "loss": None, "value": "Do the task."},
        {"from": "gpt", "loss": True, "value": "Action: open drawer 1"},
        {"from": "human", "loss": None, "value": "The drawer is open."},
        {"from": "gpt", "loss": False, "value": "Thought: a mug and a pen."},
    ],
}
ONE = ("max_steps=1", "mixture.draws=4", "mixture.sources={agents: {share: 1.0}}", "save_strategy='no'")


@pytest.fixture(scope="module")
def loss_of(tmp_path_factory):
    """loss_of(turn=None, text=None, *overrides): the first loss on four copies of ROW, one turn's text replaced."""
    folder = tmp_path_factory.mktemp("world")
    world = tiny_world(folder)

    def loss_of(turn=None, text=None, *overrides):
        row = copy.deepcopy(ROW)
        if turn is not None:
            row["conversations"][turn]["value"] = text
        run_dir = folder / "runs" / str(len(list(folder.glob("runs/*"))))
        (folder / "raw" / "agents.jsonl").write_text(json.dumps(row) + "\n")
        train(tiny_recipe(world, run_dir, *ONE, *overrides))
        return losses(run_dir)[0]

    return loss_of


def test_text_after_the_last_supervised_token_is_not_in_the_loss(loss_of):
    # the same number of tokens, so that not even the order of floating-point sums changes
    assert loss_of(3, "Thought: a pen and a mug.") == loss_of()


def test_the_same_text_counts_as_soon_as_it_is_supervised(loss_of):
    changed = loss_of(3, "Thought: a pen and a mug.", "loss=assistant")
    assert abs(changed - loss_of(None, None, "loss=assistant")) > 1e-5


def test_supervised_text_is_in_the_loss(loss_of):
    assert abs(loss_of(1, "Action: open drawer 2") - loss_of()) > 1e-5


@pytest.mark.parametrize("packing", [False, True])
def test_only_supervised_places_get_a_gradient(tmp_path, monkeypatch, packing):
    """The gradient of the loss at each place's logits is zero exactly where no supervised token comes next."""
    import torch

    from agenttuning.training.trainer import Trainer

    seen, compute = [], Trainer.compute_loss

    def watched(self, model, inputs, *arguments, **named):
        kept = []
        hook = model.get_output_embeddings().register_forward_hook(lambda _, __, logits: kept.append(logits))
        labels = inputs["labels"]
        loss = compute(self, model, inputs, *arguments, **named)
        hook.remove()
        gradient = torch.autograd.grad(loss, kept[0], retain_graph=True)[0].abs().sum(-1)
        seen.append((gradient[:, :-1] > 0, labels[:, 1:] != -100, gradient[:, -1]))
        return loss

    monkeypatch.setattr(Trainer, "compute_loss", watched)
    world = tiny_world(tmp_path)
    train(tiny_recipe(world, tmp_path / "a", "max_steps=2", "save_strategy='no'", f"packing={str(packing).lower()}"))
    assert len(seen) == 2
    for reached, supervised, last in seen:
        assert torch.equal(reached, supervised) and 0 < supervised.sum() < supervised.numel() and not last.any()
