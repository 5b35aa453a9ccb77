"""How long the contamination check of a mixture of the paper's size takes, and whether it finds all that was planted.

    python benchmarks/decontamination.py [--conversations 62632]

The conversations are those of benchmarks/data.py. The examples are as many as the paper's test sets have (16,626, of
about 2 million tokens), of the same invented words, under the names and fields of evaluation/contamination/. One in 100
stands whole in a conversation of its own, one in 100 by half. Runs the verb as a user does, in a process of its own,
and prints its seconds from start to end, beside the processor time (other work on the machine lengthens only the
former), tokens per second and peak memory. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data import ROOT, SIZES, WORDS, words, write_repository

# examples as evaluation/contamination/ has them, and the words of each field
SUITES: dict[str, tuple[int, dict[str, int | list[int]]]] = {
    "mmlu": (14042, {"question": 50, "choices": [8, 8, 8, 8]}),
    "gsm8k": (1319, {"question": 60, "answer": 90}),
    "humaneval": (164, {"prompt": 110, "canonical_solution": 60}),
    "mt-bench": (80, {"turns": [50, 25]}),
    "alfworld": (50, {"observation": 90}),
    "webshop": (200, {"instruction_text": 30}),
    "mind2web": (177, {"confirmed_task": 25, "action_reprs": [20, 20, 20]}),
    "kg": (150, {"question": 20}),
    "db": (300, {"description": 40, "add_description": 30}),
    "os": (144, {"description": 50}),
}
EVERY = 100


def write_suites(folder: Path) -> None:
    """JSONL rows of every suite, by its name."""
    rng = random.Random(2)
    vocabulary = words(random.Random(0))  # the conversations' own
    weights = [1 / (rank + 10) for rank in range(WORDS)]

    def text(count: int) -> str:
        return " ".join(rng.choices(vocabulary, weights, k=count))

    folder.mkdir()
    for name, (count, fields) in SUITES.items():
        with (folder / f"{name}.jsonl").open("w") as out:
            for _ in range(count):
                row = {
                    key: [*map(text, size)] if isinstance(size, list) else text(size) for key, size in fields.items()
                }
                out.write(json.dumps(row) + "\n")


def plant(folder: Path, file: Path) -> dict[tuple[str, str], str]:
    """Append conversations that hold examples to `file`; returns what must be found, {(suite, id): kind}."""
    from agenttuning.data.against import read_against

    expected = {}
    with file.open("a") as out:
        for number, example in enumerate(read_against([f"all={folder}"]).examples):
            if number % EVERY > 1:
                continue
            whole = number % EVERY == 0
            parts = [text if whole else _half(text) for text in example.texts]
            turns = [{"from": "human", "value": f"before {' between '.join(parts)} behind", "loss": None}]
            turns += [{"from": "gpt", "value": "so it is", "loss": True}]
            out.write(json.dumps({"id": f"planted_{number}", "conversations": turns}) + "\n")
            expected[example.suite, example.id] = "dirty" if whole else "between"
    return expected


def _half(text: str) -> str:
    pieces = text.split(" ")
    return " ".join(pieces[: len(pieces) // 2])


def found(report: dict) -> Iterator[tuple[tuple[str, str], str]]:
    """Every example that is not clean, as ((suite, id), kind)."""
    for name, suite in report["suites"].items():
        yield from (((name, one["id"]), one["kind"]) for one in suite["found"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=sum(SIZES.values()))
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "repository"
        write_repository(root, given.conversations / sum(SIZES.values()))
        write_suites(root / "suites")
        expected = plant(root / "suites", root / "raw" / "agents.jsonl")
        recipe, run = root / "recipes" / "bench" / "sft.yaml", Path(place) / "run"
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        words_ = ["-m", "agenttuning", "decontaminate", str(recipe), "--against", f"all={root / 'suites'}"]
        load, begun = os.getloadavg()[0], time.perf_counter()
        subprocess.run([sys.executable, *words_, "--run-dir", str(run)], env=env, check=True)
        seconds = time.perf_counter() - begun
        report = json.loads((run / "contamination.json").read_text())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    examples = sum(suite["tokens"] for suite in report["suites"].values())
    tokens, judged = report["training"]["tokens"], dict(found(report))
    print(
        f"{report['training']['conversations']:,} conversations of {tokens:,} tokens against {examples:,} tokens: "
        f"{seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of processor time), {tokens / seconds:,.0f} tokens/s, "
        f"peak memory {used.ru_maxrss / 2**20:.2f} GiB"
    )
    print(f"{os.cpu_count()} cores, load average {load:.1f} before")
    # two or three rare words are ten tokens, and some pairs of them stand on both sides by chance
    chance = [key for key in judged.keys() - expected.keys() if judged[key] == "between"]
    wrong = {key: (expected.get(key), judged.get(key)) for key in (expected.keys() | judged.keys()) - set(chance)}
    wrong = {key: pair for key, pair in wrong.items() if pair[0] != pair[1]}
    if wrong or len(chance) > examples / 100_000:
        raise SystemExit(
            f"{len(wrong)} examples are judged otherwise than planted ({dict(list(wrong.items())[:5])}), and "
            f"{len(chance)} that were not planted are between clean and dirty"
        )
    print(f"all {len(expected):,} planted overlaps were found, {len(chance)} more by chance (none of them dirty)")


if __name__ == "__main__":
    main()
