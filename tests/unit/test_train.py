"""What a training run leaves behind, and what it refuses to start with."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from agenttuning import chat, recipe
from agenttuning.data import rows
from agenttuning.data.prepare import Prepared
from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import checkpoints
from agenttuning.training.saving import PROBE, check_saved
from agenttuning.training.settings import trainer_settings
from helpers.tiny_run import losses, tiny_recipe, tiny_world, weights


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A finished run of 30 steps: its folder, its recipe and what it printed."""
    import contextlib
    import io

    one = tiny_recipe(world, tmp_path_factory.mktemp("runs") / "a", "max_steps=30", "save_steps=30", "logging_steps=3")
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert train(one) == one.run_dir / "model"
    return one.run_dir, one, shown.getvalue()


def test_the_loss_goes_down(run):
    found = losses(run[0])
    assert len(found) == 10 and found[-1] < 0.6 * found[0]


def test_the_log_lines_are_an_interface(run):
    lines = [line for line in run[2].splitlines() if line.startswith("step ")]
    pattern = (
        r"step \d+/30  loss \d\.\d{4} \(agents \d\.\d{4}, chats \d\.\d{4}\)  "
        r"lr \d\.\d\de[-+]\d\d  grad_norm \d+\.\d{3}  supervised [\d,]+ tok/step  "
        r"[\d,]+ tok/s  [\d,]+ supervised tok/s  \d\.\d\d GiB"
    )
    assert len(lines) == 10 and all(re.fullmatch(pattern, line) for line in lines), lines


def test_what_was_decided_is_printed_first(run, world):
    before = run[2][: run[2].index("step 3/30")]
    for text in (run[1].hash[:12], "4 per device x 1 processes x 1 accumulated", "sdpa (auto: on a CPU the fastest",
                 "compute float32", "adamw_torch_fused", "agents", "chats", "starting at step 0"):  # fmt: skip
        assert text in before, text


def test_the_resolved_recipe_is_the_same_run(run):
    assert recipe.load(run[0] / "resolved.yaml").hash == run[1].hash


def test_the_record(run):
    record = json.loads((run[0] / "train.json").read_text())
    mixture = json.loads((run[0] / "data" / "mixture.json").read_text())
    # 30 steps of 4 are one pass over the 120 rows drawn: what was counted is what was prepared
    assert record["tokens"] == mixture["tokens"] and record["steps"] == 30 and record["seed"] == 7
    prepared = {name: source["supervised_tokens"] for name, source in mixture["sources"].items()}
    assert record["supervised_tokens"] == prepared
    per_step = [entry["supervised_per_step"] for entry in record["log"]]
    assert sum(per_step) * 3 == pytest.approx(mixture["supervised_tokens"])
    for entry in record["log"]:
        assert entry["supervised_tokens_per_second"] < entry["tokens_per_second"] and entry["mfu"] is None
        assert 0.1 < entry["peak_memory_gib"] <= record["peak_rss_bytes"] / 2**30
    assert record["mfu"] == "none: no peak is stated for a CPU"
    assert record["versions"]["trl"] and record["recipe_hash"] == run[1].hash and record["peak_rss_bytes"] > 1e8
    assert record["tokens_per_second"] == pytest.approx(record["tokens"] / record["seconds"])


def test_the_saved_model_is_ready_to_use(run):
    model = run[0] / "model"
    config = json.loads((model / "config.json").read_text())
    assert config["use_cache"] is True and config["pad_token_id"] == 0 and config["dtype"] == "float32"
    assert not (model / "training_args.bin").exists()
    assert set(weights(model)) == set(weights(run[1].path.parents[2] / "base"))


