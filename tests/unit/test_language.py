"""The language filter keeps English, names what it drops, and decides nothing on too few letters."""

from __future__ import annotations

import pytest

from agenttuning.data.language import CHARACTERS, Language, identity, opening
from agenttuning.errors import UserError

ENGLISH = "Could you explain to me how the tides of the sea depend on the moon?"
GERMAN = "Kannst du mir bitte erklären, wie Ebbe und Flut vom Mond abhängen?"
FRENCH = "Peux-tu m'expliquer comment les marées dépendent de la lune, s'il te plaît ?"
CHINESE = "请你给我解释一下海洋的潮汐是怎样受到月亮影响的，谢谢你的帮助。"


def row(*contents: str) -> dict:
    return {"messages": [{"role": "user", "content": text, "loss": False} for text in contents]}


@pytest.fixture(scope="module")
def english():
    return Language("en")


@pytest.mark.parametrize(("text", "found"), [(ENGLISH, "en"), (GERMAN, "de"), (FRENCH, "fr"), (CHINESE, "zh")])
def test_languages_are_told_apart(english, text, found):
    assert english(row(text)) == (None if found == "en" else f"language: {found}")
    assert Language(found)(row(text)) is None
    assert Language("de")(row(text)) == (None if found == "de" else f"language: {found}")


def test_code_and_the_system_turn_do_not_decide(english):
    code = "```python\n" + "für = größe + höhe  # die Länge\n" * 50
    assert english(row(f"{ENGLISH}\n{code}```\n{ENGLISH}")) is None
    assert english(row(f"{GERMAN}\n```\n{ENGLISH * 20}\n```")) == "language: de"
    messages = [{"role": "system", "content": GERMAN * 20}, *row(ENGLISH)["messages"]]
    assert english({"messages": messages}) is None


@pytest.mark.parametrize("text", ["Hello", "continue", "ok 3 + 4 = 7", "```\nprint(1)\n```", ""])
def test_too_few_letters_are_kept(english, text):
    assert english(row(text)) is None


def test_only_the_opening_counts_whatever_the_length(english):
    assert english(row(ENGLISH * 40, GERMAN * 10_000)) is None
    long = row(ENGLISH * 20_000)["messages"]
    assert len(opening(long)) == CHARACTERS
    assert [english(row(ENGLISH, GERMAN)) for _ in range(3)] == [english(row(ENGLISH, GERMAN))] * 3


def test_an_unknown_code_is_refused():
    with pytest.raises(UserError, match="language: 'english', which py3langid does not know"):
        Language("english")
    assert identity(None) is None and identity("en")[0] == "en"
