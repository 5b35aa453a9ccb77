"""Strings that look like secrets, by the formats that their issuers document.

Only formats with a prefix or a header of their own: a password, or a key that is just hexadecimal, cannot be told from
other text without false alarms in every tenth conversation. The kinds and lengths are those of the issuers' pages on
their token formats, as gitleaks' rules (gitleaks.io, config/gitleaks.toml) collect them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

# (kind, fixed texts one of which every match holds, pattern). Looking for the texts first makes the search fast.
FORMATS = (
    ("Hugging Face token", (b"hf_", b"api_org_"), rb"(?:hf_|api_org_)[A-Za-z0-9]{34,}"),
    ("GitHub token", (b"gh",), rb"gh[pousr]_[A-Za-z0-9]{36,}"),
    ("GitHub token", (b"github_pat_",), rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    ("GitLab token", (b"glpat-",), rb"glpat-[A-Za-z0-9_-]{20,}"),
    # a key's letters are those of base32; AWS's own documentation ends its keys in EXAMPLE
    ("AWS access key id", (b"AKIA", b"ASIA"), rb"(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])(?<!EXAMPLE)"),
    ("OpenAI key", (b"sk-",), rb"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})"),
    ("Anthropic key", (b"sk-ant-",), rb"sk-ant-[a-z0-9]+-[A-Za-z0-9_-]{20,}"),
    ("Google API key", (b"AIza",), rb"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("Slack token", (b"xox",), rb"xox[abeoprs]-[A-Za-z0-9-]{20,}"),
    ("Stripe key", (b"k_live_",), rb"[sr]k_live_[A-Za-z0-9]{16,}"),
    ("npm token", (b"npm_",), rb"npm_[A-Za-z0-9]{36}"),
    ("JSON web token", (b"eyJ",), rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
    # a header with nothing behind it is talk about keys
    (
        "private key",
        (b"PRIVATE KEY",),
        rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n)*[A-Za-z0-9+/=:,. \n-]{40}",
    ),
)
KINDS = [(kind, hints, re.compile(rb"(?<![A-Za-z0-9_])(?:" + pattern + rb")")) for kind, hints, pattern in FORMATS]
FEWEST_DIFFERENT = 8  # characters in a match: "sk-xxxxxxxx..." is a placeholder
BATCH = 1000  # rows


@dataclass(frozen=True, order=True)
class Finding:
    """A row, or a file of the upload, that holds something that looks like a secret; never the thing itself."""

    source: str
    id: str
    kind: str


def kinds_in(text: bytes) -> list[str]:
    """The kinds of secret that a text seems to hold, in alphabetical order."""
    found = {
        kind
        for kind, hints, pattern in KINDS
        if any(hint in text for hint in hints)
        and any(len(set(match[0])) >= FEWEST_DIFFERENT for match in pattern.finditer(text))
    }
    return sorted(found)


def in_rows(rows: Dataset, tokenizer: PreTrainedTokenizerFast) -> Iterator[Finding]:
    """Findings in the text of the rows, supervised or not, and in their ids. A row drawn again is searched once.

    An id that itself holds a secret is named by the number of its row.
    """
    from tqdm import tqdm

    from agenttuning.chat.tokenizer import piece_bytes

    table, seen, number = piece_bytes(tokenizer), set(), -1
    columns = rows.select_columns(["input_ids", "source", "id"]).with_format("arrow")
    with tqdm(desc="searching for secrets", total=len(rows), unit=" rows", disable=not sys.stderr.isatty()) as bar:
        for batch in columns.iter(BATCH):
            keys = zip(batch["source"].to_pylist(), batch["id"].to_pylist(), strict=True)
            for place, key in enumerate(keys):
                number += 1
                if key in seen:
                    continue
                seen.add(key)
                source, row_id = key
                hidden = kinds_in(encoded(row_id))
                text = b"".join(map(table.__getitem__, batch["input_ids"][place].values.to_numpy()))
                for kind in sorted({*hidden, *kinds_in(text)}):
                    yield Finding(source, f"(its id holds it; row {number})" if hidden else row_id, kind)
            bar.update(len(batch))


def in_files(files: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Findings in texts that go along with the rows: (name, text), line by line and then, for keys, as a whole."""
    for name, text in files:
        lines = text.split("\n")
        found = {(number, kind) for number, line in enumerate(lines, 1) for kind in kinds_in(encoded(line))}
        known = {kind for _, kind in found}
        found |= {(0, kind) for kind in kinds_in(encoded(text)) if kind not in known}
        for number, kind in sorted(found):
            yield Finding("(file)", f"{name}, line {number}" if number else name, kind)


def encoded(text: str) -> bytes:
    """UTF-8, with a replacement for what is no text."""
    return text.encode("utf-8", "replace")
