"""The authors' weights through both evaluations: a folder as one of 2023, from the command line to the comparison."""

from __future__ import annotations

import base64
import json
import re
from argparse import Namespace
from pathlib import Path

import pytest

from agenttuning import cli, model_files, model_size, recipe, released
from agenttuning.chat import sentencepiece
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import comparison, scores
from helpers import agentbench_checkout
from helpers.paper_scores import as_published, won, write

RECIPE = str(REPOSITORY / "recipes/agentlm-13b/sft.yaml")
GOLDEN = Path(__file__).parents[1] / "golden/tokenizer_model.json"
# eval_general/eval_gsm8k_tgi.py as far as it is read: two worked sums of our own
SCRIPT = """
Q1 = "Question: Ann has 2 cups and gets 3 more. How many cups?"
A1 = "2 + 3 = 5. The answer is 5"
shots = [(Q1, A1)]
def doc_to_text(conv, doc):
    conv.append_message(conv.roles[0], "Solve it, step by step. ")
    conv.append_message(conv.roles[1], "Yes.")
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny model that ends every reply at once, with tokenizer.model and a small tokenizer_config.json."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("agentlm")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=480, max_position_embeddings=4096))
    with torch.no_grad():
        for weight in (made.model.layers[0].self_attn.o_proj.weight, made.model.layers[0].mlp.down_proj.weight):
            weight.zero_()
        made.model.embed_tokens.weight.fill_(1.0)
        made.lm_head.weight.zero_()
        made.lm_head.weight[2] = 1.0  # </s>
    made.save_pretrained(folder)
    model = base64.b64decode(json.loads(GOLDEN.read_text())["model_base64"])
    (folder / sentencepiece.FILE).write_bytes(model)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, request) -> None:
    """Weights of our tiny model's shape pass for the 13B's."""
    if "weights" in request.fixturenames:
        monkeypatch.setitem(model_size.LLAMA_2, "13b", model_size.find(str(request.getfixturevalue("weights"))))


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout of THUDM/AgentTuning in our own words."""
    agentbench_checkout.write(tmp_path / "AgentTuning/AgentBench.old")
    script = tmp_path / "AgentTuning/eval_general/eval_gsm8k_tgi.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    return tmp_path / "AgentTuning"


@pytest.fixture
def sums(tmp_path) -> Path:
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(12)]
    for split in ("test", "train"):
        file = tmp_path / f"gsm8k/{split}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "gsm8k"


