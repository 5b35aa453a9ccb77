"""The verb that plays the six tasks: what a score is called, what is gone on with, and who answers."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from agenttuning import cli, doctor, held_in, protocols, recipe
from agenttuning.environments import HELD_IN, Backend, Missing, Room, benchmark_items
from agenttuning.environments import held_in as package
from agenttuning.episodes.store import read
from agenttuning.errors import UserError
from agenttuning.held_in import evaluate_held_in
from agenttuning.players import player
from agenttuning.policies import ContextLimit
from agenttuning.policies.expert import expert
from agenttuning.policies.serve import serve
from agenttuning.protocols.messages import Prompt
from agenttuning.protocols.prompts import ROWS
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import scores
from agenttuning.stages import Stage, check_options, choose_backend
from helpers.tiny_llama import save_tiny_llama

TINY = REPOSITORY / "recipes/agentlm-tiny/sft.yaml"
AGENTBENCH = Path(__file__).resolve().parents[2].parent / "shared/data/agentbench"
EMBEDDED = ["kg", "webshop", "mind2web"]  # need nothing of the system


@pytest.fixture
def run(tmp_path):
    return recipe.load(TINY, (), tmp_path / "run")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "random")


def judge(run, policy=expert, **settings) -> dict:
    made = {"label": "oracle", "model": "oracle@1", "protocol": "practice", "tasks": EMBEDDED, "most": 3}
    return evaluate_held_in(run, lambda rules: policy, **{**made, **settings})


def test_practice_items_are_scored_under_a_name_of_their_own(run, capsys) -> None:
    found = judge(run)
    assert list(found["tasks"]) == ["practice-kg.embedded", "practice-webshop.synthetic", "practice-mind2web.embedded"]
    for entry in found["tasks"].values():
        assert entry["score"] == 100 and entry["n"] == entry["asked"] == 3
        assert entry["not_comparable"] == "practice items of our own"
        assert entry["prompts"]["source"] == "ours" and len(entry["prompts"]["digests"]) == 1
    assert found["groups"]["held_in"]["score"] is None
    folder = run.run_dir / "eval/oracle/held-in/practice"
    assert scores.read(folder / scores.FILE) == json.loads(json.dumps(found))
    assert len(read(folder / "practice-kg.embedded/episodes.jsonl")) == 3
    said = capsys.readouterr().out.partition("scores x 100 with 95 % intervals")
    for part in (said[0], said[2]):
        assert "not a score of AgentBench knowledgegraph, WebShop, Mind2Web: practice items of our own" in part
    assert f"written: {folder}" in said[2] and "earlier" not in said[2]


def test_what_was_played_is_not_played_again_and_tasks_add_up(run, capsys) -> None:
    judge(run, tasks=["kg"])
    found = judge(run, policy=lambda turns: 1 / 0, tasks=["kg"])
    assert found["tasks"]["practice-kg.embedded"]["score"] == 100
    capsys.readouterr()
    assert set(judge(run, tasks=["webshop"])["tasks"]) == {"practice-kg.embedded", "practice-webshop.synthetic"}
    said = capsys.readouterr().out
    assert said.index("practice-webshop") < said.index("from earlier runs") < said.index("practice-kg"), said
    other = judge(run, tasks=["webshop"], model="oracle@2")
    assert set(other["tasks"]) == {"practice-webshop.synthetic"}, "scores of another model are not mixed in"


def test_a_score_of_the_benchmark_is_followed_by_the_published_ones(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Stage, "why_not", None)
    judge(recipe.load(REPOSITORY / "recipes/agentlm-13b", (), tmp_path / "run"), tasks=["kg"])
    said = capsys.readouterr().out
    assert "published, kg: llama-2-13b-chat 0.0; agentlm-13b 26.8" in said and "not a score" not in said


def test_a_task_without_a_score_ends_the_command_as_an_error(run, capsys) -> None:
    first = package("kg").items("test", 1, 0)[0]["id"]

    def broken(turns):
        if any(turn.item != first for turn in turns):
            raise RuntimeError("gone")
        return expert(turns)

    with pytest.raises(UserError, match="no score of practice-kg.embedded: too many episodes were lost"):
        judge(run, policy=broken, tasks=["kg"])
    assert "void: 2 of 3" in capsys.readouterr().out
    assert judge(run, tasks=["kg"])["tasks"]["practice-kg.embedded"]["score"] == 100, "the same command plays them"


def test_a_ctrl_c_says_that_the_same_command_goes_on(run, capsys) -> None:
    def stopped(turns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(run, policy=stopped, tasks=["kg"])
    assert "the same command goes on there" in capsys.readouterr().err


def test_changed_items_put_earlier_episodes_aside(run) -> None:
    judge(run, tasks=["kg"])
    judge(run, tasks=["kg"], most=2)
    folder = run.run_dir / "eval/oracle/held-in/practice/practice-kg.embedded"
    assert len(read(folder / "episodes.jsonl")) == 2 and len(read(folder / "episodes.before-1.jsonl")) == 3


@pytest.fixture
def two(monkeypatch) -> None:
    """Benchmarks whose items are not looked into."""
    monkeypatch.setattr(benchmark_items, "MADE_OF", {})


def prompt(source: str):
    return lambda item: Prompt((), source=source)


def stage(**changes) -> Stage:
    backend = Backend("real", "the real thing", comparable=True)
    known = {"task": "db", "module": package("db"), "room": Room("db", backend, dict), "where": {}, "wanted": 2,
             "items": [{"id": "dbbench-standard_0"}, {"id": "dbbench-standard_1"}], "practice": False,
             "prompts": prompt("AgentBench checkout"), "protocol": protocols.find("paper-text")}  # fmt: skip
    return Stage(**{**known, **changes})


def test_only_the_whole_benchmark_on_a_real_backend_bears_its_name(two) -> None:
    assert stage().name == "db" and stage().why_not is None
    substitute = Room("db", Backend("sqlite", "a substitute", comparable=False), dict)
    assert stage(room=substitute).name == "dbbench-standard.sqlite" and "a substitute" in stage(room=substitute).why_not
    part = stage(wanted=300)
    assert part.name == "dbbench-standard.real" and part.why_not == "2 items, and the benchmark has 300"
    assert stage(practice=True).name == "practice-db.real" and "practice" in stage(practice=True).why_not


@pytest.mark.parametrize("name", ["paper-text", "paper-code"])
def test_only_the_papers_prompt_and_rules_give_a_score_its_name(name, two, tmp_path) -> None:
    rules = protocols.find(name)
    assert stage(protocol=rules).name == "db"
    ours = stage(protocol=protocols.find("practice"), prompts=prompt("ours"))
    assert ours.name == "dbbench-standard.real" and "practice@1 is not the paper's" in ours.why_not
    assert "in our own words" in stage(prompts=prompt("ours")).why_not
    # a file of the same name with another value
    file = tmp_path / "mine.yaml"
    text = (protocols.FOLDER / f"{name}.yaml").read_text()
    file.write_text(text.replace("max_turns: 16", "max_turns: 30"))
    assert "not the paper's" in stage(protocol=protocols.find(str(file))).why_not
    file.write_text(text)
    assert stage(protocol=protocols.find(str(file))).why_not is None


def test_a_server_that_does_not_cut_long_prompts_gives_no_score_of_the_benchmark(two) -> None:
    """The paper's server cut them; one that refuses them would have episodes lost that go on there."""
    rules = protocols.find("paper-text")
    record = {"task": "db", "status": "completed", "reward": 1.0, "metrics": {"category": "SELECT"}, "steps": [],
              "messages": [], "last": None, "prompt": "x", "turns": 1}  # fmt: skip
    made = stage()
    records = [{**record, "item": item["id"]} for item in made.items]
    assert held_in._entry(made, records, rules)["not_comparable"] is None
    records[0] |= {"status": "context_limit", "reward": 0.0}
    assert "the prompts of 1 episodes were too long" in held_in._entry(made, records, rules)["not_comparable"]


