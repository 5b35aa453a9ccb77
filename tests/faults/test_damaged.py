"""A damaged checkpoint is skipped with its reason, one of another run is refused; nothing less is ever gone on from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agenttuning.data.folders import claim
from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import checkpoints, resume
from helpers.tiny_run import losses, tiny_recipe


@pytest.fixture(scope="module")
def finished(whole):
    """A run with checkpoints 2, 4 and 6."""
    return whole()


@pytest.fixture
def run_dir(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "a"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


FAULTS = {
    "no optimizer": ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
    "no schedule": ("scheduler.pt", Path.unlink, "scheduler.pt is missing"),
    "no random state": ("rng_state.pth", Path.unlink, "rng_state.pth is missing"),
    "truncated weights": ("model.safetensors", truncate, "model.safetensors has"),
    "one bit of the weights": ("model.safetensors", flip, "the content of model.safetensors has changed"),
    "no manifest": ("manifest.json", Path.unlink, "it has no manifest.json"),
    "manifest cut short": ("manifest.json", truncate, "it has no manifest.json"),
    "empty folder": ("manifest.json", empty, "it is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_skipped_with_its_reason(world, run_dir, capsys, fault):
    name, break_it, reason = FAULTS[fault]
    break_it(run_dir / "checkpoints" / "checkpoint-6" / name)
    recipe = tiny_recipe(world, run_dir)
    assert resume.find(run_dir, recipe).folder.name == "checkpoint-4"
    assert f"checkpoint-6 is not used: {reason}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no checkpoint of .* is whole"):
        resume.find(run_dir, recipe, str(run_dir / "checkpoints" / "checkpoint-6"))


def test_only_folders_in_the_way_are_deleted(world, run_dir):
    recipe = tiny_recipe(world, run_dir)
    for step in (2, 6):
        (run_dir / "checkpoints" / f"checkpoint-{step}" / "manifest.json").unlink()
    resume.find(run_dir, recipe)
    assert len(checkpoints.in_order(run_dir)) == 3
    resume.clear(run_dir, resume.Start(run_dir / "checkpoints" / "checkpoint-4", 4), "auto")
    assert [path.name for path in checkpoints.in_order(run_dir)] == ["checkpoint-4", "checkpoint-2"]


def test_when_every_checkpoint_is_damaged_the_run_stops(world, run_dir):
    for folder in checkpoints.in_order(run_dir):
        (folder / "scheduler.pt").unlink()
    with pytest.raises(UserError, match="checkpoint-2: scheduler.pt is missing.*--resume never"):
        resume.find(run_dir, tiny_recipe(world, run_dir))


def test_a_run_killed_in_its_first_save_starts_again(world, run_dir, capsys):
    for folder in checkpoints.in_order(run_dir):
        (folder / "manifest.json").unlink()
    assert resume.find(run_dir, tiny_recipe(world, run_dir)) is None
    assert capsys.readouterr().out.count("is not used") == 3


def test_another_recipe_is_refused_and_named(world, run_dir):
    recipe = tiny_recipe(world, run_dir, "learning_rate=0.004", "mixture.seed=4")
    with pytest.raises(UserError, match=r"learning_rate: 0.005 then, 0.004 now; mixture.seed: 3 then, 4 now"):
        resume.find(run_dir, recipe)
    assert resume.find(run_dir, recipe, "never") is None


def test_other_rows_are_refused(world, run_dir):
    recipe = tiny_recipe(world, run_dir)
    key = json.loads((run_dir / "data" / "mixture.json").read_text())["key"]
    assert resume.find(run_dir, recipe, "auto", {"data": key}).folder.name == "checkpoint-6"
    with pytest.raises(UserError, match="trained on other rows"):
        resume.find(run_dir, recipe, "auto", {"data": "0" * 64})


def test_never_keeps_the_old_checkpoints_aside(world, run_dir, finished, capsys):
    train(tiny_recipe(world, run_dir), resume="never")
    assert "starting at step 0" in capsys.readouterr().out
    assert losses(run_dir) == losses(finished)
    assert (run_dir / "checkpoints.before-1" / "checkpoint-6" / "manifest.json").is_file()


def test_a_finished_run_is_not_trained_twice(world, run_dir, capsys):
    before = (run_dir / "train.json").read_bytes()
    assert train(tiny_recipe(world, run_dir)) == run_dir / "model"
    assert "is finished" in capsys.readouterr().out and (run_dir / "train.json").read_bytes() == before


def test_a_damaged_checkpoint_is_set_aside_and_written_again(world, run_dir, finished, capsys):
    flip(run_dir / "checkpoints" / "checkpoint-6" / "optimizer.pt")
    shutil.rmtree(run_dir / "model")
    train(tiny_recipe(world, run_dir))
    shown = capsys.readouterr().out
    assert "checkpoint-6 is not used: the content of optimizer.pt has changed" in shown
    assert f"moved to {run_dir / 'checkpoints.before-1'}: checkpoint-6" in shown
    assert losses(run_dir) == losses(finished)
    assert resume.judge(run_dir / "checkpoints" / "checkpoint-6") == (None, ())


def test_a_path_gives_up_the_checkpoints_after_it(world, run_dir, finished, capsys):
    shutil.rmtree(run_dir / "model")
    train(tiny_recipe(world, run_dir), resume=str(run_dir / "checkpoints" / "checkpoint-2"))
    assert "checkpoints.before-1: checkpoint-4, checkpoint-6" in capsys.readouterr().out
    assert losses(run_dir) == losses(finished)


def test_rows_that_changed_are_refused(world, run_dir):
    """Same sources, same key, other bytes: what a new version of the packing, or a disk, might leave."""
    shutil.rmtree(run_dir / "model")
    rows = next((run_dir / "data" / "rows").glob("*.arrow"))
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    with pytest.raises(UserError, match="is not as it was written when the data was prepared"):
        train(tiny_recipe(world, run_dir))
    manifest = run_dir / "data" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][f"rows/{rows.name}"]["sha256"] = checkpoints.digest(rows)
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="trained on other rows"):
        train(tiny_recipe(world, run_dir))


def test_a_changed_source_is_refused(world, run_dir, tmp_path):
    shutil.rmtree(run_dir / "model")
    source = world.parents[2] / "raw" / "chats.jsonl"
    other = tmp_path / "chats.jsonl"
    other.write_text("".join(source.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="trained on other rows"):
        train(tiny_recipe(world, run_dir), {"chats": other})
    assert len(checkpoints.in_order(run_dir)) == 3


def test_what_changes_nothing_may_change(world, run_dir, finished, capsys):
    shutil.rmtree(run_dir / "checkpoints" / "checkpoint-6")
    train(tiny_recipe(world, run_dir, "save_total_limit=1", "save_steps=1"))
    shown = capsys.readouterr().out
    assert "changed since checkpoint-4: save_total_limit: None then, 1 now" in shown
    assert [path.name for path in checkpoints.in_order(run_dir)] == ["checkpoint-6"]
    assert "saved " + str(run_dir / "checkpoints" / "checkpoint-5") in shown  # the new save_steps counts, not the old
    assert losses(run_dir) == losses(finished)


def test_the_best_is_kept_and_named(world, tmp_path, capsys):
    """At this rate the loss rises after a while, so the best is not the last."""
    wild = ("learning_rate=0.5", "warmup_steps=5", "max_steps=8", "save_total_limit=1", "metric_for_best_model=loss")
    run = tmp_path / "a"
    train(tiny_recipe(world, run, *wild))
    found = losses(run)
    means = {step: (found[step - 2] + found[step - 1]) / 2 for step in (2, 4, 6, 8)}
    lowest = min(means, key=means.get)
    assert lowest != 8
    best = checkpoints.best(run)
    assert best.name == f"checkpoint-{lowest}" and (run / "checkpoints" / "best").resolve() == best.resolve()
    assert [path.name for path in checkpoints.in_order(run)] == ["checkpoint-8", best.name]
    loss = checkpoints.read_manifest(best)["loss"]
    assert loss == {"mean": pytest.approx(means[lowest]), "steps": [lowest - 1, lowest]}
    line = f"training loss {means[8]:.4f} over steps 7 to 8, {best.name} is still the best"
    assert line in capsys.readouterr().out


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    script = "import sys\nfrom pathlib import Path\nfrom agenttuning.data.folders import claim\n"
    script += "claim(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match=f"process {first.pid} on .* both would write"):
            claim(tmp_path)
        first.kill()  # and the lock is free, however its holder ended
    claim(tmp_path)
