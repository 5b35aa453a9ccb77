"""Losses by source add up to the loss, and a run that has diverged stops before its update and names its rows."""

from __future__ import annotations

import json
import math

import numpy
import pytest

from agenttuning import recipe
from agenttuning.data.whose import conversations
from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import checkpoints, watch
from agenttuning.training.collate import Collator
from agenttuning.training.trainer import Trainer
from helpers.tiny_run import losses, tiny_recipe, tiny_world

PACKED = ("packing=true", "per_device_train_batch_size=2", "mixture.draws=60")  # two micro-batches of two rows a step
APART = (*PACKED, "launch.attention=sdpa")  # one row below the other, where PACKED lays them end to end


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


def log_of(run_dir):
    return json.loads((run_dir / "train.json").read_text())["log"]


def by_source(entry, record):
    """Mean loss per supervised token over all sources, from those by source and the tokens counted of each."""
    supervised = record["supervised_tokens"]
    return sum(loss * supervised[name] for name, loss in entry["loss_by_source"].items()) / sum(supervised.values())


@pytest.mark.parametrize("fused", [False, True], ids=["own loss", "TRL's head"])
@pytest.mark.parametrize("packing", [(), PACKED, APART], ids=["unpacked", "end to end", "apart"])
def test_losses_by_source_add_up_to_the_loss(world, tmp_path, monkeypatch, packing, fused):
    if fused:
        monkeypatch.setattr(
            Trainer, "cheap_loss", property(lambda self: False, lambda self, value: None), raising=False
        )
    run_dir = tmp_path / "a"
    train(tiny_recipe(world, run_dir, *packing, "max_steps=1", "learning_rate=0.0", "save_strategy='no'"))
    record = json.loads((run_dir / "train.json").read_text())
    [entry] = record["log"]
    assert by_source(entry, record) == pytest.approx(entry["loss"], abs=1e-6)
    assert set(entry["loss_by_source"]) == {"agents", "chats"} and len(set(entry["loss_by_source"].values())) == 2


def test_each_token_counts_for_its_own_source(world, tmp_path, monkeypatch):
    """Against a loss computed alone, token by token, from the model's logits and the batch's labels."""
    import torch

    seen, compute = [], Trainer.compute_loss

    def watched(self, model, inputs, *arguments, **named):
        plain = {key: inputs[key] for key in ("input_ids", "position_ids")}
        with torch.no_grad():
            logits = model(**plain, use_cache=False).logits.log_softmax(-1)
        labels, origin = inputs["labels"], inputs["origin"]
        for row, place in (labels != -100).nonzero().tolist():
            seen.append((int(origin[row, place]), -float(logits[row, place - 1, labels[row, place]])))
        return compute(self, model, inputs, *arguments, **named)

    monkeypatch.setattr(Trainer, "compute_loss", watched)
    train(tiny_recipe(world, tmp_path / "a", *PACKED, "max_steps=1", "save_strategy='no'"))
    [entry] = log_of(tmp_path / "a")
    for number, name in enumerate(("agents", "chats")):
        own = [loss for origin, loss in seen if origin == number]
        assert len(own) > 20 and entry["loss_by_source"][name] == pytest.approx(sum(own) / len(own), abs=2e-6)


def test_a_source_of_one_text_is_learned_sooner(tmp_path):
    world = tiny_world(tmp_path)
    said = {"from": "gpt", "loss": True, "value": "Thought: ok.\nAction: ok"}
    rows = [{"id": str(n), "conversations": [{"from": "human", "loss": None, "value": "Go."}, said]} for n in range(12)]
    (tmp_path / "raw/agents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(tiny_recipe(world, tmp_path / "a", "max_steps=50", "logging_steps=25", "learning_rate=0.02",
                      "save_strategy='no'"))  # fmt: skip
    last = log_of(tmp_path / "a")[-1]["loss_by_source"]
    assert last["agents"] < 0.5 * last["chats"]


