"""A built dataset reaches the Hub whole, once, and with nothing in it that should not be there."""

from __future__ import annotations

import errno
import json

import pytest
import yaml

from agenttuning import chat, cli, recipe
from agenttuning.errors import UserError
from agenttuning.hub import folder, licences, push_data, upload
from helpers import two_sources
from helpers.conversations import agent_row, chat_row
from helpers.hub_double import TOKEN, hub_double
from helpers.llama_tokenizer import build_tokenizer
from helpers.template_tokenizer import OWN, write_tokenizer

NAME = "someone/agent-data"
RECIPE = two_sources.RECIPE + f"publish: {{{{hub_dataset_id: {NAME}}}}}\n"
CARD = "---\npretty_name: {name}, pretty\nlanguage: [en]\nlicense: mit\n---\n\n# {name}\n\nMade for a test.\n"
SOURCE = "path: raw/{name}\nformat: {format}\nmade_by: make {name}\nloss_flags: as told\nlicence: {licence}\n"


@pytest.fixture
def world(tmp_path, monkeypatch):
    for name, format, rows, licence in (
        ("agents", "agentinstruct", [agent_row(number) for number in range(10)], "MIT"),
        ("chats", "sharegpt", [chat_row(number, exchanges=2) for number in range(60)], "Apache-2.0"),
    ):
        write_rows(tmp_path, name, rows)
        (tmp_path / "data_cards" / name).mkdir(parents=True)
        source = SOURCE.format(name=name, format=format, licence=licence)
        (tmp_path / "data_cards" / name / "source.yaml").write_text(source)
        (tmp_path / "data_cards" / name / "README.md").write_text(CARD.format(name=name))
    chat.save_tokenizer(build_tokenizer(), tmp_path / "model")
    (tmp_path / "recipes" / "tiny").mkdir(parents=True)
    (tmp_path / "accelerate_configs").mkdir()
    (tmp_path / "recipes" / "tiny" / "sft.yaml").write_text(RECIPE.format(model=tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    import types

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the double speaks LFS
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time", types.SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("agenttuning.hub.wire.time", types.SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub_double() as double:
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        yield double


def write_rows(world, name, rows):
    path = world / "raw" / name / "train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load(*overrides):
    return recipe.load("recipes/tiny", list(overrides))


def push(*overrides, paths=None, **options):
    return push_data.push_data(load(*overrides), paths or {}, **options)


def refused(*overrides, **options) -> str:
    with pytest.raises(UserError) as caught:
        push(*overrides, **options)
    return str(caught.value)


def test_it_arrives_whole_in_one_commit_and_loads(world, hub, tmp_path, capsys):
    from datasets import load_dataset, load_from_disk

    commit = push()
    state = hub.repositories[NAME]
    assert state["private"] is True and state["commits"][-1][0] == commit
    assert len(state["commits"]) == 2 and hub.messages(NAME)[-1].startswith("Data of tiny/sft, key ")
    built = load_from_disk(str(world / "runs/tiny/sft/data"))
    back = load_dataset(str(hub.download(NAME, tmp_path / "back")), split="train", cache_dir=str(tmp_path / "cache"))
    assert back.features == built.features and back.to_list() == built.to_list() and len(back) == 40
    assert {"mixture.json", "quarantine.jsonl", "README.md", ".gitattributes"} <= set(hub.files(NAME))
    mixture = (world / "runs/tiny/sft/data/mixture.json").read_bytes()
    assert hub.files(NAME)["mixture.json"] == mixture
    assert f"(private): commit {commit}" in capsys.readouterr().out


def test_the_card_says_what_it_is(world, hub):
    with (world / "data_cards/chats/source.yaml").open("a") as card:
        card.write("keep: {field: id, is_not: chat_0}\n")
    push("mixture.draws=44", paths={"agents": world / "raw/agents"})
    text = hub.files(NAME)["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    header = yaml.safe_load(front)
    assert header["license"] == "other" and header["language"] == ["en"] and header["size_categories"] == ["n<1K"]
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    features = {one["name"]: one for one in header["dataset_info"]["features"]}
    assert features["input_ids"]["list"] == "int32" and features["id"]["dtype"] == "string"
    mixture = json.loads(hub.files(NAME)["mixture.json"])
    for word in (
        f"{mixture['tokens']:,} tokens",
        f"| agents | 25.0 % | {100 * mixture['sources']['agents']['share_realised']:.1f} % |",
        "| agents | 10 | 0 | 0 |",
        "| chats | 59 | 1 | 0 |",
        "| MIT |",
        "| Apache-2.0 |",
        mixture["settings"]["sources"]["chats"]["files"]["train.jsonl"][:16],
        "-100 where it is not",
        "loss flags: as told",
        "    agenttuning data recipes/tiny/sft.yaml mixture.draws=44 --data agents=FILES\n",
        "local files made by `make chats`",
        "local files in place of agents",
        mixture["key"],
        "None was found.",
    ):
        assert word in body, word
    assert str(world) not in text


def test_the_manifest_of_the_build_goes_along(world, hub):
    assert cli.main(["data", "recipes/tiny"]) == 0
    push()
    assert hub.files(NAME)["manifest.json"] == (world / "runs/tiny/sft/data/manifest.json").read_bytes()
    assert "manifest.json is that of the build" in hub.files(NAME)["README.md"].decode()
    assert push() and len(hub.messages(NAME)) == 2


def test_one_licence_for_all_is_named(world, hub):
    path = world / "data_cards/agents/source.yaml"
    path.write_text(path.read_text().replace("MIT", "apache-2.0"))
    push()
    assert "\nlicense: apache-2.0\n" in hub.files(NAME)["README.md"].decode()


def test_again_with_nothing_changed_makes_no_commit(world, hub, capsys):
    first = push()
    sent = list(hub.uploads)
    assert push() == first and len(hub.messages(NAME)) == 2 and hub.uploads == sent
    assert "nothing changed, no commit" in capsys.readouterr().out
    assert ("POST", f"/api/datasets/{NAME}/commit/main") in hub.requests
    assert sum(path.endswith("/commit/main") for _, path in hub.requests) == 1


def test_changed_data_replaces_the_old_and_leaves_the_rest(world, hub, monkeypatch, tmp_path):
    from datasets import load_dataset, load_from_disk

    monkeypatch.setattr(folder, "FILE_BYTES", 2000)
    push()
    before = set(hub.files(NAME))
    assert sum(name.startswith("data/train-") for name in before) > 2
    back = load_dataset(str(hub.download(NAME, tmp_path / "back")), split="train", cache_dir=str(tmp_path / "cache"))
    assert back.to_list() == load_from_disk("runs/tiny/sft/data").to_list(), "several files, and the order of training"
    hub.add(NAME, "by hand", {**hub.files(NAME), "figure.png": b"x"})
    monkeypatch.setattr(folder, "FILE_BYTES", 1 << 29)
    push("mixture.seed=4")
    rows = [name for name in hub.files(NAME) if name.startswith("data/")]
    assert rows == ["data/train-00000-of-00001.parquet"] and hub.files(NAME)["figure.png"] == b"x"
    assert len(hub.messages(NAME)) == 4


def test_dry_writes_and_sends_nothing(world, hub, tmp_path):
    from datasets import load_dataset

    assert push(dry=True) is None and hub.requests == []
    staged = world / "runs/tiny/sft/hub/data"
    assert len(load_dataset(str(staged), split="train", cache_dir=str(tmp_path / "cache"))) == 40
    first = {path.name: path.read_bytes() for path in staged.rglob("*") if path.is_file()}
    push(dry=True)
    assert {path.name: path.read_bytes() for path in staged.rglob("*") if path.is_file()} == first


def test_what_is_missing_is_told_at_once_and_before_anything_is_built(world, hub):
    (world / "data_cards/agents/README.md").write_text("---\npretty_name: A\n---\n")
    path = world / "data_cards/chats/source.yaml"
    path.write_text("path: raw/chats\nformat: sharegpt\nlicence: not stated; somebody says MIT\n")
    text = refused("publish.hub_dataset_id=nobody", "publish.licences={strangers: mit}")
    for word in (
        "owner/name",
        "data_cards/agents is incomplete: it lacks `language` in the header of README.md, a text in README.md",
        "data_cards/chats is incomplete: it lacks `loss_flags`",
        "not stated; somebody says MIT",
        "publish.licences.chats=",
        "no such source",
    ):
        assert word in text, word
    assert not (world / "runs").exists() and hub.requests == []
    assert "hub_dataset_id is None" in refused("publish.hub_dataset_id=null")


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "cc-by-nd-4.0", "other", "null", "MIT, but ask"])
def test_a_licence_that_does_not_allow_it_is_overruled_only_by_a_statement(world, hub, licence):
    path = world / "data_cards/chats/source.yaml"
    path.write_text(path.read_text().replace("Apache-2.0", licence))
    assert "none that is known to allow redistribution" in refused()
    push("publish.licences.chats=MIT")
    text = hub.files(NAME)["README.md"].decode()
    assert "MIT (stated by the publisher of this dataset, not by the source's card)" in text and "license: mit" in text


def test_licences_are_named_as_the_hub_names_them():
    assert licences.hub_id(" Apache-2.0 ") == "apache-2.0" and licences.hub_id("CC BY 4.0") == "cc-by-4.0"
    assert licences.hub_id(None) is None and licences.hub_id("ODC-BY and others") is None


def test_visibility_is_never_a_surprise(world, hub):
    hub.make(NAME, private=False)
    text = refused()
    assert "is public and the recipe asks for a private one" in text and hub.messages(NAME) == ["initial commit"]
    push("publish.private=false")
    assert len(hub.messages(NAME)) == 2
    hub.make("someone/other", private=True)
    assert "is private" in refused("publish.private=false", "publish.hub_dataset_id=someone/other")


def test_without_a_token_nothing_is_asked(world, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "hf auth login" in refused() and hub.requests == []


# --- failures on the way: one clear message, nothing half done, and a second run completes

STEPS = {
    "create": "/api/repos/create",
    "validate": "/api/validate-yaml",
    "preupload": "/preupload/main",
    "batch": "/objects/batch",
    "storage": "/storage/",
    "commit": "/commit/main",
}
WORDS = {401: "not accepted", 403: "write token", 409: "run it again", 429: "fewer requests", 500: "trouble",
         503: "trouble", "die": "run it again"}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("failure", WORDS)
def test_a_failure_is_explained_and_a_second_run_completes(world, hub, step, failure):
    if (step, failure) == ("create", 409):
        pytest.skip("this is how the Hub says that the repository exists")
    hub.says = f"ask \x1b[31m {TOKEN}"
    hub.fail = lambda method, path: failure if STEPS[step] in path else None
    text = refused()
    assert WORDS[failure] in text or (step == "validate" and "none of a Hub" in text), text
    assert TOKEN not in text and "\x1b" not in text and "signature" not in text and len(text.splitlines()) == 1
    assert not hub.repositories or hub.messages(NAME) == ["initial commit"]
    hub.fail = lambda method, path: None
    sent = len(hub.uploads)
    push()
    assert len(hub.messages(NAME)) == 2
    assert len(hub.uploads) == (sent if step == "commit" else 1), "what had arrived was sent again"


def test_a_commit_whose_answer_is_lost_is_found(world, hub):
    hub.fail = lambda method, path: "late" if path.endswith("/commit/main") else None
    commit = push()
    assert hub.repositories[NAME]["commits"][-1][0] == commit and len(hub.messages(NAME)) == 2
    assert sum(path.endswith("/commit/main") for _, path in hub.requests) == 1
    hub.fail = lambda method, path: None
    assert push() == commit and len(hub.messages(NAME)) == 2


def test_a_server_that_is_gone_is_explained(world, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    text = refused()
    assert "http://127.0.0.1:9" in text and "check the network" in text


def test_somebody_else_in_between_is_a_conflict(world, hub):
    push()

    def meanwhile(method, path):
        if path.endswith("/commit/main"):
            hub.add(NAME, "theirs", hub.files(NAME))

    hub.fail = meanwhile
    assert "changed the repository at the same time" in refused("mixture.seed=5")
    hub.fail = lambda method, path: None
    push("mixture.seed=5")
    assert hub.messages(NAME)[2] == "theirs" and len(hub.messages(NAME)) == 4


def test_a_passing_trouble_is_waited_out(world, hub):
    left = [503, 500]
    hub.fail = lambda method, path: left.pop() if left and "/preupload/" in path else None
    push()
    assert left == [] and len(hub.messages(NAME)) == 2


def test_a_full_disk_is_told_and_leaves_nothing_half_written(world, hub, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "_write_rows", full)
    assert "No space left on device" in refused() and hub.requests == []
    assert list((world / "runs/tiny/sft/hub").iterdir()) == []


def test_a_bug_keeps_its_traceback(world, hub, monkeypatch):
    def bug(*_):
        raise KeyError("ours")

    monkeypatch.setattr(upload, "_target", bug)
    with pytest.raises(KeyError):
        push()


def test_the_verb(world, hub, capsys):
    assert cli.main(["push-data", "recipes/tiny", "--dry"]) == 0 and hub.requests == []
    assert cli.main(["push-data", "recipes/tiny", "publish.private=false"]) == 0
    assert hub.repositories[NAME]["private"] is False
    capsys.readouterr()
    assert cli.main(["push-data", "recipes/tiny", "publish.hub_dataset_id=x"]) == 2
    assert capsys.readouterr().err.startswith("agenttuning push-data: ")


def test_the_card_names_the_models_own_template(world, hub):
    write_tokenizer(world / "own", "chatml", OWN["dated"])
    rows = "model_name_or_path=own", "mixture.chat_format=tokenizer", "mixture.max_overlong_loss=1", "max_length=400"
    assert push(*rows, dry=True) is None
    text = (world / "runs/tiny/sft/hub/data/README.md").read_text()
    settings = json.loads((world / "runs/tiny/sft/data/mixture.json").read_text())["settings"]
    assert f"own template, sha256 `{settings['template'][:16]}`, which prints the date 2024-07-26)" in text
