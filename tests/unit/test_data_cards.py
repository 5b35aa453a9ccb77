"""Every data card loads, says where its data comes from, and carries samples that the code still produces."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from agenttuning.data import sources
from agenttuning.data.convert import convert
from agenttuning.data.lock import is_commit, pin, read_lock
from agenttuning.errors import UserError
from helpers import card_samples

CARDS = sorted(path.parent.name for path in sources.CARDS.glob("*/source.yaml"))


def test_there_are_cards():
    assert {"agentinstruct", "sharegpt-gpt35", "sharegpt-gpt4"} <= set(CARDS)
    stand_ins = {"wildchat-gpt35", "wildchat-gpt4", "smoltalk2", "tulu3-sft"}
    assert stand_ins <= {name for name in CARDS if sources.load_card(name).stand_in_for}


def test_every_key_is_documented():
    text = (sources.CARDS / "README.md").read_text(encoding="utf-8")
    assert [key.name for key in fields(sources.SourceCard) if f"`{key.name}`" not in text] == ["name", "root"]


@pytest.mark.parametrize("name", CARDS)
def test_card_is_whole(name):
    card = sources.load_card(name)
    assert card.licence and card.loss_flags
    assert card.made_by or card.hub_id
    assert card.files is None or set(card.files) == set(card.splits)
    text = (sources.CARDS / name / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["pretty_name"] and body.lstrip().startswith("# ")


def test_agentinstruct_is_pinned_and_counted():
    card = sources.load_card("agentinstruct")
    assert is_commit(card.revision)
    assert sum(card.splits.values()) == 1866


@pytest.mark.parametrize("name", CARDS)
def test_samples_are_what_the_code_makes(name):
    stages, card = card_samples.stages(name), sources.load_card(name)
    there = {path.name: path.read_text(encoding="utf-8") for path in (sources.CARDS / name / "samples").iterdir()}
    raw = there.pop(card_samples.RAW).splitlines()
    assert there == stages, "run `PYTHONPATH=src:tests python tests/helpers/card_samples.py` and look at the difference"
    left_out = json.loads(stages["left_out.json"])
    assert len(raw) == left_out["rows_read"] + sum(left_out["not_kept"].values())
    assert "]«" in stages["tokens.txt"] and left_out["quarantine"], "rows that are trained and malformed ones"
    assert bool(left_out["not_kept"]) == bool(card.keep) and bool(left_out["dropped"]) == bool(card.language)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hub_id: a/b\nrevision: main\nformat: alpaca\n", "format"),
        ("format: messages\n", "hub_id or path"),
        ("hub_id: a/b\npath: c\nrevision: main\nformat: messages\n", "hub_id or path"),
        ("hub_id: a/b\nformat: messages\n", "revision is missing"),
        ("path: c\nformat: messages\nlicense: x\n", "unknown key `license`"),
        ("path: c\nformat: messages\nkeep: {field: a}\n", "keep holds"),
        ("path: c\nformat: messages\nkeep: {field: a, is: 1, is_not: 2}\n", "keep holds"),
        ("path: c\nformat: messages\nkeep: [{field: a, equals: 1}]\n", "keep holds"),
    ],
)
def test_bad_cards(tmp_path, text, message):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "source.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        sources.load_card("x", tmp_path)
    with pytest.raises(UserError, match="known: x"):
        sources.load_card("y", tmp_path)


def local_card(path: str, **values) -> sources.SourceCard:
    return sources.SourceCard("x", "messages", path=path, **values)


def test_a_missing_local_source_names_its_maker(tmp_path):
    card = local_card(str(tmp_path / "absent"), made_by="make collect")
    with pytest.raises(UserError, match="make collect"):
        list(sources.read(card))
    with pytest.raises(UserError, match="check the path"):
        list(sources.read(card, tmp_path / "typo"))
    with pytest.raises(UserError, match=r"holds no \.jsonl"):
        list(sources.read(card, tmp_path))


def test_json_lists_are_read_one_by_one_and_filtered(tmp_path):
    file = tmp_path / "all.json"
    card = local_card("x", keep={"field": "model", "is_not": "B"})
    rows = [{"model": "A", "n": 1}, {"model": "B"}, {"n": "]"}, 7]
    for text in (json.dumps(rows), json.dumps(rows, indent=2), f"\ufeff \n{json.dumps(rows)}\n"):
        file.write_text(text, encoding="utf-8")
        not_kept = Counter()
        assert list(sources.read(card, file, not_kept)) == [("all", rows[0]), ("all", rows[2]), ("all", 7)]
        assert not_kept == {'model is_not "B"': 1}
    file.write_text("[ ]")
    assert list(sources.read(card, file)) == []
    for bad in ("[1, 2", "{}", '[1 "a"]', "[1,,2]", "", "[" * 5000 + "]" * 5000):
        file.write_text(bad)
        with pytest.raises(UserError, match="is not a JSON list"):
            list(sources.read(card, file))


def test_a_broken_parquet_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        list(sources.read(local_card("x"), tmp_path))


@pytest.fixture
def hub(monkeypatch):
    """A Hub of one data set: what was asked of it, and what it serves."""
    import datasets
    import huggingface_hub

    class Info:
        sha = "b" * 40

    calls: list = []
    tables = {"os": [{"n": 1}, {"n": 2}], "db": [{"n": 3}]}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: calls.append((name, revision)) or tables)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, revision: Info())
    return calls


def hub_card(splits: dict, revision: str = "a" * 40, **values) -> sources.SourceCard:
    return sources.SourceCard("x", "messages", hub_id="o/x", revision=revision, splits=splits, **values)


def test_hub_rows_are_counted_against_the_card(hub):
    wanted = [("os", {"n": 1}), ("os", {"n": 2}), ("db", {"n": 3})]
    assert list(sources.read(hub_card({"os": 2, "db": 1}))) == wanted
    assert list(sources.read(hub_card({"os": None, "db": 1}))) == wanted
    assert hub == [("o/x", "a" * 40)] * 2
    for splits in ({"os": 3, "db": 1}, {"os": 2}, {"os": 2, "db": 1, "kg": 5}):
        with pytest.raises(UserError, match="the source changed"):
            list(sources.read(hub_card(splits)))


def test_the_users_own_files_are_not_counted(hub, tmp_path):
    (tmp_path / "os.jsonl").write_text('{"n": 1}\n')
    assert list(sources.read(hub_card({"os": 99}), tmp_path)) == [("os", {"n": 1})]
    assert hub == []


def test_revisions_are_resolved_and_kept_offline(hub, monkeypatch, capsys):
    import huggingface_hub

    assert pin(hub_card({}, "main")).revision == "b" * 40
    assert pin(hub_card({}, "a" * 40)).revision == "a" * 40

    class TransportError(Exception):
        """As httpx's: no OSError and no error of huggingface_hub."""

    def offline(self, name, revision):
        raise TransportError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    assert pin(hub_card({}, "main"), known="c" * 40).revision == "c" * 40
    assert "keeping commit" in capsys.readouterr().err
    with pytest.raises(UserError, match="--data x=FOLDER"):
        pin(hub_card({}, "main"))