@pytest.mark.parametrize("folder", ["model", "checkpoints/checkpoint-30"])
def test_the_saved_tokenizer_gives_the_same_ids(run, folder):
    from transformers import AutoTokenizer

    saved, start = run[0] / folder, chat.load_tokenizer(run[1].values["model_name_or_path"])
    template = (saved / "chat_template.jinja").read_text()
    assert (
        "generation" not in template and template == (run[1].path.parents[2] / "base/chat_template.jinja").read_text()
    )
    assert json.loads((saved / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = chat.load_tokenizer(saved)
    assert again.pad_token == "<unk>" and again.pad_token_id == 0 and len(again) == len(start)
    assert chat.encode(PROBE, again) == chat.encode(PROBE, start)
    text = "[INST] open drawer 1 [/INST]"
    assert AutoTokenizer.from_pretrained(saved)(text).input_ids == start(text).input_ids


def test_the_end_token_is_supervised(world, run):
    mixture = json.loads((run[0] / "data" / "mixture.json").read_text())
    for row in rows.trainable_rows(Prepared(run[0] / "data", mixture["key"], mixture, True), run[1]):
        ends = row["input_ids"] == 2
        assert row["labels"][-1] == 2 and (row["labels"][ends] != -100).sum() >= 1
        assert ((row["labels"] != -100) == (row["origin"] >= 0)).all() and row["labels"][0] == -100


def test_packed_rows_count_their_sources(world, tmp_path):
    packed = ("packing=true", "max_steps=4", "per_device_train_batch_size=1", "launch.global_batch=2", "save_steps=9")
    train(tiny_recipe(world, tmp_path / "a", *packed, "mixture.draws=200"))
    record = json.loads((tmp_path / "a" / "train.json").read_text())
    assert 0.8 * 8 * 128 < record["tokens"] <= 8 * 128
    logged = sum(entry["supervised_per_step"] for entry in record["log"])
    assert sum(record["supervised_tokens"].values()) == logged and min(record["supervised_tokens"].values()) > 0


def test_both_ways_to_compute_the_loss_agree(world, tmp_path, monkeypatch):
    from agenttuning.training.trainer import Trainer

    train(tiny_recipe(world, tmp_path / "a"))
    monkeypatch.setattr(Trainer, "cheap_loss", property(lambda self: False, lambda self, value: None), raising=False)
    train(tiny_recipe(world, tmp_path / "b"))
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), abs=3e-6)


def test_a_gradient_that_is_no_number_stops_the_run_before_the_update(world, tmp_path):
    one = tiny_recipe(
        world, tmp_path / "a", "learning_rate=1.0e+30", "optim=sgd", "max_grad_norm=0.0", "warmup_steps=0"
    )
    with pytest.raises(UserError, match="the (loss|gradient) of step 2 is (nan|inf)"):
        train(one)
    assert not checkpoints.in_order(tmp_path / "a")  # it would have held broken weights
    assert not (tmp_path / "a" / "model").exists()


def test_weights_that_are_no_number_are_seen_before_the_first_update(world, tmp_path):
    from safetensors.torch import save_file

    base = shutil.copytree(world.parents[2] / "base", tmp_path / "base")
    poisoned = weights(base)
    poisoned["model.layers.0.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(poisoned, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="step 1"):
        train(tiny_recipe(world, tmp_path / "a", f"model_name_or_path={base}", "save_steps=1"))
    assert not checkpoints.in_order(tmp_path / "a") and not (tmp_path / "a" / "model").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval_strategy=steps", "`eval_strategy: steps` needs a held-out set"),
        ("load_best_model_at_end=true", "needs a held-out set"),
        ("metric_for_best_model=accuracy", "write `metric_for_best_model: loss`"),
        ("save_strategy=best", "needs a held-out set"),
        ("enable_jit_checkpoint=true", "SIGTERM saves here without it"),
        ("save_on_each_node=true", "a file system that all machines share"),
    ],
)
def test_keys_about_saving_that_would_do_nothing_are_refused(world, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        trainer_settings(tiny_recipe(world, tmp_path, words))
def test_a_finite_loss_with_a_gradient_that_is_none_stops_too(world, tmp_path, monkeypatch):
    from trl import SFTTrainer

    monkeypatch.setattr(SFTTrainer, "_get_grad_norm", lambda self, model, grad_norm=None: float("inf"))
    with pytest.raises(UserError, match="the gradient of step 1 is inf.*highest loss first: rows"):
        train(tiny_recipe(world, tmp_path / "a"))
    assert not checkpoints.in_order(tmp_path / "a")


def test_nothing_is_sent_anywhere(world, tmp_path, monkeypatch):
    sent = []
    monkeypatch.delenv("CI", raising=False)  # TRL reports nothing there
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *_, **named: sent.append(named))
    train(tiny_recipe(world, tmp_path / "a", "max_steps=1", "save_strategy='no'"))
    assert not sent


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("load_in_4bit=true", "`load_in_4bit` without `use_peft: true`"),
        ("trust_remote_code=true", "`trust_remote_code` is not acted on"),
        ("dtype=bfloat16", "most updates at these rates round"),
        ("optim=muon", "needs the rate of its AdamW part"),
        ("per_device_train_batch_size=3", "global_batch 4 is not a multiple"),
    ],
)
def test_settings_that_would_train_something_else_are_refused(world, tmp_path, override, said):
    with pytest.raises(UserError, match=said):
        trainer_settings(tiny_recipe(world, tmp_path / "a", override))


