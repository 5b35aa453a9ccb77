"""Train tiny recipes and die by a signal: `python killed_run.py RECIPE FOLDER CASES`, CASES a JSON object of
{name: [when, step, [overrides], processes]}. Each case trains into FOLDER/name (of two words, the first) in processes
of its own, forked after the imports, which take longer than the runs. Prints {name: exit status} as its last line, -9
for a process that was killed; of several processes the status is that of the last one, to which `when` happens. It ends
with the others still running only when it was killed, and they are killed after it.

when, for dying by SIGKILL: `step` after the optimizer step `step`; in the save of `step`: `begin` before a file of it,
`files` after the weights, `manifest` before the manifest, `rename` between manifest and rename, `rotate` with the name
of an old checkpoint gone and its files there; `swap` between the renames of the final model. After the optimizer step
`step` too, but the run itself decides what happens: `term` sends SIGTERM, `group` sends it to the data-loading workers
as well, `interrupt` sends SIGINT. `run` lets it be.
"""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from agenttuning.errors import Stopped
from agenttuning.train import train
from agenttuning.training import checkpoints, meter, trainer
from helpers.tiny_run import tiny_recipe


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def tell_all() -> None:
    """SIGTERM to this process and to its data-loading workers, by another one, as a batch system sends it."""
    told = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    messenger = os.fork()
    if messenger == 0:
        for pid in told:
            os.kill(pid, signal.SIGTERM)
        os._exit(0)
    os.waitpid(messenger, 0)
    time.sleep(0.3)  # the workers have heard of it by now


def before(owner: object, name: str, condition, action=die) -> None:
    """Let `owner.name` do `action` first, where `condition` of its arguments holds."""
    original = getattr(owner, name)

    def patched(*arguments, **named):
        if condition(*arguments, **named):
            action()
        return original(*arguments, **named)

    setattr(owner, name, patched)


AFTER_STEP = {
    "step": die,
    "term": lambda: die(signal.SIGTERM),
    "interrupt": lambda: die(signal.SIGINT),
    "group": tell_all,
}


def arrange(when: str, step: int) -> None:
    def of_step(folder, *_, **__) -> bool:
        return Path(folder).name == f"checkpoint-{step}"

    if when in AFTER_STEP:
        ends = AFTER_STEP[when]
        before(meter.Meter, "on_step_end", lambda _, __, state, *___, **____: state.global_step == step, ends)
    elif when == "begin":
        before(trainer.Trainer, "save_model", lambda _, folder=None, **__: of_step(folder))
    elif when == "files":
        before(trainer.Trainer, "_save_optimizer_and_scheduler", lambda _, folder: of_step(folder))
    elif when == "manifest":
        before(checkpoints, "seal", of_step)
    elif when == "rename":
        before(checkpoints, "publish", of_step)
    elif when == "rotate":
        before(shutil, "rmtree", lambda folder, **_: folder.name.startswith("old-") and folder.is_dir())
    elif when == "swap":
        before(Path, "rename", lambda path, _: path.name == ".model.tmp")
    elif when != "run":
        raise ValueError(when)


def run(recipe: Path, folder: Path, when: str, step: int, overrides: list[str]) -> int:
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if int(os.environ.get("RANK", 0)) == processes - 1:
        arrange(when, step)
    try:
        train(tiny_recipe(recipe, folder, *overrides), cpu_processes=processes if processes > 1 else None)
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
            # what is left behind by a killed one may see its sockets close before it is killed as well
            assert statuses[name] < 0 or ended == statuses[name], (name, ended)
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