def test_such_a_score_goes_by_its_other_name(run, monkeypatch) -> None:
    assert protocols.find("practice").decoding.truncate_prompt_tokens
    monkeypatch.setattr(Stage, "why_not", None)
    assert list(judge(run, tasks=["kg"])["tasks"]) == ["kg"]
    refused = lambda turns: [ContextLimit(5000, 4096) for _ in turns]  # noqa: E731
    found = judge(run, policy=refused, tasks=["kg"], most=2)  # other items: played anew
    assert list(found["tasks"]) == ["practice-kg.embedded"], "and the earlier kg is gone"


@pytest.mark.parametrize("task", HELD_IN)
def test_the_rows_prompt_is_the_papers_only_where_it_has_the_demonstration(task, two) -> None:
    for source in (ROWS, "AgentBench checkout"):
        why = stage(task=task, prompts=prompt(source)).why_not
        lacking = source == ROWS and task in ("alfworld", "webshop", "mind2web")
        assert (why is not None and "lacks the demonstration" in why) if lacking else why is None


def test_as_many_other_items_are_not_the_benchmark() -> None:
    kinds = benchmark_items.MADE_OF["alfworld"]
    each = [kind for kind, count in kinds.items() for _ in range(count)]
    games = [{"id": f"alfworld-std_{number}", "kind": kind} for number, kind in enumerate(each)]
    known = {"task": "alfworld", "module": package("alfworld"), "wanted": 50}
    assert len(games) == 50 and stage(items=games, **known).name == "alfworld"
    other = stage(items=[{**game, "kind": "look_at_obj"} for game in games], **known)
    assert other.name == "alfworld-std.real" and "0 items of the kind pick_and_place" in other.why_not
    for task, made_of in benchmark_items.MADE_OF.items():
        assert sum(made_of.values()) == protocols.load(protocols.FOLDER / "paper-text.yaml").rules(task).n


