"""The base model's licence goes along, with what it asks for; where it cannot be had, an export is not called ready."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from agenttuning import preflight
from agenttuning.errors import UserError
from agenttuning.export import base, record
from agenttuning.recipe.schema import Publish

NAME = "meta-llama/Llama-2-13b-chat-hf"
# Clauses as the licences of Llama 3.1 and 2 word them, in texts of our own.
QUOTING = (
    "You must retain the following attribution notice within a \u201cNotice\u201d text file: \u201cLlama 3.1 is\n"
    "licensed under the Llama 3.1 Community License, Copyright \u00a9 Meta Platforms, Inc. All Rights\nReserved.\u201d "
    "You shall prominently display \u201cBuilt with Llama\u201d on a page."
)


def found(monkeypatch, folder: Path, name: str = NAME, **files: str) -> base.Base:
    """What is found for a Hub model whose repository holds these files (README__md for README.md)."""
    (folder / "config.json").write_text("{}")
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text, encoding="utf-8")
    monkeypatch.setattr(base, "_download", lambda *_: folder)
    return base.find(SimpleNamespace(values={"model_name_or_path": name, "model_revision": "abc"}, publish=Publish()))


def test_llama_2_with_its_files_is_ready(monkeypatch, tmp_path):
    made = found(monkeypatch, tmp_path, LICENSE__txt="the text", USE_POLICY__md="the policy", weights__bin="no")
    assert (made.licence, made.hub_id, made.revision, made.lacking) == ("llama2", NAME, "abc", [])
    assert made.terms == {
        "LICENSE.txt": b"the text",
        "USE_POLICY.md": b"the policy",
        "Notice.txt": base.LLAMA_2_NOTICE.encode() + b"\n",
    }


@pytest.mark.parametrize(("file", "said"), [("LICENSE__txt", "licence text"), ("USE_POLICY__md", "use policy")])
def test_a_file_that_cannot_be_had_is_lacking(monkeypatch, tmp_path, file, said):
    files = {"LICENSE__txt": "the text", "USE_POLICY__md": "the policy"}
    del files[file]
    made = found(monkeypatch, tmp_path, **files)
    assert len(made.lacking) == 1 and made.lacking[0].startswith(said)


def test_a_local_copy_is_known_by_its_licence(monkeypatch, tmp_path):
    made = found(monkeypatch, tmp_path, "someone/copy", LICENSE__txt="LLAMA 2 COMMUNITY  LICENSE AGREEMENT")
    assert made.licence == "llama2" and "Notice.txt" in made.terms


def test_a_licence_that_quotes_its_notice_gets_it(monkeypatch, tmp_path):
    header = "---\nlicense: llama3.1\n---\n"
    files = {"README__md": header, "LICENSE": QUOTING, "USE_POLICY__md": "p"}
    made = found(monkeypatch, tmp_path, "meta-llama/Llama-3.1-8B-Instruct", **files)
    assert made.licence == "llama3.1" and made.built_with == "Built with Llama" and made.lacking == []
    assert made.terms["Notice.txt"].decode() == (
        "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright \u00a9 Meta Platforms, Inc. All Rights "
        "Reserved.\n"
    )


def test_an_own_notice_is_kept_and_completed(monkeypatch, tmp_path):
    made = found(monkeypatch, tmp_path, LICENSE="t", USE_POLICY__md="p", NOTICE="An earlier notice.\n")
    assert made.terms["NOTICE"].decode() == f"An earlier notice.\n\n{base.LLAMA_2_NOTICE}\n"
    assert "Notice.txt" not in made.terms
    again = base._with_notice("llama2", made.terms)[0]
    assert again == made.terms  # not twice


def test_other_licences_take_their_own_files(monkeypatch, tmp_path):
    made = found(monkeypatch, tmp_path, "Qwen/Qwen3-8B", README__md="---\nlicense: apache-2.0\n---\n", LICENSE="Apache")
    assert (made.licence, made.terms, made.lacking) == ("apache-2.0", {"LICENSE": b"Apache"}, [])


def test_a_custom_licence_goes_by_its_name(monkeypatch, tmp_path):
    header = "---\nlicense: other\nlicense_name: house-rules\n---\n"
    made = found(monkeypatch, tmp_path, "a/b", README__md=header, LICENSE="x")
    assert (made.licence, made.licence_name) == ("other", "house-rules")  # the Hub takes no id of its own for it


def test_without_a_statement_nothing_is_guessed(monkeypatch, tmp_path):
    made = found(monkeypatch, tmp_path, "someone/model", README__md="---\n: : broken\n---\n")
    assert made.licence is None and len(made.lacking) == 2


def test_no_network_and_no_cache_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "reachable", lambda _: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="neither the cache nor the Hub"):
        base.find(SimpleNamespace(values={"model_name_or_path": NAME, "model_revision": "abc"}, publish=Publish()))


def test_records_lose_the_paths_of_this_machine():
    said = {"a": "/home/me/models/llama", "b": ["/data/x", 3, None], "c": "AGAINST=/data/tests.jsonl", "d": "runs/tiny"}
    public = {"a": "llama", "b": ["x", 3, None], "c": "AGAINST=tests.jsonl", "d": "runs/tiny"}
    assert json.loads(json.dumps(record.public(said))) == public
