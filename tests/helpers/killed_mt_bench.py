"""Answer and judge practice questions and die by SIGKILL: `python killed_mt_bench.py FOLDER URL CASES`, CASES a JSON
object of {name: [file, number, torn]}: the process dies at the record of that number of that file (from 1), when it is
written, or with `torn` when half of it is. Each case is a process of its own, forked after the imports, and works in
FOLDER/name with the judge at URL. Prints {name: exit status}, -9 for a process that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from agenttuning.data import journal
from agenttuning.general import mt_bench
from helpers.judge_server import QUICK, RULES, players

QUESTIONS, JUDGINGS = mt_bench.practice(8, 0), 2


def die_at(file: str, number: int, torn: bool) -> None:
    written = 0
    append = journal.Journal.append

    def patched(self, record: dict) -> None:
        nonlocal written
        written += self.path.name == file
        if self.path.name == file and written == number:
            if torn:
                line = json.dumps(record).encode()
                os.write(self._file.fileno(), line[: len(line) // 2])
            else:
                append(self, record)
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, record)

    journal.Journal.append = patched


def run(folder: Path, url: str) -> dict:
    """One evaluation, as the killed ones are."""
    judge = mt_bench.Judge(url, "scripted", judgings=JUDGINGS, patience=QUICK)
    make, asked = players(QUESTIONS)
    return {**mt_bench.evaluate(QUESTIONS, make, folder, RULES, judge, model="m"), "asked now": len(asked)}


def main(folder: str, url: str, cases: str) -> None:
    statuses = {}
    for name, case in json.loads(cases).items():
        child = os.fork()
        if child == 0:
            try:
                die_at(*case)
                run(Path(folder) / name, url)
            finally:
                os._exit(1)
        statuses[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