def test_processes_wait_for_one_that_reads_a_large_checkpoint(world, tmp_path):
    assert trainer_settings(tiny_recipe(world, tmp_path / "a")).ddp_timeout == 7200
    assert trainer_settings(tiny_recipe(world, tmp_path / "a", "ddp_timeout=60")).ddp_timeout == 60


def test_wrapped_packing_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="wrapped cuts conversations"):
        trainer_settings(tiny_recipe(world, tmp_path / "a", "packing=true", "packing_strategy=wrapped"))


def test_a_row_longer_than_max_length_is_refused(world, run):
    prepared = Prepared(run[0] / "data", "", {"sources": {"agents": {}, "chats": {}}}, True)
    with pytest.raises(UserError, match="more than max_length 20"):
        rows.trainable_rows(prepared, tiny_recipe(world, run[0], "max_length=20"))


def test_a_saved_model_with_another_tokenizer_is_refused(run, tmp_path):
    import shutil

    folder = shutil.copytree(run[0] / "model", tmp_path / "model")
    tokenizer = chat.load_tokenizer(run[0] / "model")
    check_saved(folder, tokenizer)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:20]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="other ids than the one trained with"):
        check_saved(folder, tokenizer)
    for name in ("model.safetensors", "chat_template.jinja"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="without chat_template.jinja, weights"):
        check_saved(folder, tokenizer)


def test_a_finished_run_is_trained_again_when_its_starting_weights_changed(tmp_path, capsys):
    from helpers.tiny_run import tiny_model

    world = tiny_world(tmp_path / "w")
    steps = ("max_steps=1", "save_strategy='no'", "mixture.draws=8")
    train(tiny_recipe(world, tmp_path / "run", *steps))
    train(tiny_recipe(world, tmp_path / "run", *steps))
    assert "is finished" in capsys.readouterr().out
    before = weights(tmp_path / "run" / "model")
    tiny_model(world.parents[2] / "base", seed=1)
    train(tiny_recipe(world, tmp_path / "run", *steps))
    assert "is finished" not in capsys.readouterr().out
    after = weights(tmp_path / "run" / "model")
    assert any((before[name] != after[name]).any() for name in before)


def test_a_checkpoint_from_other_starting_weights_is_refused(tmp_path):
    from helpers.tiny_run import tiny_model

    world = tiny_world(tmp_path / "w")
    steps = ("max_steps=2", "save_steps=1", "mixture.draws=8")
    train(tiny_recipe(world, tmp_path / "run", *steps))
    (tmp_path / "run" / "train.json").unlink()
    tiny_model(world.parents[2] / "base", seed=1)
    with pytest.raises(UserError, match="other starting weights"):
        train(tiny_recipe(world, tmp_path / "run", *steps))
    train(tiny_recipe(world, tmp_path / "run", *steps), resume="never")
