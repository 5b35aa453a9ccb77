"""Forty steps of the tiny twin give the committed losses. What moves them is a change of the training itself."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import pytest

from golden import record

GOLDEN = json.loads(record.CURVE.read_text())
# Ten times the largest difference from curve.json seen among {default, AVX2, AVX-512} kernels of torch x {1, 2} threads
# and MKL/oneDNN held to SSE4 and AVX2 (2026-11-25): packed 9.3e-5, 1.5e-3, 1.3e-4; adamw 1.1e-6, 1.1e-4, 3.0e-6. Muon
# makes a direction of every rounding, so its curve spreads more. The rate is computed, not summed.
TOLERANCE = {
    "packed": {"loss": 1e-3, "grad_norm": 1.5e-2, "learning_rate": 1e-12, "loss_by_source": 1.5e-3},
    "adamw": {"loss": 1e-5, "grad_norm": 1e-3, "learning_rate": 1e-12, "loss_by_source": 3e-5},
}


def moved(name: str, found: list[dict]) -> dict[str, float]:
    """What is further from the golden curve than its tolerance."""
    apart = record.distance(found, GOLDEN["curves"][name])
    return {key: value for key, value in apart.items() if value > TOLERANCE[name].get(key, 0)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The directory of a world, and the current one while these tests run."""
    folder = tmp_path_factory.mktemp("golden")
    with chdir(folder):
        record.world(folder)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("name", record.CURVES)
def test_the_curve_is_the_committed_one(root, name):
    apart = moved(name, record.curve(root, name))
    assert not apart, (
        f"the {name} curve has moved by {apart} (relative; allowed {TOLERANCE[name]}). If the change is meant to "
        f"change what is trained, record it anew with `{record.COMMAND}` and say in the commit message what moved it, "
        f"and why. It was recorded with {GOLDEN['environment']}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("change", ["learning_rate=3.003e-3", "adam_epsilon=1.0e-7", "loss=assistant"])
def test_what_changes_the_training_moves_the_curve(root, change):
    """A thousandth of the rate, ten times the epsilon, another mask: a curve that nothing moves would prove nothing."""
    assert "loss" in moved("adamw", record.curve(root, "adamw", change))


def test_what_is_no_number_has_moved():
    curve = GOLDEN["curves"]["adamw"]
    assert not moved("adamw", curve)
    for key in ("loss", "grad_norm"):
        assert key in moved("adamw", [{**curve[0], key: float("nan")}, *curve[1:]])


def test_the_committed_curve_says_where_it_comes_from():
    environment = GOLDEN["environment"]
    assert environment["command"] == record.COMMAND and Path(record.__file__).is_file()
    assert {"torch", "transformers", "trl"} <= set(environment["versions"])
    assert environment["date"] and environment["cpu"] and environment["cpu_capability"] and environment["threads"]
    for curve in GOLDEN["curves"].values():
        assert len(curve) == 40 and curve[-1]["loss"] < curve[0]["loss"] - 3
