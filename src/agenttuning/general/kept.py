"""What a model answered, kept as it comes: a run that was ended goes on there, and nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from agenttuning.data.journal import Journal

FILE = "answers.jsonl"


class Answers:
    """The answers of a folder by key. `identity`: what decides an answer besides the question (weights, tokenizer,
    backend, rules); it is part of the key. `reused`: how many were not asked again. Raises UserError as Journal does.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.path, self.identity, self.reused = folder / FILE, identity, 0
        # an answer is dear, but not as dear as syncing each of MMLU's 56,168
        self._journal = Journal(self.path, durable=False)

    def keys(self, kind: str, questions: list[tuple]) -> list[str]:
        """A key a question; the same question again (another sample of it) has another key."""
        seen: Counter[str] = Counter()
        keys = []
        for question in questions:
            text = json.dumps([self.identity, kind, *question], sort_keys=True)
            keys.append(hashlib.sha256(f"{seen[text]} {text}".encode("utf-8", "replace")).hexdigest())
            seen[text] += 1
        return keys

    def __contains__(self, key: str) -> bool:
        return bool(self._journal.of(key))

    def __getitem__(self, key: str) -> Any:
        return self._journal.of(key)[-1]["answer"]

    def add(self, key: str, answer: Any) -> None:
        """Keep one answer; the first of a key stays. Raises UserError where it cannot be written."""
        if key not in self:
            self._journal.append({"key": key, "answer": answer})

    def close(self) -> None:
        """Close the file."""
        self._journal.close()
