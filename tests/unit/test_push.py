"""A finished run reaches the Hub whole, with a card that tells what was measured."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml

from agenttuning import cli
from agenttuning.hub import check, model_folder, traces
from agenttuning.hub.push import push
from agenttuning.hub.results import published_place
from helpers.hub_double import hub_double, without_waiting
from helpers.pushable_run import API_KEY, DATA, HF_TOKEN, MODEL, TITLE, TRACES

from helpers.pushable_run import card, copied, dry_run, pushed, recipe_of, refuse_sockets, refused  # isort: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return pushed(tmp_path_factory.getbasetemp())[0]


@pytest.fixture
def run(world, tmp_path):
    return copied(world, tmp_path)


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    return pushed(tmp_path_factory.getbasetemp())[1:]


@pytest.fixture
def hub(monkeypatch):
    with hub_double() as double:
        without_waiting(monkeypatch, double)
        yield double


# --- the dry run


def test_a_dry_run_shows_every_file_and_connects_to_nothing(sent):
    out, folder = sent
    for what, repository in (("model", MODEL), ("data", DATA), ("traces", TRACES)):
        assert f"to the private {repository} (" in out
        for path in (folder / what).rglob("*"):
            if path.is_file():
                assert re.search(rf"  {re.escape(path.relative_to(folder / what).as_posix())} +\d", out), path
    assert re.search(r"model.safetensors +[\d.]+ kB  as a large file", out)
    assert re.search(r"tag: v-[0-9a-f]{12}\n", out) and "    base_model: meta-llama/Llama-2-13b-chat-hf\n" in out
    assert f"collection: {TITLE} of someone (private): {MODEL} (model), {DATA} (dataset)" in out
    assert out.rstrip().endswith("nothing was sent") and "deleted there if it is not among these" in out


def test_in_a_dry_run_the_hubs_own_library_is_offline(world, run, monkeypatch):
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(model_folder, "stage", lambda *_, **__: HfApi().model_info("a/b"))
    refuse_sockets(monkeypatch)
    with pytest.raises(OfflineModeIsEnabled):
        push(recipe_of(world, run_dir=run), dry=True, only="model")
    assert constants.HF_HUB_OFFLINE is False


def test_the_base_of_an_export_is_looked_for_in_the_cache_alone(world, run, monkeypatch):
    """A Hub's name for the base, and no export yet: what it lacks is told without a connection."""
    from agenttuning import preflight

    shutil.rmtree(run / "export")
    monkeypatch.setattr(preflight, "reachable", lambda _: pytest.fail("the Hub was looked for"))
    monkeypatch.setattr("agenttuning.export.source._check_recipe", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(run / "no-cache"))
    refuse_sockets(monkeypatch)
    assert "neither the cache nor the Hub" in refused(world, run, "model_name_or_path=a/base", only="model")


def test_the_same_run_gives_the_same_bytes(world, sent, tmp_path):
    _, folder = sent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    dry_run(world)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_weights_are_not_copied(sent, world):
    assert (sent[1] / "model/model.safetensors").samefile(world / "run/export/model.safetensors")


def test_both_verbs_take_both_spellings():
    for verb in ("push", "push-data"):
        assert [cli.parse(verb, ["x", *word]).dry for word in (["--dry"], ["--dry-run"], [])] == [True, True, False]


# --- the card


def test_the_header_is_read_back_by_the_hubs_own_library(sent):
    from huggingface_hub import ModelCard

    header, _ = card(sent[1] / "model")
    assert header["license"] == "llama2" and header["base_model_relation"] == "finetune"
    assert header["language"] == ["en"] and header["datasets"] == [DATA] and header["library_name"] == "transformers"
    assert {"sft", "trl", "agent", "agenttuning"} <= set(header["tags"])
    data = ModelCard.load(sent[1] / "model/README.md").data
    found = {(one.dataset_type, one.metric_value): one for one in data.eval_results}
    twice = {("openai/gsm8k", 32.25), ("openai/gsm8k", 40.0)}
    assert set(found) == {*twice, ("mmlu", 53.0), ("mt_bench", 5.25), ("os", 20.0)}
    one = found["openai/gsm8k", 32.25]
    assert "paper@1, n = 1319, 95 % interval 30.2 to 34.2" in one.metric_name
    assert one.source_url.endswith(f"/{MODEL}/blob/main/results/tuned/general/paper/transformers/scores.json")