def test_the_kinds_are_those_that_the_loaders_give() -> None:
    """On the dev splits, where they are at hand: every kind is one that the benchmark has."""
    files = {"db": "dbbench/dev.jsonl", "kg": "knowledgegraph/dev.json", "os": "os_interaction/data/dev.json"}
    if not AGENTBENCH.is_dir():
        pytest.skip("AgentBench's dev splits are not beside this checkout")
    for task, file in files.items():
        kinds = Counter(map(benchmark_items._KIND[task], package(task).load(AGENTBENCH / file)))
        assert set(kinds) <= set(benchmark_items.MADE_OF[task]), kinds


def test_the_mean_is_over_all_six_or_none() -> None:
    entry = {"group": "held_in", "score": 50.0, "interval": [40.0, 60.0], "void": None}
    six = dict.fromkeys(HELD_IN, entry)
    assert held_in._held_in_mean(six)["score"] == 50
    assert held_in._held_in_mean({**six, "practice-db.sqlite": {**entry, "score": 100.0}})["score"] == 50
    assert held_in._held_in_mean(dict.fromkeys(HELD_IN[1:], entry))["score"] is None
    assert held_in._held_in_mean({**six, "os": {**entry, "void": "lost"}})["score"] is None


def test_a_backend_is_the_first_that_lacks_nothing_and_the_rest_is_said() -> None:
    real, small = Backend("real", "r", comparable=True), Backend("small", "s", comparable=False)
    lacks = {"real": [Missing("the program mariadbd", "make system-packages")], "small": []}
    module = SimpleNamespace(NAME="db", BACKENDS=(real, small), missing=lambda name, **where: lacks[name])
    module.serve = lambda name, dsn=None: None
    assert choose_backend(module, "auto", {}) is small
    lacks["small"] = [Missing("sqlglot", "pip install sqlglot")]
    with pytest.raises(UserError, match="real needs the program mariadbd: .*\n  small needs sqlglot"):
        choose_backend(module, "auto", {})
    with pytest.raises(UserError, match="real needs the program mariadbd: make system-packages"):
        choose_backend(module, "real", {})
    lacks["real"] = []
    assert choose_backend(module, "auto", {}) is real
    with pytest.raises(UserError, match="db has no backend 'smal'"):
        choose_backend(module, "smal", {})
    with pytest.raises(UserError, match="db has no option 'dns'; it would do nothing; did you mean `dsn`"):
        choose_backend(module, "auto", {"dns": "x"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["kgg"]}, "no held-in task 'kgg'"),
        ({"data": {"dbb": "x"}}, "no held-in task 'dbb'"),
        ({"protocol": "paper-txt"}, "no protocol 'paper-txt'"),
        ({"most": 0}, "at least 1"),
        ({"tasks": ["kg"], "data": {"kg": "nowhere.json"}}, "nowhere.json"),
        ({"tasks": ["kg"], "backends": {"kg": "witnes"}}, "no backend 'witnes'"),
        ({"tasks": ["kg"], "data": {"db": "x"}}, "speaks of db, which is not among the tasks"),
        ({"tasks": ["kg"], "where": {"kg": {"uri": "x"}}}, "no option 'uri'"),
        ({"tasks": ["kg"], "prompts": "folder"}, "prompts of its own"),
    ],
)
def test_what_cannot_be_played_is_said_before_a_model_is_loaded(run, settings, message) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_held_in(run, lambda rules: 1 / 0, label="x", model="x", **{"protocol": "practice", **settings})


