"""Every data card loads, says where its data comes from, and carries samples that the code still produces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from agenttuning.data import sources
from agenttuning.errors import UserError
from helpers import card_samples

CARDS = sorted(path.parent.name for path in sources.CARDS.glob("*/source.yaml"))


def test_there_are_cards():
    assert {"agentinstruct", "sharegpt-gpt35", "sharegpt-gpt4"} <= set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_card_is_whole(name):
    card = sources.load_card(name)
    assert card.licence and card.loss_flags
    assert card.made_by or card.hub_id
    assert card.keep is None or ("field" in card.keep and ("is" in card.keep) != ("is_not" in card.keep))
    assert card.files is None or set(card.files) == set(card.splits)
    text = (sources.CARDS / name / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["pretty_name"] and body.lstrip().startswith("# ")


def test_agentinstruct_is_pinned_and_counted():
    card = sources.load_card("agentinstruct")
    assert sources.is_commit(card.revision)
    assert sum(card.splits.values()) == 1866


def test_samples_are_what_the_code_makes():
    stages = card_samples.stages()
    there = {path.name: path.read_text(encoding="utf-8") for path in card_samples.SAMPLES.iterdir()}
    assert there == stages, "run `PYTHONPATH=src:tests python tests/helpers/card_samples.py` and look at the difference"
    assert all(json.loads(content)["id"] == "drawer_0" for content in stages.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hub_id: a/b\nrevision: main\nformat: alpaca\n", "format"),
        ("format: messages\n", "hub_id or path"),
        ("hub_id: a/b\npath: c\nrevision: main\nformat: messages\n", "hub_id or path"),
        ("hub_id: a/b\nformat: messages\n", "revision is missing"),
        ("path: c\nformat: messages\nlicense: x\n", "unknown key `license`"),
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
        assert list(sources.read(card, file)) == [("all", rows[0]), ("all", rows[2]), ("all", 7)]
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

    assert sources.pin(hub_card({}, "main")).revision == "b" * 40
    assert sources.pin(hub_card({}, "a" * 40)).revision == "a" * 40

    class TransportError(Exception):
        """As httpx's: no OSError and no error of huggingface_hub."""

    def offline(self, name, revision):
        raise TransportError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    assert sources.pin(hub_card({}, "main"), known="c" * 40).revision == "c" * 40
    assert "keeping commit" in capsys.readouterr().err
    with pytest.raises(UserError, match="--data x=FOLDER"):
        sources.pin(hub_card({}, "main"))


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
    assert list(sources.read(card)) == [("train", {"model": "A"})]
    assert asked == [("o/x", "part.json", "dataset", "a" * 40)]


def test_no_place_of_one_machine_in_the_cards():
    for file in Path(sources.CARDS).rglob("*.*"):
        assert not any(f"/{word}/" in file.read_text(encoding="utf-8") for word in ("home", "root", "opt", "work"))