def test_every_number_has_its_n_interval_and_protocol(sent):
    _, body = card(sent[1] / "model")
    for words in (
        "| GSM8K | tuned (agentlm-13b) | 32.4 (29.9 to 35.0), n 1,319 | 32.2 (30.2 to 34.2), n 1,319 "
        "| −0.1 (−3.6 to +3.3) | 3.6 | paper@1 | transformers | consistent |",
        "| not comparable: a reason \\| with &lt;b>bars&lt;/b> |",
        "- HumanEval: make eval-general-13b, 0.1 hours, $1\n",
        "| general | tuned | 0.69 | 0.79 | 0.80 (0.70 to 0.90) | 2 of 4: gsm8k, mmlu |",
        "| tuned - base | gsm8k | paper@1 | 1,319 | +10.0 (+8.0 to +12.0) | &lt; 0.001 |",
        "| gsm8k | exact match | paper@1 | transformers | 32.2 (30.2 to 34.2), n 1,319 | 22.2 (20.2 to 24.2), n 1,3",
        "| gsm8k | exact match | stock@0.4.13 | transformers | 40.0 (38.0 to 42.0), n 1,319 |",
        "| mt_bench | rating | paper@1 | transformers | 5.25 (3.25 to 7.25), n 80 |",
        "| os | success rate | paper-text@2 | transformers | 20.0 (18.0 to 22.0), n 144, 2 lost |",
        "| webshop | reward | paper-text@2 | transformers | no score |",
        "No score of webshop by paper-text@2: 200 of 200 episodes lost.",
        "mt_bench by paper@1 is no score to set beside the paper's: the judge is not the paper's.",
        "| gsm8k | 1,319 | 1,300 | 10 | 3 | 6 | 0.04 % |",
        "Not compared: os (no items here)",
        "before they were rounded to bfloat16",
        "Table 4 gives 7B a general score of 0.62 and Table 5 gives 0.63",
        "Llama 2 is licensed under the LLAMA 2 Community License",
    ):
        assert words in body, words
    assert "the text of a test item" not in body and "trust_remote_code" not in body


def test_the_card_tells_the_run(sent, world):
    _, body = card(sent[1] / "model")
    mixture = json.loads((world / "run/data/mixture.json").read_text())
    log = json.loads((world / "run/train.json").read_text())["log"]
    agents = mixture["sources"]["agents"]
    row = f"| {agents['rows']:,} | {agents['draws']:,} | {agents['epochs']:.2f} | {agents['tokens']:,} |"
    assert row in body and f"| loss | {log[0]['loss']:.3f} (first logged, step 1), {log[-1]['loss']:.3f} (last" in body
    tag = re.search(r"The tag `(v-[0-9a-f]{12})`", body)[1]
    assert f'name, revision = "{MODEL}", "{tag}"' in body
    compile(re.search(r"```python\n(.*?)```", body, re.DOTALL)[1], "card", "exec")


@pytest.mark.parametrize("what", ["model", "data", "traces"])
def test_hostile_names_break_no_table_and_open_no_tag(sent, what):
    _, body = card(sent[1] / what)
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert not re.search(r"<[a-zA-Z/!]|\x1b|\u202e|(?<!\\)\[pretty", prose)
    assert all(link.startswith("https://") for link in re.findall(r"(?<!\\)\[[^]]*\]\(([^)]*)", prose))
    tables = re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)
    assert tables
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
        assert re.match(r"\|[-:| ]+\|$", table.splitlines()[1]), table
    for heading in re.finditer(r"^#+ ", body.partition("```")[0], re.MULTILINE):
        assert heading.start() < 2 or body[heading.start() - 2 : heading.start()] == "\n\n"


def test_a_registered_benchmark_has_its_file_and_no_other(sent):
    folder = sent[1] / "model/.eval_results"
    assert [path.name for path in folder.iterdir()] == ["gsm8k.yaml"]
    (one,) = check.eval_results(folder / "gsm8k.yaml")
    assert (one.dataset_id, one.task_id, one.value, one.dataset_revision) == ("openai/gsm8k", "gsm8k", 40.0, "e" * 40)
    assert one.notes.startswith("protocol stock@0.4.13, n = 1319, 95 % interval 38.0 to 42.0, backend transformers")
    assert one.source_url.endswith("results/tuned/general/stock/transformers/scores.json") and one.date[:4] == "2026"
    assert (sent[1] / "model" / one.source_url.partition("/main/")[2]).is_file()


