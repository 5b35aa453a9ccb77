"""Verdicts, differences, overalls and pairs over scores files whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning import cli
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import compare, comparison, published, scores
from agenttuning.scoring.comparison import Comparison, Row
from agenttuning.scoring.results import gather
from helpers.paper_scores import as_published, graded, won, write

HELD_IN = ["os", "db", "kg", "alfworld", "webshop", "mind2web"]
GENERAL = ["mmlu", "gsm8k", "humaneval", "mt_bench"]
PAPER_TEXT, PAPER = ("held-in/paper-text", "paper-text@1"), ("general/paper/transformers", "paper@1")


def made(tmp_path: Path, size: str = "7b", elsewhere: tuple = ()) -> Comparison:
    found = compare.make(f"agentlm-{size}/sft", size, gather(tmp_path, elsewhere), lambda side, task: "not yet")
    comparison.write(found, tmp_path)
    assert comparison.read(tmp_path) == found
    return found


def row(found: Comparison, side: str, task: str) -> Row:
    [one] = [row for row in found.rows if (row.side, row.task, row.beside) == (side, task, False)]
    return one


def beside(found: Comparison, side: str, task: str) -> list[Row]:
    return [row for row in found.rows if (row.side, row.task, row.beside) == (side, task, True)]


def test_what_equals_the_published_scores_is_consistent_and_has_their_overalls(tmp_path) -> None:
    for side in comparison.SIDES:
        write(tmp_path, side, *PAPER_TEXT, as_published("7b", side, HELD_IN))
        write(tmp_path, side, *PAPER, as_published("7b", side, GENERAL))
    found = made(tmp_path)
    for one in found.rows:
        ran = one.group != "held_out"
        assert one.verdict == ("consistent" if ran else "not run"), one
        if ran:
            assert one.difference == pytest.approx(0, abs=0.35) and one.detectable > 0 and one.scores and one.protocol
            assert one.interval[0] <= one.ours <= one.interval[1]
            assert one.difference_interval[0] < 0 < one.difference_interval[1]
    whole = {(one.side, one.group): one for one in found.overalls}
    assert (
        whole["tuned", "held_in"].ours == pytest.approx(1.96, abs=0.01) and whole["tuned", "held_in"].published == 1.96
    )
    assert whole["base", "general"].ours == pytest.approx(0.63, abs=0.01)
    assert whole["released", "held_out"].ours is None and whole["released", "held_out"].tasks == ()
    low, high = whole["tuned", "held_in"].interval
    assert low < 1.96 < high
    assert len(found.rows) == 48 and len(found.overalls) == 9


@pytest.mark.parametrize(
    ("k", "verdict"),
    [
        # 42/50 published. Newcombe by hand for 33/50: Wilson [71.5, 91.7] and [52.2, 77.6], difference -18 with an
        # upper end of -18 + sqrt((77.6 - 66)^2 + (84 - 71.5)^2) = -18 + 17.1 < 0; for 34/50 -16 + 16.9 > 0
        (33, "differs"),
        (34, "consistent"),
        (42, "consistent"),
        (50, "differs"),  # upwards: +16 - sqrt((100 - 92.9)^2 + (91.7 - 84)^2) = +16 - 10.4 > 0
        (46, "consistent"),
        (0, "differs"),
    ],
)
def test_a_verdict_turns_where_the_interval_of_the_difference_leaves_nothing_out(tmp_path, k, verdict) -> None:
    write(tmp_path, "tuned", *PAPER_TEXT, {"alfworld": won(k, 50)})
    one = row(made(tmp_path), "tuned", "alfworld")
    assert (one.verdict, one.n, one.published_n) == (verdict, 50, 50)
    assert one.published_interval == pytest.approx((71.5, 91.7), abs=0.05)
    assert one.difference == pytest.approx(2 * k - 84)
    if k == 33:
        assert one.difference_interval == pytest.approx((-33.9, -0.94), abs=0.1)
        assert one.detectable == pytest.approx(25.0, abs=0.05)


def test_a_mean_without_published_spread_borrows_ours_and_says_so(tmp_path) -> None:
    # KG 13B: 26.8 published over 150. Rewards 0 and twice the mean: standard error = mean / sqrt(150)
    write(tmp_path, "tuned", *PAPER_TEXT, {"kg": graded(0.30, 150), "webshop": graded(0.60, 200)})
    found = made(tmp_path, "13b")
    one = row(found, "tuned", "kg")
    error = 100 * 0.30 / 150**0.5
    assert one.published_interval is None and one.verdict == "consistent"
    assert one.difference == pytest.approx(3.2)
    assert one.difference_interval == pytest.approx(
        (3.2 - 1.96 * error * 2**0.5, 3.2 + 1.96 * error * 2**0.5), abs=0.35
    )
    assert one.detectable == pytest.approx((1.96 + 0.8416) * error * 2**0.5, abs=0.35)
    assert "ours is taken for both" in one.why
    assert row(found, "tuned", "webshop").verdict == "differs"  # 60.0, and 70.8 was published


def test_a_borrowed_spread_is_that_of_the_published_n(tmp_path) -> None:
    write(tmp_path, "tuned", *PAPER_TEXT, {"kg": (graded(0.30, 110), {"lost": 40})})
    one = row(made(tmp_path, "13b"), "tuned", "kg")
    widths = [one.interval[1] - one.ours, one.ours - one.interval[0]]
    ends = [((110 / 150) * other**2 + mine**2) ** 0.5 for mine, other in (widths[::-1], widths)]
    assert one.difference_interval == pytest.approx((3.2 - ends[0], 3.2 + ends[1]))
    error = (one.interval[1] - one.interval[0]) / (2 * 1.959964)
    assert one.detectable == pytest.approx((1.959964 + 0.841621) * error * (1 + 110 / 150) ** 0.5, rel=1e-4)


def test_consistent_says_when_n_could_not_have_told_it_from_the_other_model(tmp_path) -> None:
    # OS 13B: base 9.0, tuned 18.1, n 144: a difference of 9.1 is not seen reliably. ALFWorld's 74 points are.
    write(tmp_path, "tuned", *PAPER_TEXT, {"os": won(26, 144), "alfworld": won(38, 50)})
    found = made(tmp_path, "13b")
    assert row(found, "tuned", "os").why == "n is too small to tell it reliably from llama-2-13b-chat's 9.0"
    assert row(found, "tuned", "os").detectable > 9.1
    assert row(found, "tuned", "alfworld").why == ""


def test_void_lost_and_partial_scores_are_named_as_what_they_are(tmp_path) -> None:
    void = {"void": "292 of 300 episodes lost to infrastructure", "score": None, "interval": None, "lost": 292}
    practice = {"task": "kg", "not_comparable": "practice items of our own"}
    write(tmp_path, "tuned", *PAPER_TEXT, {
        "db": (won(5, 8), void), "os": (won(20, 141), {"lost": 3}), "alfworld": won(3, 10),
        "practice-kg.embedded": (graded(0.5, 12), practice), "webshop": (graded(0.5, 200), {"interval": None}),
    })  # fmt: skip
    found = made(tmp_path)
    db, os, alfworld = (row(found, "tuned", task) for task in ("db", "os", "alfworld"))
    assert (db.verdict, db.why, db.ours) == ("not comparable", f"void: {void['void']}", None)
    assert (os.verdict, os.n) == ("consistent", 141) and "3 of 144 items lost to infrastructure" in os.why
    assert (alfworld.verdict, alfworld.why) == ("not comparable", "10 items, and the published score is over 50")
    assert row(found, "tuned", "webshop").why == "its file holds no interval"
    assert row(found, "tuned", "kg").verdict == "not run", "practice items are no score of the benchmark"
    [kg] = beside(found, "tuned", "kg")
    assert (kg.verdict, kg.why, kg.n) == ("not comparable", "practice items of our own", 12)
    assert {one.tasks for one in found.overalls if one.side == "tuned"} == {("os",), ()}


def test_a_score_that_bears_the_name_and_may_not_stand_beside_the_papers_was_run(tmp_path) -> None:
    other = {"not_comparable": "judged by another, the paper by GPT-4 of 2023", "judge": {"model": "another"}}
    write(tmp_path, "tuned", *PAPER, {"mt_bench": ([6.0, 7.0] * 40, other)})
    one = row(made(tmp_path), "tuned", "mt_bench")
    assert (one.verdict, one.why, one.ours) == ("not comparable", other["not_comparable"], 6.5)
    write(tmp_path, "tuned", "general/paper/server", "paper@1", {"mt_bench": [6.0, 7.0] * 40})
    found = made(tmp_path)
    assert row(found, "tuned", "mt_bench").backend == "server", "a score that may stand there goes first"
    assert [one.why for one in beside(found, "tuned", "mt_bench")] == [other["not_comparable"]]


def test_protocols_and_backends_are_never_mixed_in_a_row(tmp_path) -> None:
    write(tmp_path, "tuned", *PAPER, {"mmlu": won(7500, 14042)})
    write(tmp_path, "tuned", "general/paper/vllm", "paper@1", {"mmlu": won(7000, 14042), "gsm8k": won(300, 1319)})
    write(tmp_path, "tuned", "general/corrected/transformers", "corrected@1", {"mmlu": won(8000, 14042)})
    write(tmp_path, "tuned", "held-in/paper-code", "paper-code@1", {"alfworld": won(40, 50), "os": won(30, 144)})
    write(tmp_path, "tuned", *PAPER_TEXT, {"alfworld": won(42, 50)})
    write(tmp_path, "tuned", "", "miniature@1", {"mmlu": won(1, 4)})
    found = made(tmp_path)
    mmlu = row(found, "tuned", "mmlu")
    assert (mmlu.protocol, mmlu.backend, mmlu.n) == ("paper@1", "transformers", 14042)
    assert {(one.protocol, one.why) for one in beside(found, "tuned", "mmlu")} == {
        ("miniature@1", "protocol miniature@1 is not the paper's"),
        ("corrected@1", "protocol corrected@1 is not the paper's"),
        ("paper@1", "the verdict is given for backend transformers"),
    }
    assert row(found, "tuned", "gsm8k").backend == "vllm"
    assert row(found, "tuned", "alfworld").protocol == "paper-text@1"
    assert [one.why for one in beside(found, "tuned", "alfworld")] == ["the verdict is given for paper-text@1"]
    assert "there is no score by paper-text" in row(found, "tuned", "os").why
    [held_in] = [one for one in found.overalls if (one.side, one.group) == ("tuned", "held_in")]
    assert held_in.tasks in (("alfworld",), ("os",)), "one protocol an overall"


def test_an_overall_over_some_tasks_stands_beside_the_published_one_over_the_same(tmp_path) -> None:
    write(tmp_path, "base", *PAPER_TEXT, {"alfworld": won(5, 50), "os": won(13, 144)})
    found, paper = made(tmp_path), published.load()
    [one] = [one for one in found.overalls if (one.side, one.group) == ("base", "held_in")]
    divisors = paper.divisors
    assert one.tasks == ("alfworld", "os") and one.of == 6 and one.published == 0.19
    assert one.ours == pytest.approx((10 / divisors["alfworld"] + 100 * 13 / 144 / divisors["os"]) / 2)
    assert one.published_same == pytest.approx((2.0 / divisors["alfworld"] + 8.3 / divisors["os"]) / 2)
    alfworld, os = (row(found, "base", task) for task in ("alfworld", "os"))
    below = [(r.ours - r.interval[0]) / divisors[r.task] for r in (alfworld, os)]
    assert one.ours - one.interval[0] == pytest.approx((below[0] ** 2 + below[1] ** 2) ** 0.5 / 2)


def rated(first: float, second: float) -> tuple[list[float], dict]:
    """Ratings of the two turns of 80 questions, as MT-Bench's entry has them."""
    turns = {f"{question}/{turn}": (first, second)[turn - 1] for question in range(81, 161) for turn in (1, 2)}
    return [(first + second) / 2] * 80, {"rewards": turns}