def test_a_source_without_supervised_tokens_since_the_last_line_has_no_loss(world, tmp_path):
    train(tiny_recipe(world, tmp_path / "a", "max_steps=8", "save_strategy='no'", "launch.global_batch=1",
                      "per_device_train_batch_size=1"))  # fmt: skip
    for entry in log_of(tmp_path / "a"):
        assert sorted(map(type, entry["loss_by_source"].values()), key=str) == [type(None), float]


def poison(monkeypatch, *numbers):
    """The losses of these rows of the data set become NaN; what the batches held, to compare with."""
    import torch

    whole, seen = Collator.__call__, []

    def marked(self, rows):
        batch = whole(self, rows)
        bad = [torch.full((len(row["input_ids"]),), int(row["row"]) in numbers) for row in rows]
        if len(batch["labels"]) == len(rows):
            batch["poisoned"] = torch.stack([flags[:1].expand(batch["labels"].shape[1]) for flags in bad])
        else:  # packed rows end to end
            batch["poisoned"] = torch.cat(bad)[None]
        return batch

    compute = Trainer.compute_loss

    def poisoned(self, model, inputs, *arguments, **named):
        bad = inputs.pop("poisoned")
        seen.extend(number for number, _ in inputs["rows"])

        def spoil(_module, _arguments, logits):
            return torch.where(bad[..., None], math.nan, logits)

        hook = self.accelerator.unwrap_model(model).get_output_embeddings().register_forward_hook(spoil)
        try:
            return compute(self, model, inputs, *arguments, **named)
        finally:
            hook.remove()

    monkeypatch.setattr(Collator, "__call__", marked)
    monkeypatch.setattr(Trainer, "compute_loss", poisoned)
    return seen


def ids_of(run_dir, number):
    """The conversations in a packed row, in order, by comparing tokens one by one."""
    from datasets import load_from_disk

    row = load_from_disk(str(run_dir / "data/rows"))[number]
    draws = load_from_disk(str(run_dir / "data"))
    found, start = [], 0
    for length in row["seq_lengths"]:
        tokens = row["input_ids"][start : start + length]
        found.append({f"{draw['source']}: {draw['id']}" for draw in draws if draw["input_ids"] == tokens})
        start += length
    return found


@pytest.mark.parametrize("packed", [PACKED, APART], ids=["end to end", "apart"])
def test_a_poisoned_row_is_named_with_its_conversations(world, tmp_path, monkeypatch, packed):
    one = tiny_recipe(world, tmp_path / "a", *packed, "save_steps=1")
    with monkeypatch.context() as patch:
        order = poison(patch)
        train(one)  # the order of the rows, with none of them poisoned
    assert len(order) >= 24
    bad = order[3 * 4 + 2]  # the third row of the fourth step
    again = tiny_recipe(world, tmp_path / "b", *packed, "save_steps=1")
    poison(monkeypatch, bad)
    with pytest.raises(UserError) as caught:
        train(again)
    text, record = str(caught.value), json.loads((tmp_path / "b/diverged.json").read_text())
    assert text.startswith("the loss of step 4 is nan") and f"The loss is no number in row {bad} (" in text
    assert text.endswith(f"The last good checkpoint is {tmp_path / 'b/checkpoints/checkpoint-3'}")
    assert {row["row"] for row in record["rows"]} == set(order[12:16])  # all rows of both micro-batches
    worst = record["rows"][0]
    assert worst["row"] == bad and math.isnan(worst["loss"])
    assert not any(math.isnan(row["loss"]) for row in record["rows"][1:])
    for row in record["rows"]:
        named = [set(part["ids"]) for part in row["conversations"]]
        assert named == ids_of(tmp_path / "b", row["row"]) and all(named)
    assert worst["conversations"][0]["ids"][0] in text
    # nothing of the bad step is kept
    assert checkpoints.in_order(tmp_path / "b")[0].name == "checkpoint-3" and not (tmp_path / "b/model").exists()


