"""The error kinds inside a trajectory, and the paper's figure with ours beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from test_report import Page

from agenttuning import cli
from agenttuning.episodes import index
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.report import error_figure, error_page
from agenttuning.scoring import errors, intervals, published, scores
from helpers.episode_records import HOSTILE, record, said, step, stored

R13 = "recipes/agentlm-13b/sft.yaml"
NO = "I'm sorry, but as an AI I cannot do that."


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    from agenttuning.recipe import load

    monkeypatch.chdir(REPOSITORY)
    return load(R13, (), tmp_path / "run")


@pytest.mark.parametrize(
    ("turns", "kinds"),
    [
        # AgentBench.old's ALFWorld takes a reply without ACTION whole, and maps it to an admissible one
        ([(NO, step("look"), "Hm.")], {"refusal"}),
        ([(NO, step(NO, valid=False), "Nothing happens.")], {"refusal"}),
        ([(f"{NO}\nACTION: look", step("look"), "Hm.")], set()),
        ([("I will look.", step("look"), "Hm.")], set()),
    ],
)
def test_a_refusal_is_found_where_the_episode_goes_on(turns, kinds) -> None:
    assert errors.kinds(record("alfworld", "a", *turns, *said("go"))) == kinds


def test_a_refusal_that_ended_the_episode_has_no_step_with_an_action() -> None:
    assert errors.kinds(record("webshop", "a", (NO, step(None), None), status="refusal")) == {"refusal"}
    assert errors.kinds(record("webshop", "a", ("Hm.", step(None), None), status="invalid_format")) == {"format"}


@pytest.mark.parametrize(
    ("turns", "kinds"),
    [
        ([("Action: f(x)", step("f(x)", False, "function_call"), "No.")], {"function_call_error"}),
        ([("Action: hop", step("hop", False), "No.")], {"invalid_action"}),
        (
            [("Action: f(x)", step("f(x)", False, "function_call"), "No."), ("Action: hop", step("hop", False), "No.")],
            {"function_call_error", "invalid_action"},
        ),
        (said("f(x, #1)", "g(y)", "f(x,#1)"), {"function_repetition"}),
        (said("f(x)", "g(y)", "f(#1)"), set()),
        ([("Action: f(x)", step("f(x)", True, "function_repetition"), "[r]")], {"function_repetition"}),
        ([("f it.", step(None), "No function found!"), *said("g(y)")], {"invalid_action"}),
        ([(NO, step(None), "No function found!"), *said("g(y)")], {"refusal"}),
    ],
)
def test_calls_of_tools(turns, kinds) -> None:
    played = record("kg", "a", *turns)
    for place in range(3, len(played["messages"])):  # other observations, so that no stretch comes back
        if played["messages"][place]["role"] == "user":
            played["messages"][place]["content"] += str(place)
    assert errors.kinds(played) == kinds


def test_only_tasks_with_tools_are_asked_for_them() -> None:
    turns = [("Action: f(x)", step("f(x)", False, "function_call"), "No.")]
    assert errors.kinds(record("webshop", "a", *turns)) == {"invalid_action"}
    assert set(errors.rates([record("kg")])) == set(errors.RULES)
    assert set(errors.rates([record("webshop")])) == set(errors.KINDS)


def test_the_same_answer_to_other_questions_is_no_repetition() -> None:
    turns = [("Answer: A", step("A"), "Next?")] * 4
    assert errors.kinds(record("mind2web", "a", *turns)) == set()
    assert "short_term_repetition" in errors.kinds(record("webshop", "a", *turns))


@pytest.mark.parametrize("text", ["I cannot " + "action " * 150_000, "sorry, i can't \ud800" + "act:" * 250_000])
def test_a_megabyte_is_read_in_linear_time(text) -> None:
    start = time.monotonic()
    errors.kinds(record("alfworld", "a", (text, step(text[:100], False), "No.")))
    assert time.monotonic() - start < 2


def test_the_published_bars_are_those_of_the_figure() -> None:
    paper = published.error_analysis()
    assert paper.models == ["llama2", "agentlm", "gpt-3.5", "gpt-4"] and "error-analysis.svg" in paper.evidence
    assert set(paper.shares) == set(error_figure.PANELS)
    for name, (_, _, kinds) in error_figure.PANELS.items():
        assert set(kinds) == set(paper.shares[name]) and set(kinds.values()) <= set(errors.RULES)
    beside = error_figure.panels([])
    assert [panel.title for panel in beside] == ["ALFWorld and WebShop", "Knowledge graph (KG)"]
    assert [bar.share for bar in beside[0].bars["refusal"]] == [0.47, 0, 0, 0]
    assert [bar.share for bar in beside[1].bars["function_call_error"]] == [0.3264, 0.0776, 0.2637, 0.0816]


def evaluated(place: Path, task: str, *records: dict, why_not: str | None = None, name: str = "", **scored) -> None:
    """A task's folder as `eval-held-in` leaves it, and its entry in the scores beside it."""
    stored(place / (name or task), *records)
    path = place / scores.FILE
    empty = {"schema": scores.SCHEMA, "model": "m@1", "protocol": "paper-text@1", "tasks": {}}
    found = scores.read(path) if path.is_file() else empty
    found["tasks"][name or task] = {"not_comparable": why_not, "n": len(records)}
    scores.write(found | scored, place)