def test_one_command_scores_a_local_copy_by_both_and_compare_shows_it_first(
    weights, checkout, sums, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = tmp_path / "run"
    words = ["--run-dir", str(run), "--model", str(weights), "--prompts", str(checkout), "--items", "2"]
    words += ["--task", "kg", "--task", "gsm8k", "--data", f"gsm8k={sums}"]
    assert cli.main(["eval-released", RECIPE, *words]) == 0
    held_in = scores.read(run / "eval/released/held-in/paper-text/scores.json")
    general = scores.read(run / "eval/released/general/paper/transformers/scores.json")
    digest = model_files.model_digest(weights)[:16]
    assert held_in["model"] == general["model"] == f"released@{digest}"
    assert (held_in["protocol"], general["protocol"]) == ("paper-text@1", "paper@1")
    assert list(held_in["tasks"]) == ["practice-kg.embedded"] and held_in["tasks"]["practice-kg.embedded"]["n"] == 2
    [sum_score] = general["tasks"].values()
    assert (sum_score["task"], sum_score["n"], sum_score["lost"]) == ("gsm8k", 2, 0)
    capsys.readouterr()
    assert cli.main(["compare", RECIPE, "--run-dir", str(run)]) == 0
    text = capsys.readouterr().out
    block = text[text.index("\nRELEASED") : text.index("\nTUNED")]
    assert "KG" in block and "practice items of our own" in block and "2 items, and the benchmark has 1,319" in block
    found = comparison.read(run)
    assert {row.task for row in found.rows if row.side == "released" and row.beside} == {"kg", "gsm8k"}
    assert all(row.verdict != "consistent" for row in found.rows), "two practice items are no reproduction"


def test_what_one_part_lacks_does_not_cost_the_other_its_turn(weights, checkout, tmp_path, capsys) -> None:
    (checkout / "eval_general/eval_gsm8k_tgi.py").unlink()
    run = tmp_path / "run"
    words = ["--run-dir", str(run), "--model", str(weights), "--prompts", str(checkout), "--items", "1"]
    words += ["--task", "gsm8k", "--task", "kg", "--data", f"gsm8k={tmp_path / 'none'}"]
    assert cli.main(["eval-released", RECIPE, *words]) == 2
    said = capsys.readouterr()
    assert "general has no score yet" in said.out and "no score of general, for" in said.err
    assert (run / "eval/released/held-in/paper-text/scores.json").is_file()


def test_another_model_is_not_scored_as_the_authors(weights, tmp_path, monkeypatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UserError, match="no AgentLM-13B .1 layers of width 32, where that has 40 of width 5120.; its"):
        released.find(recipe.load(RECIPE, (), tmp_path), str(weights))


def test_without_a_copy_the_known_ids_are_asked_for_what_is_needed_and_nothing_else(monkeypatch, tmp_path) -> None:
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    one = recipe.load(RECIPE, (), tmp_path)
    with pytest.raises(UserError, match=r"no network here.*also seen as zai-org/agentlm-13b"):
        released.find(one, None)
    [(name, revision, patterns)] = asked
    assert (name, revision) == ("THUDM/agentlm-13b", None)
    wanted = {"tokenizer.model", "*.safetensors", "*.json", "config.json"}
    assert wanted <= set(patterns) and not any(re.search(r"\.bin|\.pt|\.py|pickle|^\*$", one) for one in patterns)
    with pytest.raises(UserError, match="no network here") as refused:
        released.find(one, "zai-org/agentlm-13b")
    assert "also seen" not in str(refused.value) and asked[1][0] == "zai-org/agentlm-13b"


def test_pickles_are_refused_with_a_way_on(tmp_path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"pickles \(\*.bin\) take another revision or copy"):
        model_files.model_digest(tmp_path)


def test_tokenizer_model_counts_in_the_digest_only_where_it_decides_the_ids(weights, tmp_path) -> None:
    import shutil

    copy = Path(shutil.copytree(weights, tmp_path / "copy"))
    before = model_files.model_digest(copy)
    (copy / "tokenizer_config.json").write_text("{}")
    assert model_files.model_digest(copy) == before
    (copy / sentencepiece.FILE).write_bytes(b"other")
    assert model_files.model_digest(copy) != before
    (copy / "tokenizer.json").write_text("{}")
    with_json = model_files.model_digest(copy)
    (copy / sentencepiece.FILE).write_bytes(b"third")
    assert model_files.model_digest(copy) == with_json


def arguments(*words: str) -> Namespace:
    return cli.parse("eval-released", [RECIPE, *words])


def test_each_part_gets_its_own_options(tmp_path, weights) -> None:
    one = recipe.load(RECIPE, (), tmp_path)
    words = ["--model", str(weights), "--data", "db=a.jsonl", "--data", "mmlu=b", "--backend", "db=sqlite"]
    words += ["--backend", "vllm", "--prompts", "AgentTuning", "--items", "3", "--env", "os.network=bridge"]
    parts = released.parts(one, arguments(*words))
    assert list(parts) == ["general", "held-in"], "what can fail soonest comes first"
    general, held_in = parts["general"], parts["held-in"]
    assert (general.data, general.backend, general.protocol) == (["mmlu=b"], "vllm", "paper")
    assert (held_in.data, held_in.backend, held_in.protocol) == (["db=a.jsonl"], ["db=sqlite"], "paper-text")
    assert set(held_in.task) == {"os", "db", "kg", "alfworld", "webshop", "mind2web"} and "mmlu" in general.task
    for part in (general, held_in):
        assert (part.label, part.items, part.prompts, part.out) == ("released", 3, "AgentTuning", None)
        assert part.model == str(weights)
    behind = ["--server", "http://127.0.0.1:1/v1", "--served-model", "x", "--model", str(weights)]
    parts = released.parts(one, arguments(*behind, "--task", "kg", "--task", "mmlu"))
    assert (parts["held-in"].model, parts["general"].model) == (None, str(weights)), "the tokenizer's folder"
    assert list(released.parts(one, arguments("--model", str(weights), "--task", "kg"))) == ["held-in"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "mmlu2"], "no task 'mmlu2'.*mmlu"),
        (["--task", "kg", "--data", "db=x"], "--data speaks of db"),
        (["--backend", "vllm", "--backend", "transformers"], "one of them would do nothing"),
    ],
)
def test_mistakes_are_said(words, said, weights, tmp_path) -> None:
    with pytest.raises(UserError, match=said):
        released.parts(recipe.load(RECIPE, (), tmp_path), arguments("--model", str(weights), *words))


def test_there_are_weights_for_the_papers_sizes_and_no_others(tmp_path) -> None:
    for size in ("7b", "13b", "70b"):
        known = released.weights(recipe.load(REPOSITORY / f"recipes/agentlm-{size}/sft.yaml", (), tmp_path))
        assert known.hub_id.endswith(f"agentlm-{size}") and known.other_ids
    with pytest.raises(UserError, match="none of the paper's sizes"):
        released.weights(recipe.load(REPOSITORY / "recipes/agentlm-tiny/sft.yaml", (), tmp_path))


def test_a_miss_of_the_released_weights_stands_before_ours(tmp_path, capsys) -> None:
    place = ("held-in/paper-text", "paper-text@1")
    write(tmp_path, "released", *place, {"alfworld": won(10, 50), "os": won(26, 144)})
    write(tmp_path, "tuned", *place, as_published("13b", "tuned", ["alfworld", "os"]))
    assert cli.main(["compare", RECIPE, "--run-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^released +1 +1 +0 +14$", text, re.M) and re.search(r"^tuned +2 +0 +0 +14$", text, re.M)
    assert text.index("differs", text.index("\nRELEASED")) < text.index("\nTUNED")
