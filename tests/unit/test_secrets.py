"""What looks like a secret is found wherever it stands, and never repeated. The strings here are made up."""

from __future__ import annotations

import base64
import json
import random
import string

import pytest
from test_push_data import NAME, hub, load, push, refused, world, write_rows  # noqa: F401 fixtures

from agenttuning.hub import secrets
from helpers.conversations import agent_row, chat_row

LETTERS = string.ascii_letters + string.digits


def made(length: int, alphabet: str = LETTERS, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


def token(claims: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


FAKES = {
    "Hugging Face token": ["hf_" + made(34), "api_org_" + made(34)],
    "GitHub token": ["ghp_" + made(36), "gho_" + made(36), f"github_pat_{made(22)}_{made(59)}"],
    "GitLab token": ["glpat-" + made(20)],
    "AWS access key id": ["AKIA" + made(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")],
    "OpenAI key": ["sk-" + made(48), "sk-proj-" + made(60)],
    "Anthropic key": ["sk-ant-api03-" + made(80)],
    "Google API key": ["AIza" + made(35)],
    "Slack token": ["xoxb-" + made(40)],
    "Stripe key": ["sk_live_" + made(24), "rk_live_" + made(24)],
    "npm token": ["npm_" + made(36)],
    "JSON web token": [f"{token({'alg': 'HS256'})}.{token({'sub': '1234567890'})}.{made(43)}"],
    "private key": [
        f"-----BEGIN {kind}PRIVATE KEY{tail}-----\n{made(64)}\n" for kind, tail in
        (("", ""), ("RSA ", ""), ("OPENSSH ", ""), ("EC ", ""), ("PGP ", " BLOCK"))
    ] + ["-----BEGIN PRIVATE KEY-----\\n" + made(64)],
}  # fmt: skip
ALL = [(kind, fake) for kind, fakes in FAKES.items() for fake in fakes]


@pytest.mark.parametrize(("kind", "fake"), ALL)
@pytest.mark.parametrize("around", ["{}", "key={}, and more", '"{}"', "Bearer {}.", "é{}\n", "(https://x/?t={}&b=c)"])
def test_each_kind_is_found_anywhere(kind, fake, around):
    assert secrets.kinds_in(around.format(fake).encode()) == [kind]


def test_every_kind_has_an_example():
    assert {kind for kind, _, _ in secrets.FORMATS} == set(FAKES)


@pytest.mark.parametrize(
    "text",
    [
        "a task-oriented, risk-averse disk-based sk-learn helper",
        "sk-" + "x" * 48,
        "hf_" + "X" * 34,
        "hf_hub_download and hf_transfer and hf_" + "short",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "put it between -----BEGIN RSA PRIVATE KEY----- and its end",
        "eyJhbGciOiJIUzI1NiJ9 alone",
        "ghost_" + made(40),
        made(200),
        "my" + "ghp_" + made(36),
    ],
)
def test_talk_about_secrets_and_placeholders_are_not_found(text):
    assert secrets.kinds_in(text.encode()) == []


def test_it_does_not_slow_down_on_long_and_odd_text():
    import time

    long = "a" * 500_000
    texts = ["-----BEGIN " * 50_000, "eyJ" * 300_000, "sk-" * 300_000, "hf_" + long, "eyJ" + long + ".eyJ" + long]
    start = time.monotonic()
    for text in [*texts, "-----BEGIN PRIVATE KEY-----" + " \\n" * 300_000]:
        secrets.kinds_in(text.encode())
    assert time.monotonic() - start < 5


FAKE = "hf_" + made(34, seed=1)
KEY = "sk-" + made(48, seed=2)


def planted(world, draws=200):  # noqa: F811
    """A secret in a context turn, one in a trained turn, one in an id, one in the reason of a malformed row."""
    agents = [agent_row(number) for number in range(10)]
    agents[3]["conversations"][2]["value"] += f" my token is {FAKE}"
    agents[4]["conversations"][-1]["value"] = f"Action: export KEY={KEY}"
    write_rows(world, "agents", agents)
    chats = [chat_row(number, exchanges=2) for number in range(60)]
    chats[5]["id"] = FAKE
    write_rows(world, "chats", [*chats, {"id": FAKE + "x", "conversations": []}])
    return f"mixture.draws={draws}", "mixture.max_quarantined=0.1", "max_length=400"


def test_rows_and_files_are_refused_and_the_secret_is_not_repeated(world, hub, capsys):  # noqa: F811
    text = refused(*planted(world))
    assert "'agents' 'agent_3': Hugging Face token" in text and "'agents' 'agent_4': OpenAI key" in text
    assert "(its id holds it; row " in text and "quarantine.jsonl, line 1" in text
    assert "in 4 places (3 x Hugging Face token, 1 x OpenAI key)" in text
    record = (world / "runs/tiny/sft/secrets.jsonl").read_text()
    assert len(record.splitlines()) == 4
    out = capsys.readouterr()
    for said in (text, record, out.out, out.err):
        assert FAKE not in said and KEY not in said
    assert hub.requests == [] and not (world / "runs/tiny/sft/hub/data").exists()


def test_what_was_looked_at_goes_and_the_card_says_so(world, hub):  # noqa: F811
    overrides = planted(world)
    refused(*overrides)
    record = world / "runs/tiny/sft/secrets.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    seen = world / "seen.jsonl"
    seen.write_text("".join(lines[:-1]))
    text = refused(*overrides, reviewed=seen)
    assert "in 1 place (" in text and len(record.read_text().splitlines()) == 1
    seen.write_text("".join(lines))
    push(*overrides, reviewed=seen)
    assert not record.exists()
    assert "3 findings in rows were looked at by the publisher and left in." in hub.files(NAME)["README.md"].decode()


@pytest.mark.parametrize("content", [None, "[1]\n", '{"source": "a"}\n', "no json\n"])
def test_a_file_of_findings_that_is_none(world, hub, content):  # noqa: F811
    if content is not None:
        (world / "seen.jsonl").write_text(content)
    assert "--reviewed" in refused(reviewed="seen.jsonl")


def test_the_card_is_searched_too(world, hub):  # noqa: F811
    text = refused(f"mixture.system_prompt=Use {FAKE}.")
    assert "README.md, line" in text and "mixture.json, line" in text and FAKE not in text


def test_a_row_drawn_again_is_searched_once(world, monkeypatch):  # noqa: F811
    from agenttuning.chat import load_tokenizer
    from agenttuning.data.prepare import prepare

    one = load("mixture.draws=300")
    tokenizer = load_tokenizer(one.values["model_name_or_path"])
    rows = prepare(one, tokenizer, one.run_dir / "data").load()
    texts = []
    monkeypatch.setattr(secrets, "kinds_in", lambda text, known: texts.append(text) or [])
    assert list(secrets.in_rows(rows, tokenizer)) == []
    assert len(texts) == 2 * len(set(zip(rows["source"], rows["id"], strict=True))) < 2 * len(rows)
    assert any(b"Do the task." in text for text in texts), "the text is searched, not its pieces"