def test_losses_by_row_are_those_of_the_row_alone(world, tmp_path, monkeypatch):
    """diverged.json's mean loss of each row against a batch that holds nothing else."""
    import torch
    from transformers import AutoModelForCausalLM

    run_dir = tmp_path / "a"
    monkeypatch.setattr(watch.Spikes, "see", lambda self, step, loss: "made up")
    with pytest.raises(UserError, match="made up.*highest loss first"):
        train(tiny_recipe(world, run_dir, *PACKED, "save_strategy='no'"))
    from datasets import load_from_disk

    rows = load_from_disk(str(run_dir / "data/rows"))
    model = AutoModelForCausalLM.from_pretrained(world.parents[2] / "base")
    for entry in json.loads((run_dir / "diverged.json").read_text())["rows"]:
        row, start = rows[entry["row"]], 0
        for length, part in zip(row["seq_lengths"], entry["conversations"], strict=True):
            ids, labels = (torch.tensor([row[name][start : start + length]]) for name in ("input_ids", "labels"))
            with torch.no_grad():
                assert model(input_ids=ids, labels=labels).loss == pytest.approx(part["loss"], abs=1e-5)
            start += length


def test_a_step_without_supervised_tokens_stops_the_run(world, tmp_path, monkeypatch):
    whole = Collator.__call__

    def masked(self, rows):
        nothing = {"labels": -100, "origin": -1}
        return whole(self, [{**row, **{key: row[key] * 0 + value for key, value in nothing.items()}} for row in rows])

    monkeypatch.setattr(Collator, "__call__", masked)
    with pytest.raises(UserError, match="step 1 holds no supervised token.*rows.*No good checkpoint was saved"):
        train(tiny_recipe(world, tmp_path / "a"))
    assert not checkpoints.in_order(tmp_path / "a")


def healthy(spikes, steps=30, level=1.0):
    for step in range(1, steps + 1):
        assert spikes.see(step, level + 0.05 * (-1) ** step) is None


def test_a_jump_that_stays_stops_and_one_that_passes_does_not():
    spikes = watch.Spikes(1.0)
    healthy(spikes)
    assert [spikes.see(step, 3.0) for step in (31, 32)] == [None, None] and spikes.up == [31, 32]
    assert spikes.see(33, 1.02) is None and spikes.up == []  # it came back
    assert [spikes.see(step, 3.0) for step in (34, 35)] == [None, None]
    said = spikes.see(36, 3.5)
    assert "step 36 is 3.5000, up from 0.95" in said and "since step 34" in said


def test_a_slow_climb_is_seen_although_the_median_climbs_along():
    spikes = watch.Spikes(1.0)
    healthy(spikes)
    said = [spikes.see(step, 1.0 + 0.01 * (step - 30)) for step in range(31, 200)]
    assert any(said) and said.index(next(filter(None, said))) < 130


def test_what_is_no_jump():
    noisy, flat, free = watch.Spikes(1.0), watch.Spikes(0.5), watch.Spikes(None)
    random = numpy.random.default_rng(0)
    for step in range(1, 500):
        assert noisy.see(step, 2.0 * math.exp(-step / 100) + 0.3 * abs(random.normal())) is None
    healthy(flat)
    assert [flat.see(step, 1.4) for step in range(31, 40)] == [None] * 9  # within the limit
    assert [free.see(step, 10.0**step) for step in range(1, 60)] == [None] * 59
    early = watch.Spikes(1.0)
    assert [early.see(step, float(step)) for step in range(1, 20)] == [None] * 19  # too few steps to judge by


def test_wide_losses_need_a_wider_jump():
    spikes = watch.Spikes(1.0)
    for step in range(1, 31):
        assert spikes.see(step, 3.0 + (-1) ** step) is None  # a robust deviation of 2.1
    assert [spikes.see(step, 10.0) for step in range(31, 36)] == [None] * 5 and spikes.up == []
    assert [spikes.see(step, 30.0) for step in (36, 37)] == [None, None] and spikes.see(38, 30.0)


