"""Recipes are strict: everything that a person can get wrong in one is an error that names the way out."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from agenttuning import recipe
from agenttuning.errors import UserError
from agenttuning.recipe import keys, yaml_io
from agenttuning.recipe.accelerate_config import checkpoints_activations, validate
from agenttuning.recipe.schema import REPOSITORY, Decontaminate

R13 = REPOSITORY / "recipes/agentlm-13b/sft.yaml"
MINIMAL = {
    "model_name_or_path": "runs/base/model",
    "max_steps": 10,
    "max_length": 128,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "seed": 1,
    "loss": "flags",
    "mixture": {"sources": {"a": {"share": 0.5}, "b": {"share": 0.5}}},
    "launch": {"global_batch": 4, "accelerate_config": "cpu"},
}


@pytest.fixture
def write(tmp_path):
    """write(name, mapping or text) -> path under a recipes/ folder."""

    def write(name, content):
        path = tmp_path / "recipes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def test_the_13b_recipe_says_what_the_paper_says():
    one = recipe.load(R13.parent)
    assert (one.name, one.run_dir.as_posix()) == ("agentlm-13b/sft", "runs/agentlm-13b/sft")
    assert one.values["learning_rate"] == 5e-5 and one.values["max_steps"] == 2000
    assert (one.launch.global_batch, one.values["max_length"], one.values["warmup_steps"]) == (64, 4096, 0.02)
    assert (one.values["adam_beta2"], one.values["adam_epsilon"], one.values["weight_decay"]) == (0.95, 1e-8, 0.1)
    shares = {name: source.share for name, source in one.mixture.sources.items()}
    assert shares == {"agentinstruct": 0.2, "sharegpt-gpt4": 0.16, "sharegpt-gpt35": 0.64}
    assert one.origin["max_steps"].endswith("recipes/base.yaml")
    assert one.origin["model_name_or_path"].endswith("agentlm-13b/sft.yaml")


def test_only_the_70b_recipe_changes_the_learning_rate():
    for size, rate in (("7b", 5e-5), ("13b", 5e-5), ("70b", 1e-5)):
        assert recipe.load(REPOSITORY / f"recipes/agentlm-{size}").values["learning_rate"] == rate


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learning_rte=1", ["unknown key `learning_rte`", "`learning_rate`"]),
        ("mixture.sead=1", ["unknown key `sead`", "`seed`"]),
        ("launch.global_bach=1", ["unknown key `global_bach`", "`global_batch`"]),
        ("publish.hub_model=x/y", ["unknown key `hub_model`", "`hub_model_id`"]),
        ("mixture.sources.agentinstruct.shar=0.2", ["unknown key `shar`", "`share`"]),
        ("hidden_dropout=lots", ["'lots' is str"]),
        ("launch.hidden_dropout=0.05", ["unknown key `hidden_dropout`"]),
        ("warmup_ratio=0.02", ["is gone", "warmup_steps"]),
        ("group_by_length=true", ["is gone", "train_sampling_strategy"]),
        ("max_seq_length=1", ["is gone", "max_length"]),
        ("gradient_accumulation_steps=4", ["launch.global_batch"]),
        ("learning_rate=fast", ["'fast' is str"]),
        ("max_steps=2000.5", ["is float"]),
        ("max_steps=0", ["1 or more"]),
        ("packing=1", ["is int"]),
        ("seed=true", ["is bool"]),
        ("mixture.seed=x", ["must be int"]),
        ("mixture.seed=true", ["is bool"]),
        ("mixture.overlong=shorten", ["not one of drop, truncate_end, split_at_turn"]),
        ("mixture.sources.agentinstruct.share=0.3", ["sum to 1.1", "agentinstruct 0.3"]),
        ("mixture.sources.agentinstruct.share=-0.2", ["(0, 1]"]),
        ("mixture.sources={}", ["at least one"]),
        ("mixture=3", ["must hold `key: value` lines"]),
        ("mixture.max_quarantined=2", ["in [0, 1]"]),
        ("mixture.duplicates=drop", ["not one of keep, exact, near"]),
        ("mixture.near_duplicate_threshold=0", ["(0, 1]", "`duplicates: keep`"]),
        ("mixture.near_duplicate_threshold=1.1", ["(0, 1]"]),
        ("mixture.near_duplicate_threshold=.nan", ["(0, 1]"]),
        ("mixture.near_duplicate_threshold=high", ["must be"]),
        ("launch.global_batch=0", ["above 0"]),
        ("launch.mfu=40", ["(0, 1]"]),
        ("loss=some", ["not one of flags, assistant, last, all"]),
        ("learning_rate", ["write key=value"]),
        ("=3", ["write key=value"]),
        ("seed=[1", ["not valid YAML"]),
        ("lr_scheduler_kwargs.min_lr_rate=0", ["unknown key"]),
    ],
)
def test_a_wrong_override_is_refused_with_the_way_out(override, words):
    with pytest.raises(UserError) as caught:
        recipe.load(R13, [override])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"agianst": ["mmlu"], "drop": "dirty"}, "unknown key `agianst`.*did you mean `against`"),
        ({"against": ["mmlu"]}, "`drop` is missing"),
        ({"against": ["mmlu"], "drop": "all"}, "drop: 'all' is not one of dirty, nothing"),
        ({"against": "mmlu", "drop": "dirty"}, "against: 'mmlu' is str; it must be list"),
        ({"against": [], "drop": "dirty"}, "against is empty"),
        ({"against": ["mmlu", 3], "drop": "dirty"}, "against holds 3"),
        ({"against": ["mmlu="], "drop": "dirty"}, "against holds 'mmlu='"),
        ({"against": ["mmlu", "mmlu"], "drop": "dirty"}, "names 'mmlu' twice"),
        ("all", "must hold `key: value` lines; it holds 'all'"),
    ],
)
def test_what_to_decontaminate_against_is_checked(write, content, words):
    mixture = {**MINIMAL["mixture"], "decontaminate": content}
    with pytest.raises(UserError, match=f"mixture.decontaminate.*{words}"):
        recipe.load(write("x/sft.yaml", {**MINIMAL, "mixture": mixture}))


def test_decontaminate_is_off_unless_said_and_survives_writing(tmp_path, write):
    plain = recipe.load(write("x/sft.yaml", MINIMAL))
    assert plain.mixture.decontaminate is None and recipe.load(R13).mixture.decontaminate is None
    content = {"against": ["mmlu", "gsm8k=test.jsonl"], "drop": "dirty"}
    said = recipe.load(
        write("y/sft.yaml", {**MINIMAL, "mixture": {**MINIMAL["mixture"], "decontaminate": content}}),
        ["mixture.decontaminate.drop=nothing"],
    )
    assert said.mixture.decontaminate == Decontaminate(["mmlu", "gsm8k=test.jsonl"], "nothing")
    assert said.flat()["mixture.decontaminate.against"] == ["mmlu", "gsm8k=test.jsonl"]
    assert recipe.load(said.write(tmp_path)).hash == said.hash != plain.hash


def test_a_file_is_held_to_the_same_rules(write):
    recipe.load(write("ok.yaml", MINIMAL))
    for change in ({"warmup_ratio": 0.1}, {"max_lenght": 9}, {"loss": None}, {"max_steps": "10"}, {"extends": 3}):
        with pytest.raises(UserError):
            recipe.load(write("bad.yaml", {**MINIMAL, **change}))
    for key in MINIMAL:
        with pytest.raises(UserError, match=key):
            recipe.load(write("bad.yaml", {name: value for name, value in MINIMAL.items() if name != key}))


def test_extends_is_one_step_deep_and_relative_to_the_file(write):
    write("base.yaml", MINIMAL)
    child = write("x/child.yaml", {"extends": "../base.yaml", "seed": 7})
    assert recipe.load(child).values["seed"] == 7
    write("x/grandchild.yaml", {"extends": "child.yaml"})
    with pytest.raises(UserError, match="One step is the limit"):
        recipe.load(child.parent / "grandchild.yaml")
    with pytest.raises(UserError, match="does not exist"):
        recipe.load(write("x/orphan.yaml", {"extends": "../none.yaml"}))


def test_sources_of_a_child_replace_those_of_its_parent_and_other_keys_merge(write):
    write("base.yaml", {**MINIMAL, "mixture": {**MINIMAL["mixture"], "seed": 9}})
    one = recipe.load(write("child.yaml", {"extends": "base.yaml", "mixture": {"sources": {"c": {"share": 1}}}}))
    assert list(one.mixture.sources) == ["c"] and one.mixture.seed == 9
    assert "mixture.sources.a.share" not in one.origin


def test_the_mixture_can_be_replaced_or_adjusted_on_the_command_line():
    one = recipe.load(R13, ["mixture.sources={agentinstruct: {share: 1}}"])
    assert list(one.mixture.sources) == ["agentinstruct"] and one.mixture.seed == 42
    shares = ["mixture.sources.agentinstruct.share=0.3", "mixture.sources.sharegpt-gpt35.share=0.54"]
    assert recipe.load(R13, shares).mixture.sources["sharegpt-gpt4"].share == 0.16


def test_yaml_is_read_without_its_traps(write):
    text = yaml.safe_dump(MINIMAL).replace("learning_rate: 0.001", "learning_rate: 5e-5")
    assert recipe.load(write("a.yaml", text)).values["learning_rate"] == 5e-5
    for bad, words in ((text + "seed: 2\n", "appears twice"), ("a: [", "not valid YAML"), ("- 1\n", "holds list")):
        with pytest.raises(UserError, match=words):
            recipe.load(write("b.yaml", bad))
    with pytest.raises(UserError):
        recipe.load(write("c.yaml", text + "run_name: !!python/object/apply:os.system ['true']\n"))


@pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="this PyYAML has no libyaml, so there is one scanner")
def test_both_scanners_read_the_same_and_errors_show_the_line():
    folders = ("recipes", "accelerate_configs", "data_cards", "evaluation/general", "evaluation/protocols")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*.yaml")]
    assert len(files) > 50
    for text in [file.read_text(encoding="utf-8") for file in files] + ["a: yes\nb: 012\nc: 1e3\nd: {e: [1:20, ~]}"]:
        assert yaml.load(text, yaml_io._FastLoader) == yaml.load(text, yaml_io.StrictLoader)  # noqa: S506
    with pytest.raises(UserError, match=r"(?s)line 2, column 1:\n +a: 2\n"):
        yaml_io.parse("a: 1\na: 2", "x")


def test_a_missing_recipe_names_a_near_one(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match="recipes/agentlm-13b/sft.yaml"):
        recipe.load("recipes/agentlm13b/sft.yaml")


def test_the_record_survives_writing_and_its_hash_follows_content_alone(tmp_path, write):
    one = recipe.load(R13, ["mixture.seed=3"])
    again = recipe.load(one.write(tmp_path / "run"))
    assert again.flat() == one.flat() and again.hash == one.hash
    assert one.flat()["mixture.seed"] == 3 and one.origin["mixture.seed"] == "command line"
    assert recipe.load(R13).hash != one.hash
    assert recipe.load(write("a.yaml", MINIMAL)).hash == recipe.load(write("b/c.yaml", MINIMAL)).hash
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_where_a_result_goes_does_not_change_which_record_it_is():
    one, named = recipe.load(R13), recipe.load(R13, ["publish.hub_model_id=a/b", "publish.private=false"])
    other = recipe.load(R13, ["publish.hub_model_id=a/b", "mixture.seed=3"])
    assert named.hash == one.hash != other.hash and named.flat() != one.flat()
    whole = hashlib.sha256(json.dumps(named.flat(), sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    assert named.is_record(whole) and named.is_record(one.hash)  # as it was written before, and as it is
    assert not any(named.is_record(digest) for digest in (other.hash, None, ""))


def test_every_value_has_an_origin():
    one = recipe.load(R13)
    assert one.origin.keys() == one.flat().keys()


def test_run_dir_follows_the_path_unless_given(write):
    assert recipe.load(write("x/ablation/a.yaml", MINIMAL)).run_dir.as_posix() == "runs/x/ablation/a"
    assert recipe.load(write("a.yaml", MINIMAL), run_dir="elsewhere").run_dir.as_posix() == "elsewhere"


def test_trl_keys_are_those_of_the_installed_trl():
    code = "from agenttuning.recipe import keys; print(keys.installed_trl_keys(), end='')"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=env).stdout
    committed = (REPOSITORY / "src/agenttuning/recipe/trl_keys.txt").read_text()
    assert out == committed, "run python -m agenttuning.recipe.keys and read what changed"


def test_the_tables_of_special_keys_are_true():
    known = set(keys.trl_types())
    assert keys.OWNED.keys() <= known
    assert not keys.REMOVED.keys() & known
    assert not keys.ADDED.keys() & (known | keys.REMOVED.keys())


def test_the_main_recipes_have_the_papers_hidden_dropout():
    published = yaml.safe_load((REPOSITORY / "evaluation/published.yaml").read_text())
    stated = next(value for key, value in _walk(published) if key == "hidden_dropout")
    for name in ("agentlm-7b", "agentlm-13b", "agentlm-70b"):
        assert recipe.load(REPOSITORY / "recipes" / name).values["hidden_dropout"] == stated["value"] == 0.05


def _walk(content):
    for key, value in content.items() if isinstance(content, dict) else ():
        yield key, value
        yield from _walk(value)


def test_two_kinds_of_activation_checkpointing_are_refused():
    config = validate(REPOSITORY / "accelerate_configs/fsdp2.yaml")
    assert checkpoints_activations(recipe.load(R13), config)
    both = {**config, "fsdp_config": {**config["fsdp_config"], "fsdp_activation_checkpointing": True}}
    with pytest.raises(UserError, match="both at once"):
        checkpoints_activations(recipe.load(R13), both)
    with pytest.raises(UserError, match="both at once"):  # unset means TRL's default, which is on
        checkpoints_activations(recipe.load(R13, ["activation_checkpointing=null"]), both)
    assert checkpoints_activations(recipe.load(R13, ["activation_checkpointing=false"]), both)


ABLATIONS = REPOSITORY / "recipes" / "ablations"
PAPER = {"agentinstruct": 0.2, "sharegpt-gpt4": 0.16, "sharegpt-gpt35": 0.64}


def shares_of(found):
    return {name: source.share for name, source in found.mixture.sources.items()}


@pytest.mark.parametrize(
    ("name", "sources", "loss"),
    [
        ("agent-only", {"agentinstruct": 1.0}, "flags"),
        ("general-only", {"sharegpt-gpt4": 0.2, "sharegpt-gpt35": 0.8}, "flags"),
        ("loss-all-turns", PAPER, "assistant"),
    ],
)
def test_an_ablation_differs_from_7b_in_what_it_names(name, sources, loss):
    found, base = recipe.load(ABLATIONS / f"{name}.yaml"), recipe.load(REPOSITORY / "recipes" / "agentlm-7b")
    assert shares_of(found) == sources and found.loss == loss
    assert found.values == base.values and found.launch == base.launch
    assert replace(found.mixture, sources={}) == replace(base.mixture, sources={})


def test_the_left_out_task_of_the_readme_loads():
    runs = []
    for block in (ABLATIONS / "README.md").read_text().split("```bash\n")[1:]:
        script = "agenttuning() { printf '%s\\n' \"$@\" END; }\n" + block.split("```")[0]
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        runs += [run.strip().splitlines() for run in done.stdout.split("END\n") if run.strip()]
    assert len(runs) == 1 and all(run[0] == "data" and run[2] == "--run-dir" for run in runs)
    found = [recipe.load(REPOSITORY / run[1], run[4:]) for run in runs]
    rows = {"os": 195, "db": 538, "alfworld": 336, "webshop": 351, "kg": 324}
    left = found[-1].mixture.sources["agentinstruct"].splits
    assert left == pytest.approx({name: count / 1744 for name, count in rows.items()}, abs=1e-4)