def played(place: Path, **more) -> None:
    repeated = said("look", "look", "look")
    homes = [record("alfworld", f"a{n}", *repeated, reward=0.0) for n in range(3)]
    homes += [record("alfworld", f"b{n}", *said("go", "put")) for n in range(5)]
    shops = [record("webshop", f"w{n}", *said("search[x]")) for n in range(4)]
    shops += [record("webshop", "lost", status="environment_error", reward=None, error="OSError: gone")]
    evaluated(place, "alfworld", *homes, **more)
    evaluated(place, "webshop", *shops, **more)


def test_ours_stand_beside_the_papers_with_n_and_interval(tmp_path, recipe, capsys) -> None:
    played(tmp_path / "run/eval/tuned/held-in/paper-text")
    path = error_page.errors(recipe, today="2026-01-02")
    printed, text = capsys.readouterr().out, path.read_text(encoding="utf-8")
    [line] = [line for line in printed.splitlines() if line.startswith("short term repetition ")]
    low, high = (100 * end for end in intervals.wilson(3, 12))
    assert line.split()[3:] == ["39.4", "9.4", "10.8", "2.4", "25.0", f"[{low:.1f},", f"{high:.1f}]"]
    assert "ours, tuned, paper-text (n=12)" in printed and "8 of alfworld, 4 of webshop" in printed
    assert "1 episodes lost to infrastructure are in no bar" in printed
    assert "not the benchmark" not in printed and "Knowledge graph" not in printed, "not played: not ours to compare"
    page = Page(text)
    assert "n = 12" in page.text and f"{low:.1f} to {high:.1f}" in page.text and "Drawn 2026-01-02" in page.text
    assert "Every rule on this page is ours" in page.text and errors.RULES["refusal"] in page.text
    widths = [attributes["width"] for tag, attributes in page.tags if tag == "rect" and attributes["class"] == "ours"]
    assert f"{100 * 0.25 / 0.6:.2f}%" in widths, "the axis ends at 60 %: the interval of 3 of 12 does before"
    assert not {"script", "img", "link"} & {tag for tag, _ in page.tags} and "://" not in text


