"""Known answers: intervals and tests against published values, scores of players whose result is known."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import TASKS, room
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.protocols.messages import own
from agenttuning.scoring import errors, intervals, power, scores, significance
from helpers import toy_task
from helpers.paper_scores import won


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(k, n, low, high) -> None:
    assert intervals.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_wilson_properties(a, b) -> None:
    k, n = min(a, b), max(a, b)
    low, high = intervals.wilson(k, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= k / n <= high
        mirrored = intervals.wilson(n - k, n)
        assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))


def test_wilson_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="5 successes of 4"):
        intervals.wilson(5, 4)


def paired(both: int, only_after: int, only_before: int, neither: int) -> tuple[float, float]:
    after = [1.0] * (both + only_after) + [0.0] * (only_before + neither)
    before = [1.0] * both + [0.0] * only_after + [1.0] * only_before + [0.0] * neither
    return intervals.paired_difference(before, after)


def test_paired_difference_against_the_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10, 36/12/2/0
    assert paired(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(*[st.integers(0, 40)] * 4)
def test_paired_difference_properties(a, b, c, d) -> None:
    if a + b + c + d == 0:
        return
    low, high = paired(a, b, c, d)
    assert -1 - 1e-9 <= low <= (b - c) / (a + b + c + d) <= high <= 1 + 1e-9
    assert paired(a, c, b, d) == pytest.approx((-high, -low))


def test_no_difference_at_the_ceiling_still_has_a_width() -> None:
    low, high = paired(50, 0, 0, 0)
    assert low < -0.05 < 0.05 < high


def test_graded_rewards_are_bootstrapped_and_seeded() -> None:
    rewards = [0.0, 1 / 3, 2 / 3, 1.0] * 30
    low, high = intervals.mean_interval(rewards)
    assert (low, high) == intervals.mean_interval(rewards) == intervals.bootstrap(rewards)
    # Normal approximation: 0.5 -+ 1.96 * 0.3727 / sqrt(120)
    assert (low, high) == pytest.approx((0.4333, 0.5667), abs=0.006)
    low, high = intervals.paired_difference(rewards, [1.0] * 120)
    assert (low, high) == pytest.approx((0.4333, 0.5667), abs=0.006)


def test_interval_of_a_mean_of_estimates() -> None:
    assert intervals.mean_of([0.5], [(0.4, 0.7)]) == pytest.approx((0.4, 0.7))
    assert intervals.mean_of([0.2, 0.4], [(0.1, 0.3), (0.3, 0.5)]) == pytest.approx(
        (0.3 - 0.0707, 0.3 + 0.0707), abs=1e-4
    )


def test_the_interval_of_a_difference_against_the_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10: 56/70 - 48/80 and 9/10 - 3/10
    for (a, m), (b, n), wanted in (((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090))):
        found = intervals.difference(b / n, intervals.wilson(b, n), a / m, intervals.wilson(a, m))
        assert found == pytest.approx(wanted, abs=5e-5)


def seen(p: float, other: float, n: int) -> float:
    """The chance that two draws of n from p and other are told apart by the interval of their difference: exact."""

    def chances(of: float) -> list[float]:
        return [math.comb(n, k) * of**k * (1 - of) ** (n - k) for k in range(n + 1)]

    wilson, total = [intervals.wilson(k, n) for k in range(n + 1)], 0.0
    for a, chance in enumerate(chances(p)):
        for b, other_chance in enumerate(chances(other)):
            if chance * other_chance > 1e-9:
                low, high = intervals.difference(a / n, wilson[a], b / n, wilson[b])
                total += chance * other_chance * (low > 0 or high < 0)
    return total


@pytest.mark.parametrize(("k", "n"), [(42, 50), (38, 50), (1, 50), (13, 72)])
def test_what_is_called_detectable_is_seen_four_times_in_five_and_nothing_once_in_twenty(k, n) -> None:
    p = k / n
    apart = power.detectable_proportion(p, n, n)
    ends = [seen(p, other, n) for other in (p - apart, p + apart) if 0 <= other <= 1]
    assert min(ends) == pytest.approx(0.8, abs=0.03)
    assert seen(p, p, n) <= 0.06


def test_detectable_differences_by_hand() -> None:
    # p = 0.5, n = m = 200: d solves d = 1.96 sqrt(2 q (1-q) / 200) + 0.8416 sqrt((0.25 + r (1-r)) / 200)
    assert power.detectable_proportion(0.5, 200, 200) == pytest.approx(0.1383, abs=5e-4)
    assert power.detectable_proportion(0.0, 1, 1) is None, "one item shows nothing"
    # a mean of 100 items with a standard error of 2: (1.96 + 0.8416) x 2 x sqrt(2)
    of_two = (50 - 2 * intervals.Z, 50 + 2 * intervals.Z)
    assert power.detectable_mean(of_two, 100, 100) == pytest.approx(7.924, abs=1e-3)
    with pytest.raises(ValueError, match="n 0"):
        power.detectable_proportion(0.5, 0, 3)


def test_mcnemar_by_hand() -> None:
    # 10 better, 2 worse: 2 x (C(12,0) + C(12,1) + C(12,2)) / 2^12
    before, after = [0.0] * 10 + [1.0] * 2 + [1.0] * 30, [1.0] * 10 + [0.0] * 2 + [1.0] * 30
    assert significance.paired_p(before, after) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert significance.paired_p(before, before) == 1.0
    assert significance.paired_p([0.0, 1.0], [1.0, 0.0]) == 1.0
    # 5,500 of 10,000: z = 10, the normal tail with the correction for whole numbers gives 1.7e-23, exactly it is
    half, most = won(5500, 10_000), [1.0 - value for value in won(5500, 10_000)]
    assert significance.paired_p(half, most) == pytest.approx(1.551e-23, rel=1e-3)
    with pytest.raises(ValueError, match="1 and 2"):
        significance.paired_p([1.0], [1.0, 0.0])


def test_sign_flips_by_hand() -> None:
    # five differences of one sign: of the 32 draws of signs 2 are as far from 0
    five = [0.5] * 5, [0.6, 0.7, 0.8, 0.9, 0.65]
    assert significance.paired_p(*five) == pytest.approx(2 / 32, abs=0.01)
    assert significance.paired_p(*five) == significance.paired_p(*five), "seeded"
    assert significance.paired_p([0.5, 0.2], [0.5, 0.2]) == 1.0
    many = [number / 100 for number in range(100)]
    assert significance.paired_p(many, [value + 0.001 for value in many]) == 1 / 10_001


def played(policy, model, task=None, n=12) -> list[dict]:
    protocol = protocols.load()
    records = []
    for module in [TASKS[task]] if task else TASKS.values():
        items = module.items("test", n, 0)
        settings = {"model": model, "seed": 0, "wait_s": 0, "progress": False}
        records += play(room(module), items, policy, protocol, own(module), **settings)
    return records


def mute(turns):
    return [""] * len(turns)


def test_the_oracle_has_100_and_a_mute_model_0() -> None:
    protocol = protocols.load()
    for policy, wanted in ((expert, 100.0), (mute, 0.0)):
        found = scores.score_records(played(policy, "m"), protocol)
        assert {entry["score"] for entry in found["tasks"].values()} == {wanted}
        assert {entry["success_rate"] for entry in found["tasks"].values()} == {wanted}
        assert found["groups"]["held_in"]["score"] == found["groups"]["held_out"]["score"] == wanted
        assert found["groups"]["held_in"]["tasks"] == ["household", "database", "shop"]
        low, high = found["tasks"]["household"]["interval"]
        assert low <= wanted <= high
        assert high - low > 10
        assert all(
            entry["n"] == 12 and entry["asked"] == 150 and entry["void"] is None for entry in found["tasks"].values()
        )
    assert found["tasks"]["shop"]["statuses"] == {"invalid_format": 12}
    assert found["tasks"]["shop"]["errors"]["format"] == 1.0


def record(item="a", reward=1.0, state="completed", **more) -> dict:
    base = {
        "task": "toy",
        "protocol": "toy@1",
        "item": item,
        "seed": 0,
        "model": "m",
        "status": state,
        "reward": reward,
    }
    return {**base, "messages": [], "steps": [], "last": None, **more}


def test_mean_reward_and_success_rate_differ_where_rewards_are_graded() -> None:
    records = [record(str(n), reward) for n, reward in enumerate((1.0, 0.5, 0.5, 0.0))]
    entry = scores.score_task(records, toy_task.PROTOCOL)
    assert (entry["mean_reward"], entry["success_rate"], entry["score"]) == (50.0, 25.0, 25.0)
    assert entry["success_interval"] == [100 * end for end in intervals.wilson(1, 4)]


def test_the_newest_record_of_an_item_counts() -> None:
    records = [record(reward=None, state="agent_error"), record(reward=1.0)]
    assert scores.score_records(records, toy_task.PROTOCOL)["tasks"]["toy"]["n"] == 1


def test_a_void_task_voids_its_group_average() -> None:
    records = [record("a"), record("b", None, "environment_error")]
    found = scores.score_records(records, toy_task.PROTOCOL)
    assert found["tasks"]["toy"]["void"] == "1 of 2 episodes lost to infrastructure, 20% are allowed"
    assert found["groups"]["held_in"] == {"tasks": ["toy"], "score": None, "interval": None}


@pytest.mark.parametrize("change", [{"model": "other"}, {"protocol": "toy@2"}])
def test_records_that_do_not_belong_together_are_refused(change) -> None:
    with pytest.raises(UserError, match="would mean nothing"):
        scores.score_records([record(), {**record("b"), **change}], toy_task.PROTOCOL)


def test_scores_file_round_trip(tmp_path) -> None:
    found = scores.score_records([record()], toy_task.PROTOCOL, {"commit": "abc"})
    assert scores.read(scores.write(found, tmp_path)) == json.loads(json.dumps(found))
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
    (tmp_path / "scores.json").write_text('{"schema": 0, "tasks": {}}')
    with pytest.raises(UserError, match="schema 1"):
        scores.read(tmp_path / "scores.json")


def trajectory(*pairs, state="task_limit") -> dict:
    """Pairs of (action, observation); a reply is its action."""
    messages = [{"role": "user", "content": "start", "loss": False}]
    for action, observation in pairs:
        messages.append({"role": "assistant", "content": f"Action: {action}", "loss": True})
        messages.append({"role": "user", "content": observation, "loss": False})
    steps = [{"action": action, "valid": observation != "No.", "cut": False} for action, observation in pairs]
    return record(state=state, reward=0.0, messages=messages[:-1], steps=steps, last=pairs[-1][1])


@pytest.mark.parametrize(
    ("pairs", "kinds"),
    [
        ([("a", "1"), ("b", "2")], set()),
        ([("a", "No.")], {"invalid_action"}),
        ([("a", "1")] * 2, set()),
        ([("a", "1")] * 3, {"short_term_repetition"}),
        ([("a", "1"), ("b", "2")] * 2, set()),
        ([("a", "1"), ("b", "2")] * 3, {"long_term_repetition"}),
        ([("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("a", "5")], set()),
        ([("a", "1"), ("b", "2"), ("c", "3"), ("a", "1"), ("d", "4"), ("a", "1")], {"long_term_repetition"}),
    ],
)
def test_error_kinds(pairs, kinds) -> None:
    assert errors.kinds(trajectory(*pairs, state="completed")) == kinds
    assert errors.kinds(trajectory(*pairs)) == kinds | {"task_limit"}


@pytest.mark.parametrize(("state", "kind"), [("refusal", "refusal"), ("invalid_format", "format")])
def test_error_kinds_of_a_status(state, kind) -> None:
    without_action = record(state=state, reward=0.0, steps=[{"action": None, "valid": False, "cut": False}])
    assert errors.kinds(without_action) == {kind}
    assert errors.rates([without_action, record()])[kind] == 0.5


def test_the_interval_over_seeds_is_students() -> None:
    # mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.302653 (any table)
    assert intervals.over_seeds([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert intervals.over_seeds([5.0, 5.0]) == (5.0, 5.0)
    with pytest.raises(ValueError, match="needs two"):
        intervals.over_seeds([1.0])