def test_models_that_ran_the_same_items_are_tested_in_pairs(tmp_path) -> None:
    # 30 items better, none worse: p = 2 x 2^-30
    write(tmp_path, "base", *PAPER_TEXT, {"alfworld": won(10, 50), "kg": [0.5] * 150})
    write(tmp_path, "tuned", *PAPER_TEXT, {"alfworld": won(40, 50), "kg": [0.6] * 150})
    write(tmp_path, "released", *PAPER_TEXT, {"alfworld": won(41, 50)})
    write(tmp_path, "tuned", *PAPER, {"gsm8k": won(300, 1319), "mt_bench": rated(5.0, 7.0)})
    rates = {"gsm8k": won(330, 1319), "mt_bench": rated(5.5, 7.0)}
    write(tmp_path, "tuned", "general/paper/vllm", "paper@1", rates)
    write(tmp_path, "base", "general/paper/server", "paper@1", {"gsm8k": won(300, 1319)})  # another backend: no pair
    void = {"void": "9 of 144 episodes lost", "score": None, "interval": None}
    for side in ("base", "tuned"):
        write(tmp_path, side, "held-in/paper-code", "paper-code@1", {"os": (won(9, 135), void)})
    pairs = {(one.what, one.task): one for one in made(tmp_path).pairs}
    assert set(pairs) == {
        ("tuned - base", "alfworld"), ("tuned - base", "kg"), ("released - base", "alfworld"),
        ("tuned - released", "alfworld"), ("tuned: vllm - transformers", "gsm8k"),
        ("tuned: vllm - transformers", "mt_bench"),
    }  # fmt: skip
    write(tmp_path, "base", "general/paper/vllm", "paper@1", {"gsm8k": won(300, 1319)})
    again = {(one.what, one.task) for one in made(tmp_path).pairs} - set(pairs)
    assert again == {("tuned - base, vllm", "gsm8k"), ("base: vllm - server", "gsm8k")}, "which backend is said"
    one = pairs["tuned - base", "alfworld"]
    assert (one.first, one.second, one.n, one.protocol) == ("base", "tuned", 50, "paper-text@1")
    assert one.difference == pytest.approx(60) and one.p == pytest.approx(2 / 2**30, rel=1e-6)
    assert one.interval[0] > 40 and one.interval[1] < 80
    assert pairs["tuned - released", "alfworld"].difference == pytest.approx(-2)
    assert pairs["tuned - base", "kg"].difference == pytest.approx(10) and pairs["tuned - base", "kg"].p < 0.001
    assert pairs["tuned: vllm - transformers", "mt_bench"].difference == pytest.approx(0.25), "ratings are not x 100"
    assert pairs["tuned: vllm - transformers", "mt_bench"].n == 80, "two turns are one question"
    assert pairs["tuned: vllm - transformers", "gsm8k"].difference == pytest.approx(100 * 30 / 1319)


