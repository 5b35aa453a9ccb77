"""A finished run reaches the Hub whole, checked, with a card that tells what was measured, and with no secret in it."""

from __future__ import annotations

import json
import re
import shutil
import socket
from dataclasses import replace

import pytest
import yaml

from agenttuning import cli
from agenttuning.errors import UserError
from agenttuning.hub import check, model_folder, secrets, traces
from agenttuning.hub.push import push
from agenttuning.hub.results import published_place
from agenttuning.scoring import comparison
from helpers.episode_records import record, said, stored
from helpers.hub_double import hub_double, without_waiting
from helpers.pushable_run import DATA, MODEL, PATH, PUBLISH, TITLE, TRACES

from helpers.pushable_run import entry, pushable_world, recipe_of, write_scores  # isort: skip

HF_TOKEN = "hf_" + "cAnArY0123456789cAnArY0123456789cA"
API_KEY = "a-key-of-no-known-format-0123456789"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    pushable_world(path)
    return path


@pytest.fixture(scope="module")
def sent(world):
    """The dry run of everything, once: what it printed, and the folder that it staged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", HF_TOKEN)
        patch.setenv("JUDGE_API_KEY", API_KEY)
        refuse_sockets(patch)
        return staged(world)


def staged(world, *words, run_dir=None):
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.main(
            ["push", str(world / PATH), "--run-dir", str(run_dir or world / "run"), *PUBLISH, "--dry-run", *words]
        )
    assert status == 0, out.getvalue()
    return out.getvalue(), (run_dir or world / "run") / "hub"


def refuse_sockets(patch):
    def refuse(*_, **__):
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, name, refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    patch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def run(world, sent, tmp_path):
    """A copy of the run, for a test that changes it."""
    shutil.copytree(world / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "hub"))
    return tmp_path / "run"


@pytest.fixture
def hub(monkeypatch):
    with hub_double() as double:
        without_waiting(monkeypatch, double)
        yield double


def refused(world, run_dir, *overrides, **options) -> str:
    """The refusal, by which nothing was staged."""
    shutil.rmtree(run_dir / "hub", ignore_errors=True)
    with pytest.raises(UserError) as caught:
        push(recipe_of(world, *overrides, run_dir=run_dir), dry=True, **options)
    left = list((run_dir / "hub").rglob("*")) if (run_dir / "hub").exists() else []
    assert not left, left
    return str(caught.value)


def card(folder) -> tuple[dict, str]:
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


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
    staged(world)
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


@pytest.mark.parametrize("place", ["train.json", "eval/tuned/general/paper/transformers/scores.json", "episode"])
@pytest.mark.parametrize("secret", [HF_TOKEN, API_KEY])
def test_a_secret_in_what_would_go_stops_the_push(world, run, place, secret, monkeypatch, capfd):
    monkeypatch.setenv("JUDGE_API_KEY", API_KEY)
    shutil.rmtree(run / "export")  # as after a training whose log holds it
    if place == "train.json":
        said_ = json.loads((run / place).read_text())
        (run / place).write_text(json.dumps({**said_, "device": f"cpu {secret}"}))
    elif place == "episode":
        model = json.loads((run / "train.json").read_text())["model"][:16]
        stored(run / "eval/tuned/x", record("kg", "k", *said(f"echo {secret}"), model=f"tuned@{model}"))
    else:
        path = run / place
        path.write_text(path.read_text().replace("transformers", secret, 1))
    if place == "episode" and secret == HF_TOKEN:  # of a known format: its session stays here, and that is counted
        push(recipe_of(world, run_dir=run), dry=True, only="traces")
        body = card(run / "hub/traces")[1]
        assert "holds what looks like a secret (Hugging Face token): 1" in body and secret not in body
    else:
        text = refused(world, run, only="traces" if place == "episode" else "model")
        assert "looks like a secret" in text and secret not in text
        assert secret == HF_TOKEN or "the value of JUDGE_API_KEY" in text
    out, err = capfd.readouterr()
    assert secret not in out + err
    assert not any(secret.encode() in path.read_bytes() for path in (run / "hub").rglob("*") if path.is_file())


def test_a_finding_that_was_looked_at_goes(world, run, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", API_KEY)
    path = run / "eval/tuned/general/paper/transformers/scores.json"
    path.write_text(path.read_text().replace("in this process", API_KEY, 1))
    assert "secrets.jsonl" in refused(world, run, only="model")
    record_ = run / secrets.FOUND
    shutil.copy(record_, run / "looked-at.jsonl")
    push(recipe_of(world, run_dir=run), dry=True, only="model", reviewed=run / "looked-at.jsonl")
    assert (run / "hub/model/README.md").is_file() and not record_.exists()


# --- refusals


def test_everything_that_is_missing_is_told_at_once(world, run):
    wrong = {"hub_model_id": "nobody", "hub_traces_id": "a b/c", "base_model": "x/y/z"}
    text = refused(world, run, *(f"publish.{key}='{value}'" for key, value in wrong.items()))
    assert all(f"publish.{key} is '{value}'" in text for key, value in wrong.items())
    with pytest.raises(UserError, match="none of publish.hub_model_id"):
        push(recipe_of(world, *(word.partition("=")[0] + "=null" for word in PUBLISH), run_dir=run), dry=True)
    with pytest.raises(UserError, match="--only weights"):
        push(recipe_of(world, run_dir=run), dry=True, only="weights")
    with pytest.raises(UserError, match="would do nothing"):
        push(recipe_of(world, run_dir=run), dry=True, only="data", model=run)


def test_without_a_token_nothing_is_begun(world, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        push(recipe_of(world, run_dir=run))
    assert not (run / "hub").exists()


def test_a_licence_that_lacks_something_is_not_passed_on(world, run):
    assert "say its Hub id: publish.base_model" in refused(world, run, "publish.base_model=null", only="model")
    assert "can't undo" in refused(world, run, "publish.licence=mit", only="model")
    for name, said_ in (("LICENSE.txt", "licence text"), ("USE_POLICY.md", "use policy"), ("Notice.txt", "notice: no")):
        whole = (run / "export" / name).read_bytes()
        (run / "export" / name).unlink()
        assert said_ in refused(world, run, only="model")
        (run / "export" / name).write_bytes(whole)
    facts = json.loads((run / "export/export.json").read_text())
    facts["base"] |= {"licence": "llama3.1", "terms": ["LICENSE.txt", "USE_POLICY.md"]}
    (run / "export/export.json").write_text(json.dumps(facts))
    assert "begins with Llama" in refused(world, run, only="model")
    push(recipe_of(world, "publish.hub_model_id=me/Llama-3.1-agent", run_dir=run), dry=True, only="model")
    facts["base"] |= {"licence": None, "hub_id": None, "terms": []}
    (run / "export/export.json").write_text(json.dumps(facts))
    assert "publish.licence=" in refused(world, run, "publish.base_model=null", only="model")
    push(recipe_of(world, "publish.base_model=null", "publish.licence=mit", run_dir=run), dry=True, only="model")
    header, body = card(run / "hub/model")
    assert header["license"] == "mit" and "base_model" not in header
    assert "The publisher states the licence `mit`" in body


def test_numbers_and_mixtures_of_another_model_are_refused(world, run):
    other = {"gsm8k": entry(1.0, 1319)}
    path = write_scores(run, "tuned", "general/corrected/vllm", "corrected@1", "tuned@" + "0" * 16, other)
    assert "another model's numbers" in refused(world, run, only="model")
    path.unlink()
    mixture = run / "data/mixture.json"
    mixture.write_text(mixture.read_text().replace(json.loads(mixture.read_text())["key"], "0" * 64))
    assert "another mixture" in refused(world, run, only="model")
    mixture.unlink()
    push(recipe_of(world, run_dir=run), dry=True, only="model")
    assert "were not kept with the run" in card(run / "hub/model")[1]
    stored(run / "eval/tuned/x", record("kg", "k", *said("x"), model="tuned@" + "1" * 16))
    assert "another model's numbers" in refused(world, run, only="traces")
    shutil.rmtree(run / "eval")
    assert "holds no episode" in refused(world, run, only="traces")


def test_what_a_server_played_counts_where_the_comparison_says_so(world, run):
    shutil.move(run / "eval/tuned", run / "eval/served-x")
    made = comparison.read(run)
    rows = tuple(replace(row, scores=(row.scores or "").replace("/tuned/", "/served-x/") or None) for row in made.rows)
    comparison.write(replace(made, rows=tuple(replace(row, model="x") for row in rows)), run)
    push(recipe_of(world, run_dir=run), dry=True, only="model")
    body = card(run / "hub/model")[1]
    assert "| gsm8k | exact match | stock@0.4.13 | transformers | 40.0" in body
    assert (run / "hub/model/results/served-x/general/paper/transformers/scores.json").is_file()
    push(recipe_of(world, run_dir=run), dry=True, only="traces")
    assert len(list((run / "hub/traces").rglob("*.jsonl"))) == 4
    (run.parent / "x.json").write_text("{}")
    comparison.write(replace(made, rows=(replace(made.rows[0], scores="../x.json"),)), run)
    push(recipe_of(world, run_dir=run), dry=True, only="model")
    assert not list((run / "hub").rglob("x.json"))


def test_an_export_that_changed_is_refused_and_one_of_other_weights_made_anew(world, run, monkeypatch):
    made = []
    monkeypatch.setattr(model_folder, "export", lambda *_, **__: made.append(1))
    push(recipe_of(world, run_dir=run), dry=True, only="model")
    assert not made
    trained = json.loads((run / "train.json").read_text())
    (run / "train.json").write_text(json.dumps({**trained, "recipe_hash": "0"}))
    push(recipe_of(world, run_dir=run), dry=True, only="model")
    assert made == [1]
    weights = run / "export/model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.unlink()  # its other name is in the module's folder
    weights.write_bytes(raw)
    assert "model.safetensors has changed" in refused(world, run, only="model", model=run / "export")
    assert "no export.json" in refused(world, run, only="model", model=run / "data")


@pytest.mark.parametrize(
    ("name", "content", "said_"),
    [
        ("training_args.bin", b"\x80\x04pickle", "no file that is published"),
        ("pytorch_model.pt", b"x", "no file that is published"),
        ("modeling_custom.py", b"import os", "no file that is published"),
        ("LICENSE.exe", b"x", "no file that is published"),
        ("broken.safetensors", b"\x10\0\0\0\0\0\0\0{}", "header cannot be read"),
        (
            "short.safetensors",
            b'\x35\0\0\0\0\0\0\0{"a":{"dtype":"I8","shape":[9],"data_offsets":[0,9]}}',
            "not as long",
        ),
    ],
)
def test_files_that_must_not_go(world, run, name, content, said_):
    (run / "export" / name).write_bytes(content)
    text = refused(world, run, only="model")
    assert f"{name}" in text and said_ in text


def test_links_must_not_go(world, run):
    (run / "export/notes.txt").symlink_to("/etc/hostname")
    (run / "export/inner.txt").symlink_to("config.json")
    text = refused(world, run, only="model")
    assert "notes.txt is a link (out of the folder)" in text and "inner.txt is a link (within it)" in text


@pytest.mark.parametrize(
    ("field", "header"),
    [
        ("tags", "license: mit\ntags: agents: 1\n"),
        ("tags", "license: mit\ntags: [1, 2]\n"),
        ("license", "tags: [a]\n"),
        ("license", "license: [1]\ntags: [a]\n"),
        ("license_name", "license: other\ntags: [a]\n"),
        ("language", "license: mit\ntags: [a]\nlanguage: [english]\n"),
        ("base_model", "license: mit\ntags: [a]\nbase_model: ../weights\n"),
        ("datasets", "license: mit\ntags: [a]\ndatasets: [runs/tiny/data]\n"),
        ("model_index", "license: mit\ntags: [a]\nmodel-index: [{name: x}]\n"),
        ("model_index", "license: mit\ntags: [a]\nmodel-index: [{name: x, results: [{task: {}, dataset: {}}]}]\n"),
        ("dict", "- a\n"),
    ],
)
def test_a_header_that_the_hub_would_not_take_names_the_field(field, header):
    with pytest.raises(UserError, match=field):
        check.card(f"---\n{header}---\n\n# x\n", "model")


def test_what_a_push_may_delete():
    ours = ("model.safetensors", "model-00002-of-00003.safetensors", "model.safetensors.index.json", "tokenizer.json",
            "results/tuned/scores.json", ".eval_results/gsm8k.yaml", "mixture.json")  # fmt: skip
    theirs = (".eval_results/hle.yaml", "figure.png", "results/notes.md", "README.md", "other.safetensors", "LICENSE",
              ".gitattributes", "a/model.safetensors")  # fmt: skip
    assert all(map(model_folder.owned, ours)) and not any(map(model_folder.owned, theirs))


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
