"""Run verbs, each in a process of its own, forked after the imports, which take longer than the verbs:
`python verbs_with_keys.py FOLDER CASES`, CASES a JSON object of {name: words of the command line}. What a verb prints,
tracebacks too, goes to FOLDER/NAME.out; the last line printed here is {name: exit status}. Nobody waits for a Hub.

A name with "crash" in it dies of a bug after the first step of training; "upload" is no verb but the upload of a folder
to the Hub: FOLDER REPOSITORY TYPE.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub.utils import _http

from agenttuning import cli, train  # noqa: F401 - the heavy one
from agenttuning.hub import wire
from agenttuning.hub.upload import upload
from agenttuning.training import meter


def crash() -> None:
    def boom(*_, **__):
        raise RuntimeError("a bug in the middle")

    meter.Meter.on_step_end = boom


def run(name: str, words: list[str]) -> int:
    if "crash" in name:
        crash()
    if "upload" in name:
        return cli.main(["upload", *words])
    return cli.main(words)


def _upload(arguments) -> None:
    upload(Path(arguments.path), arguments.to, True, "A push", repo_type=arguments.type, owned=lambda name: False)


def _takes(parser) -> None:
    for word in ("path", "to", "type"):
        parser.add_argument(word)


def main(folder: str, cases: str) -> None:
    cli.VERBS["upload"] = (_upload, _takes)
    wire.time = _http.time = SimpleNamespace(sleep=lambda _: None)
    statuses = {}
    for name, words in json.loads(cases).items():
        begun, child = time.monotonic(), os.fork()
        if child == 0:
            out = os.open(Path(folder) / f"{name}.out", os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            status = 1
            try:
                status = run(name, words)
            except SystemExit as end:
                status = end.code
            except BaseException:
                sys.excepthook(*sys.exc_info())
            sys.stdout.flush()
            os._exit(status)
        _, status, used = os.wait4(child, 0)
        statuses[name] = os.waitstatus_to_exitcode(status)
        spent = used.ru_utime + used.ru_stime
        print(f"{name}: {spent:.1f} s of {time.monotonic() - begun:.1f}", file=sys.stderr, flush=True)
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
