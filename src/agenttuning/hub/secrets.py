"""Strings that look like secrets, by the formats that their issuers document.

Only formats with a prefix or a header of their own: a password, or a key that is just hexadecimal, cannot be told from
other text without false alarms in every tenth conversation. The kinds and lengths are those of the issuers' pages on
their token formats, as gitleaks' rules (gitleaks.io, config/gitleaks.toml) collect them. Beside the formats the values
of this process's own secrets are looked for, whatever they look like: `Known`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError

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
# Environment variables whose names say that their values are secret, and the shortest value that is one.
SECRET_NAME = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASS|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
SHORTEST = 12
FOUND = "secrets.jsonl"
NAMED = 5  # findings in a message; the file has them all
Known = Mapping[bytes, str]  # {value: its kind}
NOTHING: Known = {}


@dataclass(frozen=True, order=True)
class Finding:
    """A row, or a file of the upload, that holds something that looks like a secret; never the thing itself."""

    source: str
    id: str
    kind: str


def of_this_process() -> Known:
    """The secrets that this process itself holds: environment variables with such a name, and the Hub's token."""
    from huggingface_hub import get_token

    held = {name: value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    held["the Hub's token"] = get_token() or ""
    return {
        encoded(value): f"the value of {name}"
        for name, value in held.items()
        if len(value) >= SHORTEST and len(set(value)) >= FEWEST_DIFFERENT
    }


def kinds_in(text: bytes, known: Known = NOTHING) -> list[str]:
    """The kinds of secret that a text seems to hold, in alphabetical order."""
    found = {kind for value, kind in known.items() if value in text} | {
        kind
        for kind, hints, pattern in KINDS
        if any(hint in text for hint in hints)
        and any(len(set(match[0])) >= FEWEST_DIFFERENT for match in pattern.finditer(text))
    }
    return sorted(found)


def in_rows(rows: Dataset, tokenizer: PreTrainedTokenizerFast, known: Known = NOTHING) -> Iterator[Finding]:
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
                hidden = kinds_in(encoded(row_id), known)
                text = b"".join(map(table.__getitem__, batch["input_ids"][place].values.to_numpy()))
                for kind in sorted({*hidden, *kinds_in(text, known)}):
                    yield Finding(source, f"(its id holds it; row {number})" if hidden else row_id, kind)
            bar.update(len(batch))


def in_files(files: Iterable[tuple[str, str]], known: Known = NOTHING) -> Iterator[Finding]:
    """Findings in texts that go along with the rows: (name, text), line by line and then, for keys, as a whole."""
    for name, text in files:
        whole = kinds_in(encoded(text), known)
        lines = text.split("\n") if whole else []
        found = {(number, kind) for number, line in enumerate(lines, 1) for kind in kinds_in(encoded(line), known)}
        seen = {kind for _, kind in found}
        found |= {(0, kind) for kind in whole if kind not in seen}
        for number, kind in sorted(found):
            yield Finding("(file)", f"{name}, line {number}" if number else name, kind)


def encoded(text: str) -> bytes:
    """UTF-8, with a replacement for what is no text."""
    return text.encode("utf-8", "replace")


def refuse(found: Iterable[Finding], cleared: Collection[Finding], record: Path) -> None:
    """Raise UserError, and write the findings into `record`, unless all of them are `cleared`; then `record` goes."""
    left = sorted(set(found) - set(cleared))
    if not left:
        record.unlink(missing_ok=True)
        return
    record.write_text("".join(json.dumps(asdict(finding)) + "\n" for finding in left), encoding="ascii")
    kinds = ", ".join(f"{count} x {kind}" for kind, count in Counter(finding.kind for finding in left).most_common())
    named = "".join(f"\n  - {ascii(one.source)} {ascii(one.id)}: {one.kind}" for one in left[:NAMED])
    more = f"\n  - and {len(left) - NAMED} more" if len(left) > NAMED else ""
    raise UserError(
        f"what looks like a secret stands in {len(left)} place{'s' * (len(left) > 1)} ({kinds}); it would have been "
        f"published, and nothing was sent:"
        f"{named}{more}\nAll are in {record}. Take them out of their source; or, for those that you looked at "
        "and that are no secrets, keep their lines in a file and give it with --reviewed FILE"
    )


def reviewed(path: str | Path | None) -> set[Finding]:
    """The findings that somebody looked at: lines of what `refuse` wrote. Raises UserError for another file."""
    if path is None:
        return set()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return {Finding(**json.loads(line)) for line in lines if line.strip()}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--reviewed {path} cannot be read ({type(error).__name__}); no finding would be cleared; give lines of "
            f"the {FOUND} that a refusal wrote"
        ) from error