@pytest.mark.parametrize(
    "change",
    [
        {"items_sha256": "b"},
        {"data": {"sha256": "b"}},
        {"prompts": {"digests": ["b"]}},
        {"judge": {"model": "b"}},
        {"backend": {"asked_by": "b"}},
    ],
)
def test_results_over_other_items_prompts_or_judges_are_no_pair(tmp_path, change) -> None:
    same = {key: ("a" if isinstance(value, str) else dict.fromkeys(value, ["a"])) for key, value in change.items()}
    write(tmp_path, "base", *PAPER_TEXT, {"alfworld": (won(10, 50), same)})
    write(tmp_path, "tuned", *PAPER_TEXT, {"alfworld": (won(10, 50), same)})
    assert len(made(tmp_path).pairs) == 1
    write(tmp_path, "tuned", *PAPER_TEXT, {"alfworld": (won(10, 50), change)})
    assert made(tmp_path).pairs == ()


def test_results_of_another_machine_are_added_by_folder_or_side(tmp_path) -> None:
    write(tmp_path / "far", "released", *PAPER_TEXT, {"alfworld": won(40, 50)})
    write(tmp_path / "far", "served-x", *PAPER_TEXT, {"alfworld": won(41, 50)})
    far = tmp_path / "far"
    for words in (
        [str(far), f"tuned={far / 'eval/served-x'}"],
        [str(far / "eval"), f"tuned={far / 'eval/served-x'}"],
        [str(far / "eval/released"), f"tuned={far / 'eval/served-x'}"],
    ):
        found = made(tmp_path / "run", elsewhere=words)
        assert row(found, "released", "alfworld").ours == 80 and row(found, "tuned", "alfworld").ours == 82
        assert row(found, "tuned", "alfworld").scores == str(far / "eval/served-x/held-in/paper-text/scores.json")
    with pytest.raises(UserError, match="it would add nothing"):
        made(tmp_path / "run", elsewhere=[str(tmp_path / "run")])
    write(tmp_path / "run", "released", *PAPER_TEXT, {"alfworld": won(1, 50)})
    with pytest.raises(UserError, match="both hold released's alfworld by paper-text@1; which one is meant is open"):
        made(tmp_path / "run", elsewhere=[str(far)])
    with pytest.raises(UserError, match="cannot be read"):
        path = write(tmp_path / "run", "released", *PAPER_TEXT, {"alfworld": won(1, 50)})
        path.write_text("{")
        made(tmp_path / "run")


