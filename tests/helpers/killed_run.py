"""Train tiny recipes and die by a signal: `python killed_run.py RECIPE FOLDER CASES`, CASES a JSON object of
{name: [when, step, [overrides], processes]}. Each case trains into FOLDER/name (of two words, the first) in processes
of its own, forked after the imports, which take longer than the runs. Prints {name: exit status} as its last line, -9
for a process that was killed; of several processes the status is that of the last one, to which `when` happens. It ends
with the others still running only when it was killed, and they are killed after it.

when, for dying by SIGKILL: `step` after the optimizer step `step`; in the save of `step`: `begin` before a file of it,
`files` after the weights, `manifest` before the manifest, `rename` between manifest and rename, `rotate` with the name
of an old checkpoint gone and its files there; `swap` between the renames of the final model. `term` sends SIGTERM
instead, `interrupt` SIGINT, both after the optimizer step `step`, and the run itself decides what happens. `run` lets
it be.
"""

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

from agenttuning.errors import Stopped
from agenttuning.train import train
from agenttuning.training import checkpoints, meter, trainer
from helpers.tiny_run import tiny_recipe


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def before(owner: object, name: str, condition, action=die) -> None:
    """Let `owner.name` do `action` first, where `condition` of its arguments holds."""
    original = getattr(owner, name)

    def patched(*arguments, **named):
        if condition(*arguments, **named):
            action()
        return original(*arguments, **named)

    setattr(owner, name, patched)


def after_step(step: int, number: int) -> None:
    condition = lambda self, args, state, control, **named: state.global_step == step  # noqa: E731
    before(meter.Meter, "on_step_end", condition, lambda: die(number))


def arrange(when: str, step: int) -> None:
    named = lambda folder, *_: Path(folder).name == f"checkpoint-{step}"  # noqa: E731
    numbers = {"step": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
    if when == "run":
        return
    if when in numbers:
        after_step(step, numbers[when])
    elif when == "begin":
        before(trainer.Trainer, "save_model", lambda self, folder=None, **_: named(folder))
    elif when == "files":
        before(trainer.Trainer, "_save_optimizer_and_scheduler", lambda self, folder: named(folder))
    elif when == "manifest":
        before(checkpoints, "seal", named)
    elif when == "rename":
        before(checkpoints, "publish", named)
    elif when == "rotate":
        old = lambda folder, *_, **ignore: folder.name.startswith("old-") and "ignore_errors" not in ignore  # noqa: E731
        before(shutil, "rmtree", old)
    elif when == "swap":
        before(Path, "rename", lambda path, target: path.name == ".model.tmp")
    else:
        raise ValueError(when)


def run(recipe: Path, folder: Path, when: str, step: int, overrides: list[str]) -> int:
    if int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1:
        arrange(when, step)
    try:
        train(tiny_recipe(recipe, folder, *overrides))
    except Stopped as stopped:
        return stopped.status
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(recipe: str, folder: str, cases: str) -> None:
    statuses = {}
    for name, (when, step, overrides, processes) in json.loads(cases).items():
        children, port = [], free_port()
        for rank in range(processes):
            children.append(os.fork())
            if children[-1] == 0:
                if processes > 1:
                    of_several(rank, processes, port)
                status = run(Path(recipe), Path(folder) / name.split()[0], when, step, overrides)
                sys.stdout.flush()
                os._exit(status)
        statuses[name] = os.waitstatus_to_exitcode(os.waitpid(children[-1], 0)[1])
        for child in children[:-1]:
            if statuses[name] < 0:
                os.kill(child, signal.SIGKILL)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert ended == statuses[name], (name, ended)
    print(json.dumps(statuses))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def of_several(rank: int, processes: int, port: int) -> None:
    """What a launcher tells each of its processes."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
