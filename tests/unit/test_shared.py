"""A run over several machines stops before it trains when they do not see the same folder."""

from __future__ import annotations

from types import SimpleNamespace

import accelerate.utils
import pytest

from agenttuning import launch
from agenttuning.errors import UserError
from agenttuning.training import shared


@pytest.fixture
def two(monkeypatch):
    """The environment of one of two machines; what is gathered is what this process says and what `others` say."""
    for name, value in zip(launch.PLACE, ("2", "1", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shared, "WAIT_SECONDS", 0.3)
    state = SimpleNamespace(others=[], sent=lambda name: None)
    monkeypatch.setattr(accelerate.utils, "broadcast_object_list", lambda names: state.sent(names))
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda mine: mine + state.others)
    return state


def process(index):
    return SimpleNamespace(process_index=index)


def test_the_note_is_there_before_the_others_look_and_goes_again(two, tmp_path):
    seen = []
    two.sent = lambda names: seen.append((tmp_path / "run" / names[0]).exists())
    shared.check_shared(tmp_path / "run", process(0))
    assert seen == [True] and not list((tmp_path / "run").iterdir())


def test_a_machine_that_does_not_see_it_is_named_on_all(two, tmp_path):
    two.sent = lambda names: names.__setitem__(0, ".shared.of-the-first")
    with pytest.raises(UserError, match=f"{tmp_path}/run is not the folder that the first machine writes to"):
        shared.check_shared(tmp_path / "run", process(3))
    two.sent, two.others = lambda names: None, ["other:/scratch/run"]
    with pytest.raises(UserError, match="other:/scratch/run is not the folder"):
        shared.check_shared(tmp_path / "main", process(0))
    assert not list((tmp_path / "main").iterdir())


def test_a_note_that_is_seen_late_is_seen(two, tmp_path, monkeypatch):
    two.sent = lambda names: names.__setitem__(0, ".shared.late")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(shared.time, "sleep", lambda seconds: (tmp_path / "run" / ".shared.late").touch())
    shared.check_shared(tmp_path / "run", process(1))


def test_one_machine_asks_nobody(two, tmp_path, monkeypatch):
    monkeypatch.setenv("NUM_MACHINES", "1")
    two.others = ["nobody"]
    shared.check_shared(tmp_path / "run", process(0))
    assert not (tmp_path / "run").exists()
