"""Ablations: the recipes of the variants, what they cost, and what they left."""

from __future__ import annotations

import json
import re

import pytest

from agenttuning import cli, recipe
from agenttuning.ablation import ETAS, cost, outcome, steps, text
from agenttuning.ablation.outcome import Scored
from agenttuning.ablation.variants import kinds, scan, variants, with_eta
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import published
from agenttuning.scoring.intervals import paired_difference
from helpers.ablation_runs import judged, main_recipe


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def shares(sources):
    return {name: source.share for name, source in sources.items()}


# --- the recipes


def test_eta_moves_agent_data_alone_and_keeps_the_ratio_of_the_general_part():
    main = main_recipe("7b")
    assert shares(with_eta(main, 0.2)) == shares(main.mixture.sources)
    assert shares(with_eta(main, 0.5)) == {"agentinstruct": 0.5, "sharegpt-gpt4": 0.1, "sharegpt-gpt35": 0.4}
    assert shares(with_eta(main, 0)) == {"sharegpt-gpt4": 0.2, "sharegpt-gpt35": 0.8}
    assert shares(with_eta(main, 1)) == {"agentinstruct": 1.0}
    for eta in ETAS:
        assert sum(shares(with_eta(main, eta)).values()) == pytest.approx(1, abs=1e-9)
    for wrong in (-0.1, 1.1):
        with pytest.raises(UserError, match="from 0 to 1"):
            with_eta(main, wrong)
    kept = main_recipe("7b", "mixture.sources.agentinstruct.defects=drop")
    assert with_eta(kept, 0.7)["agentinstruct"].defects == "drop"


def test_a_variant_is_the_main_recipe_with_other_sources_and_its_words_give_it_again():
    main = main_recipe("13b", "max_steps=7")
    for one in variants(main, kinds(main, {})["mixture"] | scan(main, (0.3,)), (42, 43)):
        assert one.recipe.launch == main.launch and one.recipe.loss == main.loss
        assert {k: v for k, v in one.recipe.values.items() if k != "seed"} | {"seed": 42} == main.values
        verb, path, *words = steps.words("train", one.recipe)
        said = cli.parse(verb, [path, *words])
        again = recipe.load(said.recipe, said.overrides, said.run_dir)
        assert (again.hash, again.run_dir) == (one.recipe.hash, one.recipe.run_dir)
        assert (again.mixture.seed, again.values["seed"]) == (one.seed, one.seed)


def test_every_record_has_one_folder_and_every_folder_one_record():
    """Nothing collides between sizes, seeds and shares, and no run is made twice under two names."""
    folders, hashes = {}, {}
    for size in ("7b", "13b", "tiny"):
        main = main_recipe(size)
        sources = {name: one for kind in kinds(main, {}).values() for name, one in kind.items()}
        for one in variants(main, sources | scan(main, (0.0, 0.2, 0.3)), (42, 43)):
            assert folders.setdefault(one.recipe.run_dir, one.recipe.hash) == one.recipe.hash
            assert hashes.setdefault(one.recipe.hash, one.recipe.run_dir) == one.recipe.run_dir
        for one in variants(main, scan(main, (0.3,)), None):  # the recipe's own seed, named or not
            assert hashes[one.recipe.hash] == one.recipe.run_dir
    assert len(folders) == 3 * 2 * 4 + 2


def test_a_variant_that_is_a_file_lies_where_its_own_command_puts_it():
    main = main_recipe("7b")
    found = {one.name: str(one.recipe.run_dir) for one in variants(main, kinds(main, {})["mixture"], None)}
    assert found == {
        "agent-only": "runs/ablations/agent-only",
        "general-only": "runs/ablations/general-only",
        "mixed": "runs/agentlm-7b/sft",
    }
    scanned = {one.name: str(one.recipe.run_dir) for one in variants(main, scan(main, (0.0, 0.2, 0.3, 1.0)), None)}
    assert list(scanned.values())[:2] == [found["general-only"], found["mixed"]]
    assert scanned["eta-0.3"] == "runs/ablations/agentlm-7b/sft/eta-0.3" and scanned["eta-1.0"] == found["agent-only"]
    unfiltered, filtered = variants(main, kinds(main, {})["filtering"], None)
    assert str(unfiltered.recipe.run_dir) == "runs/ablations/unfiltered"
    assert unfiltered.recipe.mixture == recipe.load("recipes/ablations/unfiltered.yaml").mixture
    assert filtered.recipe.run_dir == main.run_dir
    elsewhere = variants(main_recipe("7b", run_dir="x/mine"), kinds(main, {})["mixture"], None)
    places = ["x/mine-ablations/eta-1.0", "x/mine-ablations/eta-0.0", "x/mine"]
    assert [str(one.recipe.run_dir) for one in elsewhere] == places


