"""Shares within tolerance, exact draws, whole epochs, and the same order for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from agenttuning.data import mixture
from agenttuning.data.pool import Pool
from agenttuning.data.quarantine import Quarantine
from agenttuning.errors import UserError

# The paper's mixture: 1,866 trajectories, 3,670 GPT-4 and 57,096 GPT-3.5 conversations at 0.2, 0.16 and 0.64.
PAPER_SIZES = {"agent": 1866, "gpt4": 3670, "gpt35": 57096}
PAPER_SHARES = {"agent": 0.2, "gpt4": 0.16, "gpt35": 0.64}


def drawn(order, name):
    return order.rows[order.sources == order.names.index(name)]


def test_shares_and_exact_draws():
    draws = 20_000
    order = mixture.draw(PAPER_SIZES, PAPER_SHARES, draws, seed=42)
    assert len(order.rows) == len(order.sources) == draws
    for name, share in PAPER_SHARES.items():
        deviation = (share * (1 - share) / draws) ** 0.5
        assert abs(len(drawn(order, name)) / draws - share) < 4 * deviation, name
    # The order is mixed, not one block after another.
    halves = numpy.array_split(order.sources == order.names.index("agent"), 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 0.02


def test_small_source_is_oversampled_in_whole_shuffled_epochs():
    order = mixture.draw({"agent": 10, "chat": 1000}, {"agent": 0.5, "chat": 0.5}, 400, seed=1)
    rows = drawn(order, "agent")
    assert 150 < len(rows) < 250
    epochs = [rows[start : start + 10].tolist() for start in range(0, len(rows) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) - 2
    chat = drawn(order, "chat")
    assert len(set(chat.tolist())) == len(chat), "a source larger than its draws repeats nothing"


def test_determinism_and_seed():
    first = mixture.draw({"a": 50, "b": 80}, {"a": 0.3, "b": 0.7}, 500, seed=7)
    again = mixture.draw({"b": 80, "a": 50}, {"b": 0.7, "a": 0.3}, 500, seed=7)
    other = mixture.draw({"a": 50, "b": 80}, {"a": 0.3, "b": 0.7}, 500, seed=8)
    assert first.names == again.names
    assert (first.sources == again.sources).all() and (first.rows == again.rows).all()
    assert (first.sources != other.sources).any() and (first.rows != other.rows).any()


def test_longer_begins_with_shorter():
    short = mixture.draw({"a": 50, "b": 80}, {"a": 0.3, "b": 0.7}, 100, seed=7)
    long = mixture.draw({"a": 50, "b": 80}, {"a": 0.3, "b": 0.7}, 3000, seed=7).cut(100)
    assert (short.sources == long.sources).all() and (short.rows == long.rows).all()


@pytest.mark.parametrize("draws", [1, 2, 17])
def test_few_draws(draws):
    assert len(mixture.draw({"a": 1, "b": 3}, {"a": 0.01, "b": 0.99}, draws, seed=3).rows) == draws


def test_one_source_and_absent_source():
    order = mixture.draw({"a": 4, "b": 9}, {"a": 1.0, "b": 0.0}, 10, seed=3)
    assert order.names == ["a"] and sorted(order.rows[:4].tolist()) == [0, 1, 2, 3]


def test_empty_source_is_refused():
    with pytest.raises(UserError, match="no rows left"):
        mixture.draw({"a": 0, "b": 9}, {"a": 0.5, "b": 0.5}, 10, seed=3)


def pool(name, lengths):
    aside = Quarantine(name, read=len(lengths) + 1, records=[{"reason": "x"}])
    splits = ["odd" if row % 2 else "even" for row in range(len(lengths))]
    halves = [length // 2 for length in lengths]
    return Pool(
        name, Path("unused"), aside, lengths=list(lengths), supervised=halves, supervised_read=10**6, splits=splits
    )


def test_draws_measured_in_tokens():
    pools = {"a": pool("a", [100, 200, 300]), "b": pool("b", range(10, 1000))}
    shares = {"a": 0.3, "b": 0.7}
    order = mixture.draw_tokens(pools, shares, 50_000, seed=5)
    lengths = mixture.lengths_of(order, pools, "lengths")
    assert lengths.sum() >= 50_000 > lengths[:-1].sum()
    full = mixture.draw({"a": 3, "b": 990}, shares, 400, seed=5).cut(len(order.rows))
    assert (order.rows == full.rows).all()


def test_draws_measured_in_tokens_with_one_giant():
    """The mean misleads when nearly all tokens sit in one row: the sum is still reached."""
    pools = {"a": pool("a", [1] * 999 + [10**6])}
    order = mixture.draw_tokens(pools, {"a": 1.0}, 500, seed=5)
    assert mixture.lengths_of(order, pools, "lengths").sum() >= 500


def test_realised_record_adds_up():
    pools = {"a": pool("a", [100, 200, 300]), "b": pool("b", range(10, 1000))}
    shares = {"a": 0.25, "b": 0.75}
    order = mixture.draw({"a": 3, "b": 990}, shares, 1000, seed=5)
    record = mixture.realised(order, pools, shares)
    assert sum(source["draws"] for source in record.values()) == 1000
    for key in ("share_realised", "share_of_tokens", "share_of_supervised_tokens"):
        assert sum(source[key] for source in record.values()) == pytest.approx(1)
    a = record["a"]
    assert a["tokens"] == sum([100, 200, 300][row] for row in drawn(order, "a"))
    assert a["epochs"] == a["draws"] / 3 and a["rows_drawn"] == 3 and a["rows"] == 3 and a["quarantined"] == 1
    assert a["share_asked"] == 0.25 and a["share_of_tokens"] != a["share_realised"]


def in_parts(splits, draws=4000):
    pools = {"a": pool("a", range(10, 40)), "b": pool("b", range(100, 900))}

    def pick(parts, shares):
        return mixture.draw({name: len(part.lengths) for name, part in parts.items()}, shares, draws, seed=5)

    return mixture.by_split(pools, {"a": 0.25, "b": 0.75}, splits, pick), pick, pools


def test_splits_have_the_shares_of_their_source():
    order, _, pools = in_parts({"a": {"even": 0.9, "odd": 0.1}, "b": None})
    a = order.rows[order.sources == order.names.index("a")]
    assert order.names == ["a", "b"] and abs(len(a) / 4000 - 0.25) < 0.03
    assert abs((a % 2 == 0).mean() - 0.9) < 0.04 and set(a.tolist()) == set(range(30))
    record = mixture.realised(order, pools, {"a": 0.25, "b": 0.75})
    assert record["a"]["draws_of_splits"] == {"even": int((a % 2 == 0).sum()), "odd": int((a % 2 == 1).sum())}


def test_without_splits_the_order_is_what_it_was():
    order, pick, pools = in_parts({"a": None, "b": None})
    plain = pick(pools, {"a": 0.25, "b": 0.75})
    assert (order.sources == plain.sources).all() and (order.rows == plain.rows).all()


def test_a_split_without_rows_is_named():
    with pytest.raises(UserError, match="'third'.*splits with rows: even, odd"):
        in_parts({"a": {"even": 0.5, "third": 0.5}})
