"""Models whose answers are known score what they must, through lm-eval and the whole of `eval-general`: always right,
always wrong, always the same letter; and what infrastructure loses is counted and never scored.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import GenerationConfig

from agenttuning import recipe
from agenttuning.chat import load_tokenizer
from agenttuning.errors import UserError
from agenttuning.general import evaluate, originals
from agenttuning.general.documents import Documents
from agenttuning.general.kept import Answers
from agenttuning.general.lm import LOST_CHOICE, Asking, Lost, transformers_lm
from agenttuning.general.players import Player
from agenttuning.recipe.schema import REPOSITORY
from helpers import general_items
from helpers.agenttuning_checkout import write_checkout
from helpers.rigged_lm import Rig
from helpers.tiny_llama import save_tiny_llama

ITEMS = {"mmlu": 14, "gsm8k": 5}  # of the folders below


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    folder = save_tiny_llama(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Official items of ours, and a checkout with prompts."""
    folder = tmp_path_factory.mktemp("official")
    data = {
        "mmlu": general_items.cais(folder / "mmlu", n=7),
        "gsm8k": general_items.openai_gsm8k(folder / "gsm8k", n=5),
    }
    return data, write_checkout(folder / "checkout")


@pytest.fixture(autouse=True)
def whole(monkeypatch, places):
    """The benchmarks are our items, asked in our checkout's words."""
    find, words = evaluate.find, originals.read(places[1], set(ITEMS))

    def rules(name, task):
        own = find(name).tasks[task]
        return replace(own, n=ITEMS[task], prompts_sha256=words.digest(task) if own.prompts == "source" else None)

    monkeypatch.setattr(evaluate, "find", lambda name: replace(find(name), tasks={t: rules(name, t) for t in ITEMS}))
    monkeypatch.setattr(Documents, "strange", None)


def ask(made, places, out, protocol, task, **options):
    data, prompts = places
    player = Player("transformers", "a rigged model", "rigged", "rigged@1", lambda: made, None)
    one = recipe.load(REPOSITORY / "recipes/agentlm-7b/sft.yaml", (), out)
    words = {"prompts": prompts} if protocol != "stock" else {}
    options = {"protocol": protocol, "tasks": [task], "data": {task: data[task]}, **words, **options}
    return evaluate.evaluate_general(one, player, out=out, **options)["tasks"]


def rigged(model, **rules):
    lm = transformers_lm(*model)
    lm.rig = Rig(lm, **rules)
    return lm


def answer_in(text: str) -> int:
    """The right letter of the last question in a prompt; general_items says which."""
    return int(text.rsplit("number ", 1)[1].split(":")[0]) % 4


@pytest.mark.parametrize("protocol", ["paper", "corrected", "stock"])
def test_a_model_that_knows_the_letters_scores_100(model, places, tmp_path, protocol) -> None:
    lm = rigged(model, prefers=lambda text: "ABCD"[answer_in(text)])
    entry = ask(lm, places, tmp_path, protocol, "mmlu")["mmlu"]
    assert (entry["score"], entry["n"], entry["statuses"]) == (100.0, 14, {"right": 14, "wrong": 0})
    assert entry["interval"][0] == pytest.approx(78.47, abs=0.01) and entry["interval"][1] == 100.0  # Wilson's
    assert (entry["group"], entry["metric"], entry["cut"], entry["backend"]["precision"]) == (
        "general",
        "acc",
        0,
        "float32",
    )
    assert (entry["not_comparable"] is None) == (protocol == "paper")
    assert (entry["prompts"] is None) == (protocol == "stock")