def test_the_twins_records_are_those_that_its_published_table_was_made_from():
    """25 minutes of three seeds are not trained here: the same records give the same weights."""
    main = main_recipe("tiny")
    files = {"agent-only": "ablations/tiny-agent-only.yaml", "general-only": "ablations/tiny-general-only.yaml"}
    found = variants(main, kinds(main, {})["mixture"], (42, 43, 44))
    assert [one.name for one in found[:3]] == ["agent-only", "general-only", "mixed"] and len(found) == 9
    for one in found:
        file = f"recipes/{files.get(one.name, 'agentlm-tiny/sft.yaml')}"
        assert one.recipe.hash == recipe.load(file, [f"seed={one.seed}", f"mixture.seed={one.seed}"]).hash


def test_filtering_is_the_7bs_or_of_who_has_the_rows(tmp_path):
    assert "filtering" not in kinds(main_recipe("13b"), {})
    assert "filtering" in kinds(main_recipe("13b"), {"agentinstruct-unfiltered": tmp_path})
    assert "filtering" not in kinds(main_recipe("tiny"), {})
    with pytest.raises(UserError, match="nothing to leave out"):
        kinds(recipe.load("recipes/ablations/agent-only.yaml"), {})


# --- the cost


def finish(one, **more):
    """What a finished training of this recipe leaves, as far as the ablation looks."""
    (one.run_dir / "model").mkdir(parents=True)
    (one.run_dir / "model" / "config.json").write_text("{}")
    record = {"recipe_hash": one.hash, "started_from": one.values["model_revision"], **more}
    (one.run_dir / "train.json").write_text(json.dumps(record))


def test_the_table_adds_up_and_counts_what_is_there(tmp_path):
    main = main_recipe("13b", run_dir=tmp_path / "sft")
    runs = variants(main, kinds(main, {})["mixture"], None)
    finish(runs[0].recipe)
    checkpoint = runs[1].recipe.run_dir / "checkpoints" / "checkpoint-250"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text('{"files": {}, "recipe": {}}')
    finish(runs[2].recipe, recipe_hash="another")
    found = cost.costs([*runs, runs[2]], {})
    assert [one.state for one in found[:3]] == ["finished", "begun (checkpoint-250)", ""]
    lines = cost.page(found).splitlines()
    hours = found[0].plan.gpu_hours
    assert hours == pytest.approx(30.2, abs=0.05)  # tests/unit/test_recipe_pages.py works it out by hand
    assert f"{3 * hours:.1f}" in lines[-2] and "3 runs" in lines[-2] and f"${15 * hours:,.0f}" in lines[-2]
    assert f"{2 * hours:.1f}" in lines[-1] and "left to train: 2 runs" in lines[-1]