def test_a_checkpoint_is_put_off_while_the_loss_is_up(world, tmp_path, monkeypatch, capsys):
    """Up at steps 2 and 3, where step 2's checkpoint was due; it comes after step 4."""

    def up(self, step, loss):
        self.up = [*self.up, step] if step in (2, 3) else []

    monkeypatch.setattr(watch.Spikes, "see", up)
    train(tiny_recipe(world, tmp_path / "a", "save_steps=2", "max_steps=6"))
    assert "step 2: no checkpoint yet, the loss is up" in capsys.readouterr().out
    assert [path.name for path in checkpoints.in_order(tmp_path / "a")] == ["checkpoint-6", "checkpoint-4"]


def test_a_jump_ends_the_run_with_a_checkpoint_from_before_it(world, tmp_path, monkeypatch):
    monkeypatch.setattr(watch.Spikes, "LEAST", 4)

    def add(self, counts, origin, rows):
        if self.trainer.state.global_step >= 9:
            self.losses = self.losses * 3
        return whole(self, counts, origin, rows)

    whole = watch.Watch.add
    monkeypatch.setattr(watch.Watch, "add", add)
    with pytest.raises(UserError) as caught:
        train(tiny_recipe(world, tmp_path / "a", "max_steps=20", "save_steps=1"))
    text = str(caught.value)
    assert "the loss of step 12 is" in text and "since step 10" in text and "launch.max_loss_spike" in text
    # step 10 was the first that was up, with the weights of checkpoint-9
    assert text.endswith("checkpoints/checkpoint-8")
    assert checkpoints.in_order(tmp_path / "a")[0].name == "checkpoint-9"
    # the advice can be followed: the same run goes on with another limit
    train(tiny_recipe(world, tmp_path / "a", "max_steps=20", "save_steps=1", "launch.max_loss_spike=null"))
    assert len(losses(tmp_path / "a")) == 20


def test_what_was_judged_by_goes_on_after_a_resume(world, tmp_path):
    run_dir = tmp_path / "a"
    train(tiny_recipe(world, run_dir, "save_steps=3"))
    whole = losses(run_dir)
    state = json.loads((run_dir / "checkpoints/checkpoint-3/trainer_state.json").read_text())
    kept = state["stateful_callbacks"]["Spikes"]["attributes"]
    assert kept["recent"] == pytest.approx(whole[:3], abs=1e-6)
    spikes = watch.Spikes(1.0)

    class State:
        stateful_callbacks = state["stateful_callbacks"]

    spikes.on_train_begin(None, State, None)
    assert spikes.recent == kept["recent"] and spikes.up == []


@pytest.mark.parametrize("value", ["0", "-1.0", ".nan", ".inf"])
def test_a_limit_that_is_none_is_refused(world, tmp_path, value):
    with pytest.raises(UserError, match="launch.max_loss_spike is"):
        tiny_recipe(world, tmp_path / "a", f"launch.max_loss_spike={value}")


def test_conversations_are_found_by_their_tokens(world, tmp_path):
    from agenttuning.chat import load_for
    from agenttuning.data.prepare import prepare

    one = tiny_recipe(world, tmp_path / "a", "mixture.draws=60")
    prepared = prepare(one, load_for(one), tmp_path / "a/data")
    draws = prepared.load()
    wanted = [numpy.array(draws[n]["input_ids"]) for n in (3, 17, 3)] + [numpy.arange(5)]
    found = conversations(tmp_path / "a/data", wanted)
    for number, names in zip((3, 17, 3), found, strict=False):
        assert f"{draws[number]['source']}: {draws[number]['id']}" in names
    assert found[3] == [] and found[0] == found[2]


def test_the_limit_is_a_key_of_the_recipe():
    main = recipe.load(recipe.schema.REPOSITORY / "recipes/agentlm-13b")
    assert main.launch.max_loss_spike == 1.0