def test_a_wrong_letter_scores_0_and_one_letter_its_frequency(model, places, tmp_path) -> None:
    lm = rigged(model, prefers=lambda text: "ABCD"[(answer_in(text) + 1) % 4])
    assert ask(lm, places, tmp_path / "wrong", "paper", "mmlu")["mmlu"]["score"] == 0.0
    rows = [row for subject in general_items.SUBJECTS for row in general_items.mmlu_rows("test", subject, 7)]
    often = sum(row["answer"] == 1 for row in rows)
    entry = ask(rigged(model, prefers=lambda _: "B"), places, tmp_path / "b", "paper", "mmlu")["mmlu"]
    assert entry["score"] == pytest.approx(100 * often / 14) and 0 < often < 7
    lines = [json.loads(line) for line in (tmp_path / "b" / "docs" / "mmlu.samples.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(entry["rewards"])
    assert {line["extracted"] for line in lines} == {"B"}
    for line in lines:
        assert max(line["got"], key=line["got"].get) == "B" and list(line["got"]) == list("ABCD")
        assert line["score"] == entry["rewards"][line["id"]] == (line["wanted"] == "B")
        assert line["choices"]["A"] == f"a{line['question'].rsplit(' ', 3)[1].rstrip(':')}"


def gold(text: str) -> int:
    return int(text.rsplit("Ann has ", 1)[1].split()[0]) + 1000


@pytest.mark.parametrize(
    ("protocol", "said", "score", "extracted"),
    [
        ("paper", "So it is {}.", 100, "1000"),
        ("paper", "So it is {}. Question: and 5?", 100, "1000"),
        ("paper", "{:,}", 0, "0"),  # 1,000 to 1,004 are read as 000, which is 0, and 001, which is no number
        ("paper", "{} - 1", 0, "1"),
        ("paper", "no", 0, None),
        ("corrected", "{:,}", 100, "1000"),
        ("corrected", "${:,}.00 it is", 100, "1000.00"),
        ("corrected", "-{}", 0, "-1000"),
        ("stock", "so\n#### {:,}", 100, "1,000"),
        ("stock", "{}", 0, "[invalid]"),
    ],
)
def test_gsm8k_scores_what_is_said(model, places, tmp_path, protocol, said, score, extracted) -> None:
    entry = ask(rigged(model, says=lambda text: said.format(gold(text))), places, tmp_path, protocol, "gsm8k")["gsm8k"]
    assert (entry["score"], entry["n"], entry["lost"]) == (score, 5, 0)
    [line, *_] = [json.loads(line) for line in (tmp_path / "docs" / "gsm8k.samples.jsonl").read_text().splitlines()]
    assert (line["extracted"], line["wanted"], line["score"]) == (extracted, "1000", score / 100)
    assert line["got"].strip() == said.format(1000).split("Question:")[0].strip()


class Breaking:
    """A model behind something that breaks: what `breaks` is true of is lost. `asked` counts questions."""

    def loglikelihood(self, requests, disable_tqdm=False):
        self.asked += len(requests)
        return [LOST_CHOICE if self.breaks(r.args[0]) else (-1.0 - len(r.args[1]), True) for r in requests]

    def generate_until(self, requests, disable_tqdm=False):
        self.asked += len(requests)
        return [Lost("no route") if self.breaks(r.args[0]) else str(gold(r.args[0])) for r in requests]


def breaking(model, breaks):
    from lm_eval.api.model import TemplateLM

    class LM(Asking, Breaking, TemplateLM):
        eot_token_id, tokenizer_name, loglikelihood_rolling, _loglikelihood_tokens = 2, "tiny", None, None
        tokenizer = model[1]

        def longest(self):
            return 2048

        def tok_encode(self, string, add_special_tokens=None, **_):
            return self.tokenizer(string, add_special_tokens=False).input_ids

    lm = LM()
    lm.breaks, lm.asked = breaks, 0
    return lm


def test_what_is_lost_is_counted_never_scored_and_asked_again_alone(model, places, tmp_path, capsys) -> None:
    lm = breaking(model, lambda text: "Ann has 3 " in text)
    with pytest.raises(UserError, match="no score of gsm8k: more than 5% .* asks the lost ones alone"):
        ask(lm, places, tmp_path, "paper", "gsm8k")
    found = json.loads((tmp_path / "scores.json").read_text())["tasks"]["gsm8k"]
    assert (found["n"], found["asked"], found["lost"], found["score"], found["interval"]) == (4, 5, 1, None, None)
    assert found["void"] == "1 of 5 items lost to infrastructure, 5% are allowed" and found["lost_to"] == {
        "no route": 1
    }
    assert found["statuses"] == {"right": 4, "wrong": 0, "lost": 1} and "test/3" not in found["rewards"]
    samples = [json.loads(line) for line in (tmp_path / "docs" / "gsm8k.samples.jsonl").read_text().splitlines()]
    assert [(s["score"], s["got"], s["lost"]) for s in samples if "lost" in s] == [(None, None, "no route")]
    assert "void: 1 of 5" in capsys.readouterr().out
    well = breaking(model, lambda text: False)
    entry = ask(well, places, tmp_path, "paper", "gsm8k")["gsm8k"]
    assert (well.asked, entry["n"], entry["score"], entry["void"]) == (1, 5, 100.0, None)
    assert "gsm8k: 4 answers were kept from before" in capsys.readouterr().out
    ask(well, places, tmp_path, "paper", "gsm8k")
    assert well.asked == 1


def test_one_lost_letter_loses_the_item(model, places, tmp_path, monkeypatch) -> None:
    find = evaluate.find
    monkeypatch.setattr(evaluate, "find", lambda name: replace(find(name), void_above=0.2))
    lm = breaking(model, lambda text: "number 3:" in text.rsplit("Question", 1)[1])
    entry = ask(lm, places, tmp_path, "paper", "mmlu")["mmlu"]
    assert (entry["n"], entry["lost"], entry["void"], lm.asked) == (12, 2, None, 4 * 14)
    assert entry["lost_to"] == {"no likelihood came back": 2}
    assert entry["score"] == pytest.approx(100 * entry["statuses"]["right"] / 12)


@pytest.mark.parametrize("change", ["model", "rules", "documents", "prompts", "precision", "nothing"])
def test_old_answers_never_answer_another_question(model, places, tmp_path, monkeypatch, change) -> None:
    ask(breaking(model, lambda _: False), places, tmp_path, "paper", "gsm8k")
    lm = breaking(model, lambda _: False)
    if change == "model":
        monkeypatch.setattr(evaluate, "Player", None, raising=False)
        make = Player.__init__
        monkeypatch.setattr(Player, "__init__", lambda self, *a: make(self, *a[:3], "rigged@2", *a[4:]))
    elif change == "rules":
        find = evaluate.find

        def other(name):
            found = find(name)
            rules = replace(found.tasks["gsm8k"], system_prompt="You are another one.")
            return replace(found, tasks={**found.tasks, "gsm8k": rules})

        monkeypatch.setattr(evaluate, "find", other)
    elif change == "documents":
        monkeypatch.setattr(general_items, "gsm8k_row", _otherwise(general_items.gsm8k_row))
        places = ({"gsm8k": general_items.openai_gsm8k(tmp_path / "other", n=5)}, places[1])
    elif change == "prompts":
        checkout = write_checkout(tmp_path / "checkout")
        file = checkout / "eval_general" / "eval_gsm8k_tgi.py"
        file.write_text(file.read_text().replace("Tom has 4", "Tim has 4"))
        places = (places[0], checkout)
    elif change == "precision":
        lm.precision = "bfloat16"
    ask(lm, places, tmp_path, "paper", "gsm8k")
    assert lm.asked == (0 if change == "nothing" else 5)


def _otherwise(row):
    return lambda number: {**row(number), "question": row(number)["question"].replace("Ann has", "So Ann has")}


def test_scores_stand_under_the_benchmarks_name_only_when_they_are_its_own(model, places, tmp_path, capsys) -> None:
    lm = breaking(model, lambda _: False)
    assert ask(lm, places, tmp_path, "paper", "gsm8k")["gsm8k"]["not_comparable"] is None
    shown = capsys.readouterr().out
    assert "gsm8k            100.0 [56.6, 100.0]" in shown and "published, gsm8k: llama-2-7b-chat 27.7" in shown
    found = ask(lm, places, tmp_path, "paper", "gsm8k", most=2)
    assert set(found) == {"gsm8k", "part-gsm8k"}  # the whole one stays
    assert found["part-gsm8k"]["not_comparable"] == "2 items, and the benchmark has 5"
    assert found["part-gsm8k"]["data"]["n"] == found["part-gsm8k"]["n"] == 2
    ask(lm, places, tmp_path, "corrected", "gsm8k")
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert set(kept["tasks"]) == {"gsm8k"} and kept["protocol"] == "corrected@1"  # two protocols never share a file
    with pytest.raises(UserError, match="which is not asked"):
        ask(lm, places, tmp_path, "paper", "gsm8k", data={"mmlu": "x"})
    with pytest.raises(UserError, match="has no task 'gsm'.*gsm8k"):
        ask(lm, places, tmp_path, "paper", "gsm8k", tasks=["gsm"], data={})
    with pytest.raises(UserError, match="not ours to copy"):
        ask(lm, places, tmp_path, "paper", "gsm8k", prompts=None)
    with pytest.raises(UserError, match="at least 1"):
        ask(lm, places, tmp_path, "paper", "gsm8k", most=0)


def test_a_prompt_that_has_no_room_is_said(model, places, tmp_path) -> None:
    lm = breaking(model, lambda _: False)
    lm.longest = lambda: 800
    entry = ask(lm, places, tmp_path, "paper", "gsm8k")["gsm8k"]
    assert entry["cut"] == 5 and "5 prompts have no room" in entry["not_comparable"]


def test_other_words_and_other_items_are_no_score_to_set_beside_the_papers(
    model, places, tmp_path, monkeypatch
) -> None:
    lm = breaking(model, lambda _: False)
    script = write_checkout(tmp_path / "checkout") / "eval_general" / "eval_gsm8k_tgi.py"
    script.write_text(script.read_text().replace("step by step", "quickly"))
    entry = ask(lm, (places[0], tmp_path / "checkout"), tmp_path / "a", "paper", "gsm8k")["gsm8k"]
    assert entry["not_comparable"].startswith("asked in other words than the authors' script")
    assert entry["prompts"]["sha256"] != ask(lm, places, tmp_path / "b", "paper", "gsm8k")["gsm8k"]["prompts"]["sha256"]
    monkeypatch.setattr(Documents, "strange", "test/1")
    found = ask(lm, places, tmp_path / "c", "paper", "gsm8k")
    assert (
        list(found) == ["other-gsm8k"]
        and "item test/1 is not the benchmark's" in found["other-gsm8k"]["not_comparable"]
    )


def test_a_benchmarks_words_have_the_same_digest_whatever_else_was_read(places) -> None:
    both, one = originals.read(places[1], {"mmlu", "gsm8k"}), originals.read(places[1], {"gsm8k"})
    assert both.digest("gsm8k") == one.digest("gsm8k") != both.digest("mmlu")


@pytest.mark.parametrize(("chat_only", "why"), [(False, None), (True, "asked by messages")])
def test_a_server_with_a_template_of_its_own_asks_no_prompt_of_the_papers(model, places, chat_only, why) -> None:
    rules, words = evaluate.find("paper").tasks["gsm8k"], originals.read(places[1], {"gsm8k"})
    lm = SimpleNamespace(tokenizer=model[1], chat_only=chat_only)
    found = evaluate._why_not(Documents("gsm8k", [{}] * 5, "x"), rules, words, {"cut": 0}, lm)
    assert found is None if why is None else found.startswith(why)


def test_a_models_own_penalty_counts_in_lm_evals_own_tasks_alone(model, tmp_path) -> None:
    """generation_config.json of some models holds one, which transformers applies to greedy decoding, too."""
    loaded, tokenizer = model
    theirs, loaded.generation_config = (
        loaded.generation_config,
        GenerationConfig(repetition_penalty=50.0, eos_token_id=2),
    )
    answers = Answers(tmp_path, "x")
    try:
        lm = transformers_lm(loaded, tokenizer)
        for protocol, penalty in (("paper", None), ("stock", 50.0)):
            lm.ask_by(evaluate.find(protocol).tasks["gsm8k"], answers)
            assert (loaded.generation_config.repetition_penalty, loaded.generation_config.eos_token_id) == (penalty, 2)
    finally:
        loaded.generation_config = theirs
        answers.close()