def test_a_plan_starts_nothing_says_what_is_missing_and_names_unfiltered(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(steps, "run", lambda *_: pytest.fail("a plan ran something"))
    assert cli.main(["ablation", "recipes/agentlm-7b", "--dry", "--run-dir", str(tmp_path / "x")]) == 0
    out = capsys.readouterr().out
    assert "not run: no rows of agentinstruct-unfiltered" in out and "in all: 3 runs" in out
    assert "os: not scored, no items" in out and "mmlu: not scored, no prompts" in out and "humaneval: ready" in out
    takes = r"judging takes [1-9]\d* minutes? a run on 1 NVIDIA H200, .* for 3 runs, \$\d+\.\d\d .*: humaneval$"
    assert re.search(takes, out, re.M)
    large = ["ablation", "recipes/agentlm-70b", "--run-dir", str(tmp_path / "x")]
    assert cli.main([*large, "--dry"]) == 0
    assert "humaneval: not scored, the model needs 2 NVIDIA H200 and a server" in capsys.readouterr().out
    assert cli.main(large) == 2  # one GPU would not hold it: said now, not after the training
    assert "days of training would end in no comparison" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--only", "agent-onyl"], "did you mean `agent-only`?"),
        (["--data", "sharegtp=x"], "which no variant draws from"),
        (["--data", "agentinstruct=/none"], "there is nothing there"),
        (["--seeds", "a"], "--seeds a"),
        (["--eval=--items 3"], "is judged by eval-held-in and eval-general"),
        (["--eval-held-in=--itmes 3"], "does not take"),
        (["--eval-held-in=--model m/x"], "one for all variants"),
        (["--eval-general=--server http://127.0.0.1:1 --served-model x"], "one for all variants"),
        (["--eval-held-in=seed=3"], "what changes the recipe goes before it"),
        (["--eval-held-in=--task db"], "asks for what cannot be scored here"),
        (["--eval-held-in='--task db"], "No closing quotation"),
    ],
)
def test_mistakes_are_found_before_anything_starts(words, why, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(steps, "run", lambda *_: pytest.fail("something was started"))
    assert cli.main(["ablation", "recipes/agentlm-13b", "--run-dir", str(tmp_path / "x"), *words]) == 2
    assert why in capsys.readouterr().err


def test_held_in_tasks_are_played_only_with_the_benchmarks_own_items(tmp_path, capsys):
    (tmp_path / "two.jsonl").write_text("no items")
    words = [f"--eval-held-in=--data db={tmp_path}/two.jsonl --prompts x"]
    assert cli.main(["ablation", "recipes/agentlm-13b", "--dry", *words]) == 0
    assert "eval-held-in: db: not scored" in capsys.readouterr().out


# --- what the runs left


def entry(rewards, metric="success_rate", **more):
    values = list(rewards.values())
    score = 100 * sum(values) / len(values)
    return {"metric": metric, "score": score, "interval": [score - 5, score + 5], "rewards": rewards, **more}


def scored(**tasks):
    entries = {name: {"divisor": 1.0, **one} for name, one in tasks.items()}
    value = sum(one["score"] for one in entries.values()) / len(entries)
    group = {"score": value, "interval": [value - 1, value + 1], "tasks": list(entries), "of": len(entries)}
    return Scored({"held_in": group}, {"held_in": entries})


def test_differences_are_paired_over_the_same_items_and_apart_otherwise():
    one, other = ({str(i): float(i % k == 0) for i in range(60)} for k in (2, 3))
    found = outcome.difference(scored(a=entry(one)), scored(a=entry(other)), "held_in")
    low, high = paired_difference(list(other.values()), list(one.values()))
    assert found["difference"] == pytest.approx(100 * (30 - 20) / 60) and found["paired"] == ["a"]
    assert found["interval"] == pytest.approx([100 * low, 100 * high])
    elsewhere = {f"x{item}": reward for item, reward in other.items()}
    apart = outcome.difference(scored(a=entry(one)), scored(a=entry(elsewhere)), "held_in")
    assert apart["paired"] == [] and apart["difference"] == pytest.approx(found["difference"])
    assert apart["interval"] == pytest.approx([50 / 3 - 50**0.5, 50 / 3 + 50**0.5])
    # dbbench's score is no mean of rewards: the items' difference would be another number
    weighed = [entry(values, "category_accuracy") | {"score": score} for values, score in ((one, 44.0), (other, 40.0))]
    assert outcome.difference(scored(a=weighed[0]), scored(a=weighed[1]), "held_in")["paired"] == []
    assert outcome.difference(scored(a=entry(one)), scored(b=entry(other)), "held_in") is None


def test_ratings_are_paired_in_their_own_unit():
    found = [entry(dict.fromkeys("abcdefgh", 1.0), "rating") | {"rewards": dict(zip("abcdefgh", values, strict=True))}
             for values in ([7, 8, 9, 5, 6, 7, 8, 6], [5, 6, 9, 4, 6, 5, 7, 6])]  # fmt: skip
    for one in found:
        one["score"] = sum(one["rewards"].values()) / 8
    value = outcome.difference(scored(mt=found[0]), scored(mt=found[1]), "held_in")
    assert value["difference"] == pytest.approx(1.0) and value["paired"] == ["mt"]
    assert 0 < value["interval"][0] < 1 < value["interval"][1] < 2


def test_two_turns_of_a_question_are_one_item():
    def rated(values, turns):
        rewards = {f"{name}/{turn}": value for name, value in zip("abcdefgh", values, strict=True) for turn in turns}
        return scored(mt=entry(rewards, "rating") | {"score": sum(values) / 8})

    ours, theirs = [7, 8, 9, 5, 6, 7, 8, 6], [5, 6, 9, 4, 6, 5, 7, 6]
    one, two = (outcome.difference(rated(ours, turns), rated(theirs, turns), "held_in") for turns in ("1", "12"))
    assert one["paired"] == two["paired"] == ["mt"] and one["interval"] == pytest.approx(two["interval"])


def test_several_seeds_give_their_mean_a_t_interval_and_differences_seed_by_seed():
    main = main_recipe("tiny")
    found = {"agent-only": (90.0, 92.0), "mixed": (80.0, 84.0)}
    runs = []
    for one in variants(main, {k: kinds(main, {})["mixture"][k] for k in found}, (1, 2)):
        value = found[one.name][one.seed - 1]
        runs.append((one, scored(a=entry({str(i): float(i < value) for i in range(100)}))))
    rows = {row["name"]: row for row in outcome.rows(runs, "mixture", main, Scored())}
    group = rows["agent-only"]["groups"]["held_in"]
    assert group["score"] == 91 and group["interval"] == pytest.approx([78.3, 103.7], abs=0.05)  # t(0.975, 1) = 12.706
    difference = rows["agent-only"]["differences"]["held_in"]
    assert difference["difference"] == 9 and difference["interval"] == pytest.approx([-3.7, 21.7], abs=0.05)
    page = text.page("mixture", list(rows.values()), "scores", 1, "mixed")
    assert "91.0 [78.3, 100.0]" in page  # no more than 100
    assert "agent-only - mixed  +9.0 [-3.7, +21.7]" in page and "95 % t intervals over seeds 1, 2" in page
    lost = outcome.rows(runs[:3] + [(runs[3][0], Scored())], "mixture", main, Scored())
    assert "held_in" not in lost[1]["groups"]  # a seed that was not scored is not left out in silence


def test_the_papers_rows_stand_beside_ours_with_the_differences_in_its_unit(tmp_path):
    main = main_recipe("13b", run_dir=tmp_path / "sft")
    runs = variants(main, kinds(main, {})["mixture"], None)
    for one, k in zip(runs, (72, 36, 108), strict=True):
        judged(one.recipe.run_dir, k)
        assert cli.main(["compare", "recipes/agentlm-13b", "--run-dir", str(one.recipe.run_dir)]) == 0
    rows = outcome.rows([(one, outcome.of_paper(one.recipe.run_dir)) for one in runs], "mixture", main, Scored())
    by_name = {row["name"]: row for row in rows}
    assert by_name["agent-only"]["published"]["held_in"]["value"] == 1.57
    assert by_name["mixed"]["published"]["held_out"]["value"] == 0.78 and by_name["general-only"]["eta"] == 0
    divisors = published.load().divisors
    differences = by_name["agent-only"]["differences"]
    assert differences["held_in"]["difference"] == pytest.approx(-25 / divisors["os"])
    assert differences["general"]["difference"] == pytest.approx(-100 * 9 * 36 / 1319 / divisors["gsm8k"])
    assert differences["general"]["paired"] == ["gsm8k"]
    assert by_name["mixed"]["groups"]["held_in"]["score"] == pytest.approx(75 / divisors["os"])
    page = text.page("mixture", rows, "overall scores", 2, "mixed")
    assert "(1 of 6 tasks)" in page and "held-in is over os alone, of 6 tasks: not the paper's number" in page
    assert "1.57?" in page and "not run" in page
    assert not outcome.published_row(main, "eta", "eta-0.3", 0.3)
    assert outcome.published_row(main_recipe("7b"), "filtering", "unfiltered", 0.2)["held_in"]["value"] == 1.34
    assert not outcome.published_row(recipe.load("recipes/agentlm-13b/sft-lora.yaml"), "mixture", "mixed", 0.2)


def eta_rows(**by_group):
    etas = (0.0, 0.5, 1.0)
    made = []
    for index, eta in enumerate(etas):
        groups = {}
        for group, values in by_group.items():
            value = values[index]
            groups[group] = {"score": value, "interval": [value - 2, value + 2], "tasks": ["a"], "of": 1}
        made.append({"name": f"eta-{eta}", "eta": eta, "groups": groups})
    return made


def test_the_best_eta_is_chosen_as_the_paper_did_or_says_that_it_was_not():
    assert text.best(eta_rows(held_out=(1, 9, 3), held_in=(50, 1, 2)), 0) == "best eta by held-out score: 0.5 (9)"
    assert "not told apart from it: 1" in text.best(eta_rows(held_out=(1, 9, 8)), 0)
    told = text.best(eta_rows(held_in=(1, 2, 30), general=(50, 40, 5)), 1)
    assert told.startswith("best eta by general and held-in score: 0 (25.5)") and "held-out, which was not run" in told
    assert "all are the same, so this chooses none" in text.best(eta_rows(held_out=(0, 0, 0)), 0)
    rows = eta_rows(held_in=(1, 2, 3))
    del rows[1]["groups"]["held_in"]
    assert "no group was scored for every eta" in text.best(rows, 0)