def test_the_command_line_prints_what_the_file_holds(tmp_path, capsys) -> None:
    write(tmp_path / "far", "tuned", *PAPER_TEXT, {"alfworld": won(40, 50)})
    words = ["compare", str(REPOSITORY / "recipes/agentlm-13b/sft.yaml"), "--run-dir", str(tmp_path / "run")]
    assert cli.main([*words, "--json", "--results", str(tmp_path / "far")]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "run/results/comparison.json").read_text())
    assert written == {"schema": comparison.SCHEMA, **printed} and written["size"] == "13b"
    assert cli.main([*words, "--results", str(tmp_path / "none")]) == 2
    assert "it would add nothing" in capsys.readouterr().err
    assert cli.main(words) == 0 and "this recipe starts from" not in capsys.readouterr().out
    assert cli.main([*words, "model_name_or_path=lmsys/vicuna-13b-v1.5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # lines are broken
    assert "starts from lmsys/vicuna-13b-v1.5; the published base is llama-2-13b-chat" in shown


def test_published_lines_of_a_task() -> None:
    assert compare.published_lines("agentlm-13b/sft", ["db", "practice-os.sandbox"]) == [
        "published, db: llama-2-13b-chat 1.3 [0.5, 3.4]; agentlm-13b 33.7 [28.6, 39.2]"
    ]
    assert compare.published_lines("agentlm-tiny/sft", ["db"]) == []


def test_a_scores_file_that_is_none_is_refused(tmp_path) -> None:
    path = write(tmp_path, "tuned", *PAPER_TEXT, {"alfworld": won(1, 50)})
    content = scores.read(path)
    content["tasks"]["alfworld"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="alfworld is no mapping"):
        made(tmp_path)
