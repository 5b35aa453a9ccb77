"""What a model answered, kept as it comes: a run that was ended goes on there, and nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from agenttuning.errors import UserError

FILE = "answers.jsonl"


class Answers:
    """An append-only file of (key, answer) lines in `folder`; a last line that was torn off is left out.

    `identity`: what decides an answer besides the question (weights, tokenizer, backend, rules); it is part of the key.
    Raises UserError for a damaged line elsewhere.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.path, self.identity = folder / FILE, identity
        self.kept: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        raw = self.path.read_bytes() if self.path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.kept[entry["key"]] = entry["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self.path}, line {number}, is damaged; answers would be lost or mixed up; repair or delete the "
                    "file: what it held is asked again"
                ) from error
        self._file = self.path.open("ab")
        self._file.truncate(len(whole))
        self.reused = 0

    def keys(self, kind: str, questions: list[tuple]) -> list[str]:
        """A key a question; the same question again (another sample of it) has another key."""
        seen: Counter[str] = Counter()
        keys = []
        for question in questions:
            text = json.dumps([self.identity, kind, *question], sort_keys=True)
            keys.append(hashlib.sha256(f"{seen[text]} {text}".encode("utf-8", "replace")).hexdigest())
            seen[text] += 1
        return keys

    def add(self, key: str, answer: Any) -> None:
        """Keep one answer. Raises OSError where it cannot be written."""
        if key not in self.kept:
            self.kept[key] = answer
            self._file.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()
