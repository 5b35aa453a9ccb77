"""Folders of episodes: what was played by other rules is kept, and not taken for results."""

from __future__ import annotations

from pathlib import Path


def put_aside(folder: Path, rules: str) -> None:
    """Rename episodes that were played by other rules: their keys are equal, and they would be taken for results."""
    note, episodes = folder / "rules.txt", folder / "episodes.jsonl"
    if episodes.exists() and (not note.exists() or note.read_text().strip() != rules):
        number = next(n for n in range(1, 10_000) if not (folder / f"episodes.before-{n}.jsonl").exists())
        episodes.rename(folder / f"episodes.before-{number}.jsonl")
        print(
            f"{folder}: items, environment, protocol or chat format have changed; earlier episodes are now in "
            f"episodes.before-{number}.jsonl"
        )
    note.write_text(rules + "\n")