def test_the_same_model_in_process_and_behind_a_server(run, model) -> None:
    """The whole way of the verb, both ways: a random tiny Llama scores the same, episode by episode."""
    found = {}
    make, label, name = player(run, str(model), None, None, None, None)
    assert label == "random" and name.startswith("random@")
    judge(run, policy=(inside := make(protocols.find("practice"))), label=label, model="m")
    with serve(inside, "tiny-llama") as url:
        make, other, name = player(run, None, url, "tiny-llama", None, 8)
        assert (other, name) == ("served-tiny-llama", "tiny-llama")
        judge(run, policy=make(protocols.find("practice")), label=other, model="m")
    for side in (label, other):
        folder = run.run_dir / "eval" / side / "held-in/practice"
        found[side] = sorted(line for file in folder.glob("*/episodes.jsonl") for line in file.read_text().splitlines())
    assert found[label] == found[other] and len(found[label]) == 9


def test_the_command_line_plays_a_model_folder(run, model, capsys) -> None:
    words = ["eval-held-in", str(TINY), "--model", str(model), "--protocol", "practice", "--task", "kg", "--items", "2"]
    assert cli.main([*words, "--run-dir", str(run.run_dir)]) == 0
    assert "practice-kg.embedded" in capsys.readouterr().out
    assert cli.main([*words, "--run-dir", str(run.run_dir), "--served-model", "x"]) == 2
    assert "go with --server" in capsys.readouterr().err
    assert cli.main([*words, "--run-dir", str(run.run_dir), "--env", "kg=1"]) == 2
    assert "TASK.OPTION=VALUE" in capsys.readouterr().err


def test_every_option_that_a_page_names_is_one() -> None:
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "recipes").rglob("*.md")]
    named = {found for page in pages for found in re.findall(r"--env (\w+)\.(\w+)=", page.read_text(encoding="utf-8"))}
    assert ("os", "network") in named and ("kg", "url") in named
    for task, option in named:
        check_options(package(task), {option: "x"})
    with pytest.raises(UserError, match="os has no option 'limits'"):
        check_options(package("os"), {"limits": 3})


def test_a_server_needs_the_name_of_its_model(run) -> None:
    for model, served in ((None, None), ("folder", "name")):
        with pytest.raises(UserError, match="give --served-model NAME and no --model"):
            player(run, model, "http://127.0.0.1:1/v1", served, None, 1)


def test_a_server_that_is_not_there_is_said_at_once(run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port
        make, *_ = player(run, None, f"http://127.0.0.1:{free.getsockname()[1]}/v1", "name", None, 1)
        with pytest.raises(UserError, match="no server listens at http://127.0.0.1:.*refused"):
            make(protocols.find("practice"))


def test_without_the_hub_the_prompts_are_asked_for_by_the_option_that_gives_them(run, monkeypatch) -> None:
    def no_hub(card, place):
        raise UserError("the Hub dataset cannot be read: offline; the source would be missing; give --data x=FOLDER")

    monkeypatch.setattr("agenttuning.protocols.prompts.read", no_hub)
    with pytest.raises(UserError, match="cannot be read: offline; it holds the prompt of kg.*--prompts PATH") as found:
        judge(run, protocol="paper-text", tasks=["kg"])
    assert "--data" not in str(found.value)


def test_options_that_would_do_nothing_are_refused(run, model) -> None:
    for concurrency, server in ((3, None), (0, "http://127.0.0.1:1/v1")):
        with pytest.raises(UserError, match="concurrency"):
            player(run, None if server else str(model), server, "name" if server else None, None, concurrency)
    for where in ({"kg": {"uri": 1}}, {"kgg": {"url": 1}}):
        with pytest.raises(UserError, match="no option 'uri'.*`url`|no held-in task 'kgg'"):
            doctor.doctor(where)


def test_the_doctor_names_every_backend_and_what_it_lacks(monkeypatch, capsys) -> None:
    rows = doctor.doctor()
    assert [row["task"] for row in rows] == [task for task in HELD_IN for _ in package(task).BACKENDS]
    for task in HELD_IN:
        assert sum(row["chosen"] for row in rows if row["task"] == task) <= 1
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    doctor.doctor()
    said = capsys.readouterr().out
    assert "missing: " in said and "make system-packages" in said and "--data TASK=PATH" in said