@pytest.mark.parametrize(
    "scored",
    [{"why_not": "backend embedded"}, {"model": "other@1"}, {"protocol": "paper-code@1"}, {"tasks": {}},
     {"name": "practice.embedded"}],
)  # fmt: skip
def test_what_is_not_known_to_be_the_benchmark_is_never_beside_it(tmp_path, recipe, scored) -> None:
    place = tmp_path / "run/eval/tuned/held-in/paper-text"
    repeated = said("look", "look", "look")
    evaluated(place, "alfworld", *(record("alfworld", f"a{n}", *repeated) for n in range(3)), **scored)
    ours = error_figure.find(recipe.run_dir)
    beside, alone = error_figure.panels(ours)
    assert [series.ours for series in beside.series] == [False] * 4
    assert all(len(bars) == 4 for bars in beside.bars.values())
    assert [series.ours for series in alone.series] == [True] and "not the benchmark" in alone.title
    assert [bar.count for bar in alone.bars["short_term_repetition"]] == [3]


def test_a_store_without_scores_is_not_called_the_benchmark(tmp_path) -> None:
    folder = stored(tmp_path / "alfworld", record("alfworld", "a", *said("look")))
    one = error_figure.read("x", folder)
    assert (len(one.benchmark), len(one.practice)) == (0, 1)


def test_both_kinds_of_evaluation_of_all_labels_are_found(tmp_path, recipe) -> None:
    run = tmp_path / "run/eval"
    for label in ("alpha", "tuned", "base"):
        evaluated(run / label / "held-in/paper-text", "kg", record("kg", "k", *said("f(x)")))
    stored(run / "base", record("shop", "s", *said("buy")))
    names = [one.name for one in error_figure.find(recipe.run_dir)]
    assert names == ["base", "base, paper-text", "tuned, paper-text", "alpha, paper-text"]
    beside, alone = error_figure.panels(error_figure.find(recipe.run_dir))
    assert [series.name for series in beside.series[4:]] == [f"ours, {name}" for name in names[1:]]
    assert alone.title.startswith("shop (")


def test_the_newest_model_counts_and_others_are_told(tmp_path, recipe, capsys) -> None:
    old = [record("kg", f"k{n}", *said("f(x)"), model="old@1") for n in range(3)]
    new = [record("kg", f"k{n}", *said("f(x)", "f(x)", "f(x)")) for n in range(2)]
    evaluated(tmp_path / "run/eval/base/held-in/paper-text", "kg", *old, *new)
    error_page.errors(recipe)
    printed = capsys.readouterr().out
    assert "ours, base, paper-text (n=2)" in printed and "3 episodes of another model or protocol" in printed
    assert "100.0 [" in next(line for line in printed.splitlines() if line.startswith("function repetition "))


def test_other_tasks_bear_the_name_of_their_items(tmp_path) -> None:
    evaluated(tmp_path, "db", record("db", "d", *said("SELECT 1")), name="practice-db.embedded", why_not="practice")
    evaluated(tmp_path, "os", record("os", "o", *said("ls")))
    evaluated(tmp_path, "os", *(record("os", f"p{n}", *said("ls")) for n in range(3)), name="practice-os.embedded")
    panels = error_figure.panels([error_figure.read("x", tmp_path)])
    shown = [(panel.title, [one.n for one in panel.series]) for panel in panels]
    names = {"os": 1, "practice-db.embedded": 1, "practice-os.embedded": 3}
    assert shown == [(f"{name} (not in the paper's figure)", [n]) for name, n in names.items()]


def test_practice_is_told_from_the_benchmark_that_was_played_too(tmp_path) -> None:
    evaluated(tmp_path, "kg", *(record("kg", f"k{n}", *said("f(x)")) for n in range(5)))
    evaluated(tmp_path, "kg", record("kg", "p", *said("f(x)")), name="practice-kg.embedded", why_not="practice")
    one = error_figure.read("x", tmp_path)
    assert (len(one.benchmark), len(one.practice)) == (5, 1)


