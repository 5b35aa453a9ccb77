"""A folder with tokenizer.model alone gives the ids that SentencePiece itself gives, or is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from agenttuning.chat import encode_prompt, load_tokenizer, save_tokenizer, sentencepiece
from agenttuning.chat.tokenizer import encode_texts
from agenttuning.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden/tokenizer_model.json"  # "made_by" says how


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def folder(golden, tmp_path) -> Path:
    (tmp_path / sentencepiece.FILE).write_bytes(base64.b64decode(golden["model_base64"]))
    # what is beside it in a repository of 2023: no chat template, no class that knows the file
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "model_max_length": 4096}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_ids_are_those_of_sentencepiece(golden, folder) -> None:
    tokenizer = load_tokenizer(folder)
    assert len(golden["texts"]) > 50 and len(tokenizer) == 480
    assert encode_texts(tokenizer, golden["texts"]) == golden["ids"]
    assert [tokenizer.convert_tokens_to_ids(piece) for piece in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_a_prompt_has_the_space_piece_that_the_other_reading_loses(golden, folder) -> None:
    tokenizer = load_tokenizer(folder)
    ids = encode_prompt([{"role": "user", "content": "hi"}], tokenizer)
    assert ids == [1, *golden["ids"][golden["texts"].index("[INST] hi [/INST]")]]
    assert tokenizer.convert_ids_to_tokens(ids[1:2])[0].startswith("▁")


def test_saved_as_tokenizer_json_it_stays_the_same(golden, folder, tmp_path) -> None:
    save_tokenizer(load_tokenizer(folder), tmp_path / "saved")
    assert not (tmp_path / "saved" / sentencepiece.FILE).exists()
    assert encode_texts(load_tokenizer(tmp_path / "saved"), golden["texts"]) == golden["ids"]


def test_tokenizer_json_wins_where_both_are_there(folder, tmp_path) -> None:
    save_tokenizer(load_tokenizer(folder), tmp_path / "both")
    (tmp_path / "both" / sentencepiece.FILE).write_bytes(b"damaged")
    assert len(load_tokenizer(tmp_path / "both")) == 480


def test_what_is_no_llama_tokenizer_is_refused(golden, folder) -> None:
    path, content = folder / sentencepiece.FILE, base64.b64decode(golden["model_base64"])
    tail = content.rindex(b"</s>")  # pieces come first, settings behind them
    byte_fallback = bytes([35 << 3 & 0x7F | 0x80, 35 << 3 >> 7])
    at = content.index(byte_fallback + b"\x01", tail)
    without = content[:at] + byte_fallback + b"\x00" + content[at + 3 :]
    for changed, reason in {
        b"IQ== 0\nIg== 1\n": "no SentencePiece model",  # tiktoken's, which Llama 3 has under the same name
        b"": "it has no pieces",
        content[: len(content) // 3]: "no SentencePiece model|not made as Llama's",
        content[:50]: "no SentencePiece model",
        without: "no BPE with byte fallback",
        content.replace(b"<s>", b"<b>", 1): "control pieces",
    }.items():
        path.write_bytes(changed)
        with pytest.raises(UserError, match=reason):
            load_tokenizer(folder)
    path.write_bytes(content)
    (folder / "added_tokens.json").write_text('{"<pad>": 480}')
    with pytest.raises(UserError, match=r"added_tokens.json names further tokens"):
        load_tokenizer(folder)