def test_a_branch_is_resolved_once_and_locked(hub, monkeypatch, tmp_path, capsys):
    import huggingface_hub

    asked = []

    class Info:
        sha = "d" * 40

    def info(self, name, revision):
        asked.append((name, revision))
        return Info()

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    lock = tmp_path / "lock.json"
    assert pin(hub_card({}, "main"), lock=lock).revision == "d" * 40
    said = capsys.readouterr().err
    assert "revision main of o/x is commit " + "d" * 40 in said and str(lock) in said and "delete its entry" in said
    assert json.loads(lock.read_text()) == {"x": {"hub_id": "o/x", "revision": "main", "commit": "d" * 40}}
    monkeypatch.setattr(Info, "sha", "e" * 40)  # the branch moved
    assert pin(hub_card({}, "main"), lock=lock).revision == "d" * 40
    assert asked == [("o/x", "main")] and capsys.readouterr().err == ""
    assert pin(hub_card({}, "v2"), lock=lock).revision == "e" * 40  # the card asks for another branch
    assert read_lock(lock)["x"]["revision"] == "v2"
    lock.unlink()
    assert pin(hub_card({}, "main"), lock=lock).revision == "e" * 40
    assert pin(hub_card({}, "a" * 40), lock=tmp_path / "none").revision == "a" * 40
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"x": {}}', '{"x": {"commit": "main"}}', '{"x": {"commit": 7}}'])
def test_a_damaged_lock_is_refused(hub, tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(UserError, match="delete it to resolve"):
        pin(hub_card({}, "main"), lock=tmp_path / "lock.json")


@pytest.fixture
def loopback_hub(monkeypatch):
    """A Hub on this machine: {data set: commit, or the HTTP status and X-Error-Code it is refused with}."""
    import huggingface_hub

    repositories: dict = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.partition("/api/datasets/")[2].partition("/revision/")[0]
            answer = repositories.get(name, (404, "RepoNotFound"))
            status, code = answer if isinstance(answer, tuple) else (200, None)
            body = json.dumps({"error": code} if code else {"id": name, "sha": answer}).encode()
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield repositories
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_a_former_name_is_used_only_where_the_present_one_is_missing(loopback_hub, capsys):
    card = hub_card({}, "main", former_hub_ids=["old/gone", "old/x"])
    loopback_hub["old/x"] = "d" * 40
    assert pin(card).revision == "d" * 40
    assert "o/x is not on this Hub; x is read as old/x" in capsys.readouterr().err
    loopback_hub["o/x"] = "e" * 40
    assert pin(card).revision == "e" * 40 and capsys.readouterr().err == ""
    loopback_hub["o/x"] = (403, "GatedRepo")
    with pytest.raises(UserError, match="it is gated: accept its terms at https://huggingface.co/datasets/o/x"):
        pin(card)
    loopback_hub["o/x"] = (400, "Other")
    with pytest.raises(UserError, match="connect, or give a local copy"):
        pin(card)
    loopback_hub.clear()
    with pytest.raises(UserError, match="dataset o/x .* no repository has this name"):
        pin(card)


def test_the_stand_ins_take_the_rows_they_say(tmp_path):
    def wild(model, language="English", toxic=False, **more):
        turns = [{"role": "user", "content": "hello", "turn_identifier": 1}, {"role": "assistant", "content": "hi"}]
        return {"model": model, "language": language, "toxic": toxic, "conversation": turns, **more}

    rows = [wild("gpt-4-0314"), wild("gpt-3.5-turbo"), wild("gpt-4", "French"), wild("gpt-4", toxic=True), wild(None)]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, model in (("wildchat-gpt4", "gpt-4-0314"), ("wildchat-gpt35", "gpt-3.5-turbo")):
        card = sources.load_card(name)
        not_kept = Counter()
        taken = [row for _, row in sources.read(card, file, not_kept)]
        others = {'language is "English"': 1, "toxic is false": 1} if model == "gpt-4-0314" else {}
        prefix = "gpt-4" if others else "gpt-3.5"
        assert not_kept == {f'model starts_with "{prefix}"': 4 - len(others), **others}
        assert [row["model"] for row in taken] == [model]
        assert [turn["role"] for turn in convert(taken[0], card.format, fallback_id="w")["messages"]] == [
            "user",
            "assistant",
        ]
    row = {"id": "t", "messages": wild("")["conversation"]}
    parts = [
        {**row, "source": "ai2-adapt-dev/no_robots_converted"},
        {**row, "source": "ai2-adapt-dev/oasst1_converted"},
    ]
    file.write_text("".join(json.dumps(part) + "\n" for part in parts))
    assert [row["source"] for _, row in sources.read(sources.load_card("tulu3-sft"), file)] == [parts[1]["source"]]


def test_a_part_of_a_repository_is_asked_for_by_its_files(monkeypatch):
    import datasets

    asked = []

    def load(name, revision, data_files):
        asked.append(data_files)
        return {split: [] for split in data_files}

    monkeypatch.setattr(datasets, "load_dataset", load)
    card = sources.load_card("smoltalk2")
    with pytest.raises(UserError, match="its card expects"):
        list(sources.read(card))
    assert asked == [card.data_files] and set(card.data_files) == set(card.splits)


def test_a_former_name_serves_the_rows_too(hub, monkeypatch):
    import datasets

    def load(name, revision):
        if name == "o/x":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'o/x' doesn't exist on the Hub")
        return {"os": [{"n": 1}]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(sources.read(hub_card({"os": 1}, former_hub_ids=["old/x"]))) == [("os", {"n": 1})]
    with pytest.raises(UserError, match="no repository has this name"):
        list(sources.read(hub_card({"os": 1})))
    assert sources.load_card("agentinstruct").former_hub_ids == ["THUDM/AgentInstruct"]


def test_single_hub_files_are_read_line_by_line(hub, monkeypatch, tmp_path):
    import huggingface_hub

    file = tmp_path / "part.json"
    file.write_text('[{"model": "A"}, {"model": "B"}]')
    asked = []

    def download(name, file_name, repo_type, revision):
        asked.append((name, file_name, repo_type, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    card = hub_card({"train": 2}, files={"train": "part.json"}, keep={"field": "model", "is": "A"})
    not_kept = Counter()
    assert list(sources.read(card, not_kept=not_kept)) == [("train", {"model": "A"})]
    assert not_kept == {'model is "A"': 1}
    assert asked == [("o/x", "part.json", "dataset", "a" * 40)]


def test_no_place_of_one_machine_in_the_cards():
    for file in Path(sources.CARDS).rglob("*.*"):
        assert not any(f"/{word}/" in file.read_text(encoding="utf-8") for word in ("home", "root", "opt", "work"))
