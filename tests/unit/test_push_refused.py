"""What must not reach the Hub stays here: secrets, other files, another model's numbers, licences that lack a part."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agenttuning import run_record
from agenttuning.errors import UserError
from agenttuning.hub import check, model_folder, secrets
from agenttuning.hub.push import push
from agenttuning.model_files import model_digest
from agenttuning.scoring import comparison
from helpers.episode_records import record, said, stored
from helpers.pushable_run import API_KEY, HF_TOKEN, PUBLISH

from helpers.pushable_run import card, copied, entry, pushed, recipe_of, refused, write_scores  # isort: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return pushed(tmp_path_factory.getbasetemp())[0]


@pytest.fixture
def run(world, tmp_path):
    return copied(world, tmp_path)


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


def test_a_comparison_that_is_older_than_the_scores_is_refused(world, run):
    path = run / "eval/tuned/general/paper/transformers/scores.json"
    before = path.read_text()
    content = json.loads(before)
    content["tasks"]["gsm8k"]["score"] += 1
    path.write_text(json.dumps(content))
    assert "says of GSM8K (tuned): 32.25, and the scores say otherwise" in refused(world, run, only="model")
    content["tasks"] = json.loads(before)["tasks"] | {"humaneval": entry(14.0, 164, "pass_at_1")}
    path.write_text(json.dumps(content))
    assert "says of HumanEval (tuned): not run" in refused(world, run, only="model")


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
        (
            "shape.safetensors",
            b'\x35\0\0\0\0\0\0\0{"a":{"dtype":"I8","shape":[9],"data_offsets":[0,2]}}xx',
            "SafetensorError",
        ),
        ("list.safetensors", b"\x02\0\0\0\0\0\0\0[]", "no object"),
        ("empty.safetensors", b"", "header cannot be read"),
        ("note.json", b"\x80\x04pickle", "not what its name says"),
        ("more_config.json", b'{"a": [{"auto_map": {"AutoConfig": "o/n--x.X"}}]}', "names code of a"),
        ("a\u202egnp.txt", b"x", "does not show what it is"),
        ("a\nb.txt", b"x", "does not show what it is"),
    ],
)
def test_files_that_must_not_go(world, run, name, content, said_):
    (run / "export" / name).write_bytes(content)
    text = refused(world, run, only="model")
    assert (name in text) is name.isprintable() and said_ in text


def test_an_export_names_no_code_of_the_bases_repository(world, run, tmp_path):
    shutil.copytree(world / "base", tmp_path / "base")
    for name in ("config.json", "tokenizer_config.json"):
        path = tmp_path / "base" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoConfig": "o/n--x.X"}}))
    recipe = recipe_of(world, f"model_name_or_path={tmp_path / 'base'}", run_dir=run)
    (run / "resolved.yaml").unlink()  # which says that it was trained from the other folder
    path = run / "model/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["o/n--x.X", None]}}))
    shutil.rmtree(run / "export")
    trained = json.loads((run / "train.json").read_text())
    (run / "train.json").write_text(json.dumps(trained | {"model": model_digest(run / "model")}))
    shutil.rmtree(run / "eval")
    (run / "results/comparison.json").unlink()
    push(recipe, dry=True, only="model")
    assert not any(b"auto_map" in path.read_bytes() for path in (run / "hub/model").rglob("*.json"))


def test_naming_a_repository_does_not_make_it_another_run(world, run):
    """Else `train` would begin again after a push."""
    key = SimpleNamespace(key=json.loads((run / "train.json").read_text())["data_key"])
    assert run_record.finished(recipe_of(world, run_dir=run), key)
    assert not run_record.finished(recipe_of(world, "learning_rate=0.1", run_dir=run), key)


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