def test_practice_items_and_a_part_of_the_benchmark_share_no_bar(tmp_path) -> None:
    evaluated(tmp_path, "kg", *(record("kg", f"kg-dev_{n}", *said("f(x)", "f(x)")) for n in range(4)),
              name="kg-dev.embedded", why_not="a part")  # fmt: skip
    evaluated(tmp_path, "kg", *(record("kg", f"kg_test_{n}", *said("f(x)")) for n in range(3)),
              name="practice-kg.embedded", why_not="practice")  # fmt: skip
    [_, alone] = error_figure.panels([error_figure.read("x", tmp_path)])
    assert [(one.name, one.n) for one in alone.series] == [
        ("ours, x, practice items", 3), ("ours, x, the benchmark's items", 4),
    ]  # fmt: skip
    assert [bar.count for bar in alone.bars["function_repetition"]] == [0, 4]


def test_an_evaluation_that_was_all_lost_is_left_out_and_told(tmp_path, recipe, capsys, caplog) -> None:
    run = tmp_path / "run/eval"
    gone = record("kg", "k", status="agent_error", reward=None, error="refused")
    evaluated(run / "served-a/held-in/paper-text", "kg", gone)
    evaluated(run / "served-b/held-in/paper-text", "kg", record("kg", "k", *said("f(x)")))
    assert [one.name for one in error_figure.find(recipe.run_dir)] == ["served-b, paper-text"]
    assert "served-a/held-in/paper-text holds no result of a model, 1 lost" in caplog.text


def test_a_task_that_the_figure_lacks_has_a_panel_of_its_own(tmp_path, recipe, capsys) -> None:
    folder = stored(tmp_path / "mine", *(record("shop", f"s{n}", *said("buy")) for n in range(4)))
    error_page.errors(recipe, folder)
    printed = capsys.readouterr().out
    assert "shop (not in the paper's figure)" in printed and "ours, mine (n=4)" in printed
    assert "Llama-2-chat" not in printed


def test_several_samples_of_an_item_are_said_to_be_dependent(tmp_path) -> None:
    folder = stored(tmp_path / "x", *(record("kg", "k", *said("f(x)"), sample=n) for n in range(3)))
    [_, alone] = error_figure.panels([error_figure.read("x", folder)])
    assert "too narrow" in alone.series[0].note


def test_nothing_played(tmp_path, recipe, capsys, monkeypatch) -> None:
    error_page.errors(recipe)
    assert capsys.readouterr().out.count("ours: not measured") == 2
    assert cli.main(["errors", "recipes/agentlm-tiny/sft.yaml", "--run-dir", str(tmp_path / "none")]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    lost = stored(tmp_path / "lost", record(status="cancelled", reward=None))
    with pytest.raises(UserError, match="no result of a model"):
        error_page.errors(recipe, lost)


def test_names_of_a_file_are_text(tmp_path, recipe, capsys) -> None:
    played = [record(HOSTILE, "s", *said("buy"), backend=HOSTILE, model=HOSTILE, protocol=HOSTILE)]
    path = error_page.errors(recipe, stored(tmp_path / "x", *played))
    printed, text = capsys.readouterr().out, path.read_text(encoding="utf-8")
    assert not {"\x1b", "\x9b", "\u202e", "\ud800"} & set(printed + text)
    assert not {"script", "img"} & {tag for tag, _ in Page(text).tags} and "{{ 7*7 }}" in Page(text).text


def test_the_verb(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(REPOSITORY)
    folder = stored(tmp_path / "mine", record("kg", "k", *said("f(x)")))
    assert cli.main(["errors", R13, "--episodes", str(folder), "--run-dir", str(tmp_path / "run")]) == 0
    assert "ours, mine (n=1)" in capsys.readouterr().out and (tmp_path / "run/errors.html").is_file()


def test_kinds_survive_the_file(tmp_path) -> None:
    one = record("kg", "k", ("Action: f(x)", step("f(x)", False, "function_call"), "No."))
    folder = stored(tmp_path, json.loads(json.dumps(one)))
    assert index.read(folder).entries[0].kinds == ("function_call_error",)