# --- what is in the folders


def test_what_goes_is_what_was_measured_and_no_path_of_this_machine(sent, world):
    folder = sent[1] / "model"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"LICENSE.txt", "USE_POLICY.md", "Notice.txt", "mixture.json", "train.json", "recipe.yaml"} <= names
    assert {"results/comparison.json", "results/base/general/paper/transformers/scores.json"} <= names
    assert "contamination.json" not in names
    for path in sent[1].rglob("*"):
        assert not path.is_file() or str(world).encode() not in path.read_bytes(), path
    scores = json.loads((folder / published_place("eval/tuned/general/paper/transformers/scores.json")).read_text())
    assert scores["tasks"]["gsm8k"]["rewards"] and scores["notes"]["model_path"] == "model"


def test_traces_are_the_tuned_models_and_say_whose_text_they_hold(sent, tmp_path):
    folder = sent[1] / "traces"
    header, body = card(folder)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")]
    assert len(files) == 4 and all(traces.owned(name) for name in files) and not traces.owned("README.md")
    assert not any(b"of-the-base" in path.read_bytes() for path in folder.rglob("*.jsonl"))
    assert [one["config_name"] for one in header["configs"]] == ["db", "os"]
    assert "| os | paper-text@1 | embedded | 3 | 1 | 50.0 (9.5 to 90.5) |" in body
    assert "| db.sqlite | paper-text@1 | sqlite | 1 | 0 |" in body and "WebShop" not in body
    assert "| os | AgentBench (Apache-2.0), read from" in body and "do not train" in body
    registration = yaml.safe_load((sent[1] / "eval.yaml").read_text())
    assert registration["tasks"] == [{"id": name, "config": name, "split": "test"} for name in ("db", "os")]
    lines = [json.loads(line) for line in (folder / files[0]).read_text().splitlines()]
    assert lines[0]["type"] == "session" and {line["type"] for line in lines[1:]} == {"message"}


def test_a_canary_is_nowhere(sent):
    out, folder = sent
    text = out.encode() + b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert HF_TOKEN.encode() not in text and API_KEY.encode() not in text


# --- to the double of the Hub


def test_it_arrives_loads_and_a_second_push_changes_nothing(world, run, hub, tmp_path, capsys):
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = push(recipe_of(world, run_dir=run))
    assert made["model"] == f"{hub.url}/{MODEL}" and made["collection"]
    assert all(len(hub.messages(name)) == 2 for name in (MODEL, f"datasets/{DATA}", f"datasets/{TRACES}"))
    tag = re.search(r"The tag `(v-[0-9a-f]{12})`", hub.files(MODEL)["README.md"].decode())[1]
    assert hub.repositories[MODEL]["tags"][tag] == hub.repositories[MODEL]["commits"][-1][0]
    again = push(recipe_of(world, run_dir=run))
    assert again == made and len(hub.messages(MODEL)) == 2 and capsys.readouterr().out.count("no commit") == 3
    place = hub.download(MODEL, tmp_path / "back")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt", return_dict=True)
    assert model.generate(**ids, max_new_tokens=2, max_length=None).shape[0] == 1
    rows = load_dataset(
        str(hub.download(f"datasets/{TRACES}", tmp_path / "traces")), "os", split="test", cache_dir=str(tmp_path / "c")
    )
    assert sum(row["type"] == "session" for row in rows) == 3


def test_new_scores_are_one_commit_and_stale_ones_go(world, run, hub):
    push(recipe_of(world, run_dir=run), only="model")
    hub.add(MODEL, "theirs", {**hub.files(MODEL), ".eval_results/hle.yaml": b"- value: 1\n"})
    shutil.rmtree(run / "eval/tuned/general/stock")
    push(recipe_of(world, run_dir=run), only="model")
    names = set(hub.files(MODEL))
    assert len(hub.messages(MODEL)) == 4 and ".eval_results/hle.yaml" in names
    assert "results/tuned/general/stock/transformers/scores.json" not in names
    assert b"paper@1" in hub.files(MODEL)[".eval_results/gsm8k.yaml"] and len(hub.repositories[MODEL]["tags"]) == 2
