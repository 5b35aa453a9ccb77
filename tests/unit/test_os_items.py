"""AgentBench's items of the os task, read from files of its shape."""

import json
from pathlib import Path

import pytest

from agenttuning.environments import os_interaction as task
from agenttuning.environments.os_interaction.checks import judge, matches
from agenttuning.environments.os_interaction.sandbox import Ran
from agenttuning.errors import UserError

DEV = (
    Path(__file__).resolve().parents[2].parent
    / "shared"
    / "data"
    / "agentbench"
    / "os_interaction"
    / "data"
    / "dev.json"
)
CHECKED = {
    "description": "How many?",
    "create": {"local": "packages", "init": {"file": "init/a.sh"}},
    "evaluation": {"check": [None, {"language": "python", "file": "check/same.py"}], "example": {"code": "echo 3"}},
    "labels": ["file"],
}
MATCHED = {"description": "Which?", "start": "sleep 1 &", "evaluation": {"match": "log"}}


def _write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "AgentBench" / "data" / "os_interaction"
    _write(root / "data" / "dev.json", [CHECKED, MATCHED])
    _write(root / "data" / "2" / "b.json", [CHECKED])
    _write(root / "data" / "1" / "a.jsonl", "\n".join(map(json.dumps, [CHECKED, MATCHED])))
    for name in ("dev", "1", "2"):
        _write(root / "scripts" / name / "init" / "a.sh", f"echo {name}")
        _write(root / "scripts" / name / "check" / "same.py", "import sys")
    return tmp_path / "AgentBench"


def test_a_checkout_gives_the_standard_items_in_order(checkout):
    items = task.load(checkout)
    # by file, and in each file those with `match` first
    assert [item["id"] for item in items] == ["os-std_1", "os-std_0", "os-std_2"]
    assert [item["source"] for item in items] == ["1/a.jsonl 1", "1/a.jsonl 0", "2/b.json 0"]
    match, first, second = items
    assert match["match"] == {"answer": "log", "strip": True}
    assert match["start"] == ["bash", "sleep 1 &"]
    assert match["image"] == "default"
    assert first["check"] == [None, ["python", "import sys"]]
    assert (first["example"], first["image"], first["labels"]) == (["bash", "echo 3"], "packages", ["file"])
    assert (first["init"], second["init"]) == ([["bash", "echo 1"]], [["bash", "echo 2"]])
    assert items == json.loads(json.dumps(items))
    assert task.playable(items) == (items, {})


@pytest.mark.parametrize("below", ["data/os_interaction", "data/os_interaction/data"])
def test_inner_folders_give_the_same(checkout, below):
    assert task.load(checkout / below) == task.load(checkout)


def test_a_single_file_and_its_scripts(checkout, tmp_path):
    dev = checkout / "data" / "os_interaction" / "data" / "dev.json"
    assert [item["id"] for item in task.load(dev)] == ["os-dev_1", "os-dev_0"]
    alone = _write(tmp_path / "elsewhere" / "data" / "dev.json", dev.read_text())
    good, bad = task.playable(task.load(alone))
    assert [item["id"] for item in good] == ["os-dev_1"]
    assert bad == {"os-dev_0": "its script init/a.sh is not in scripts/dev"}
    assert task.load(alone, checkout=checkout) == task.load(dev)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"evaluation": {}}, "neither match nor check"),
        ({"evaluation": {"match": {"strip": True}}}, "neither an answer nor a pattern"),
        ({"evaluation": {"check": [None]}}, "example script"),
        ({"evaluation": {"check": {"language": "perl", "code": "1"}}}, "'perl'"),
        ({"evaluation": {"check": {"language": "python"}}}, "neither code nor file"),
        ({"evaluation": {"check": {"file": "../../../../../../etc/passwd"}}}, "outside"),
        ({"evaluation": {"check": 3}}, "a int"),
    ],
)
def test_what_cannot_be_played_says_why(tmp_path, change, reason):
    path = _write(tmp_path / "data" / "dev.json", [{"description": "x", **change}])
    (tmp_path / "scripts" / "dev").mkdir(parents=True)
    good, bad = task.playable(task.load(path))
    assert good == []
    assert reason in bad["os-dev_0"]


def test_lists_in_lists_and_slips_of_the_original(tmp_path):
    nested = {
        "description": "x",
        "create": [None, {"language": "python", "file": "check/same.py"}],
        "evaluation": {"check": [["true"], [[None]]], "example": "echo"},
    }
    init = {
        "description": "y",
        "create": {"init": ["a", ["b", {"code": "c"}]]},
        "evaluation": {"match": {"regex": "^a"}},
    }
    path = _write(tmp_path / "data" / "dev.json", [nested, init])
    second, first = task.load(path)
    assert "unplayable" not in first
    assert (first["init"], first["image"], first["check"]) == ([], "default", [["bash", "true"], None])
    assert second["init"] == [["bash", "a"], ["bash", "b"], ["bash", "c"]]


@pytest.mark.parametrize("content", ["{", "[1]", '[{"a": 1}]', "3"])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(UserError, match="dev.json"):
        task.load(_write(tmp_path / "dev.json", content))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no AgentBench items"):
        task.load(tmp_path)
    with pytest.raises(UserError, match="holds no AgentBench items"):
        task.load(tmp_path / "none.json")


@pytest.mark.skipif(not DEV.is_file(), reason="no AgentBench files beside the repository")
def test_the_dev_split_alone():
    loaded = task.load(DEV)
    good, bad = task.playable(loaded)
    assert (len(loaded), len(good), len(bad)) == (26, 5, 21)
    assert all("is not in scripts/dev" in reason for reason in bad.values())
    assert all(item["match"] for item in good)


@pytest.mark.parametrize(
    ("wanted", "answer", "right"),
    [
        ({"answer": "log", "strip": True}, " log\n", True),
        ({"answer": "log", "strip": False}, " log", False),
        ({"answer": "log"}, "log", True),
        ({"answer": "log", "strip": True}, "the log", False),
        ({"regex": "^[0-9]+$"}, "12", True),
        ({"regex": "^[0-9]+$"}, "12 files", False),
        ({"answer": "None", "strip": True}, None, False),
        ({"regex": ""}, None, False),
    ],
)
def test_match(wanted, answer, right):
    assert matches(wanted, answer) is right


class Machine:
    """Gives prepared results, and keeps the commands."""

    def __init__(self, *results):
        self.results, self.commands = list(results), []

    def run(self, command, timeout_s):
        self.commands.append(command)
        return self.results.pop(0)


def test_a_chain_gets_the_answer_and_then_the_outputs():
    item = {"check": [None, ["python", "check"]], "example": ["bash", "example"]}
    machine = Machine(Ran(0, "3\n"), Ran(0, ""))
    assert judge(machine, item, "3")
    assert machine.commands == [["bash", "-c", "example", "--", "3"], ["python3", "-c", "check", "3", "3\n"]]


@pytest.mark.parametrize("code", [1, 127, -9, None])
def test_a_chain_ends_at_the_first_that_fails(code):
    machine = Machine(Ran(code, ""))
    assert not judge(machine, {"check": [["bash", "a"], ["bash", "b"]], "example": None}, None)
    assert machine.commands == [["bash", "-c", "a", "--", "None"]]


def test_c_is_compiled_first():
    machine = Machine(Ran(0, ""), Ran(0, ""))
    assert judge(machine, {"check": [["c", "int main(){}"]], "example": None}, "1")
    assert machine.commands[0][-1] == "int main(){}"
    assert machine.commands[1] == ["/tmp/a.out", "1"]
