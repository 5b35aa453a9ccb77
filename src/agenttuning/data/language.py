"""The language filter of a card (`language: en`): py3langid, a small naive Bayes model that comes with its package.

The opening of a conversation decides, prompts and replies together and code left out, because single prompts
("continue") and code are too short or too odd to tell. Of fewer letters than MIN_LETTERS nothing is said, and the row
is kept.
"""

from __future__ import annotations

import re

from agenttuning.errors import UserError

CHARACTERS = 500  # of the conversation that are looked at; time grows with it (2,000 took six times as long)
MIN_LETTERS = 20  # below this py3langid errs on plain English words ("Hello", "continue")
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


class Language:
    """A filter that refuses rows in another language than `code` (ISO 639-1). Raises UserError for an unknown code."""

    def __init__(self, code: str):
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self.code = code
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
        known = sorted(set(map(str, self._identifier.labels)))
        if code not in known:
            raise UserError(
                f"a card says language: {code!r}, which py3langid does not know; no row could be kept; it knows "
                f"{', '.join(known)}"
            )

    def __call__(self, row: dict) -> str | None:
        """None to keep the row, else the reason with the language found."""
        text = opening(row["messages"])
        if sum(map(str.isalpha, text)) < MIN_LETTERS:
            return None
        found = str(self._identifier.classify(text)[0])
        return None if found == self.code else f"language: {found}"


def opening(messages: list[dict]) -> str:
    """The first CHARACTERS characters of a conversation without its system turn and its fenced code."""
    parts, length = [], 0
    for message in messages:
        if message["role"] != "system" and length < CHARACTERS:
            # Cut before the code is taken out: a turn may hold a megabyte.
            parts.append(_CODE.sub(" ", message["content"][: 4 * CHARACTERS]))
            length += len(parts[-1])
    return "\n".join(parts)[:CHARACTERS]


def identity(code: str | None) -> list[str] | None:
    """What the filter's answers depend on, for the key of a prepared mixture."""
    from importlib.metadata import version

    return None if code is None else [code, version("py3langid")]
