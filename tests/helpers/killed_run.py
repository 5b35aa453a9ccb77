"""Train tiny recipes and die by SIGKILL: `python killed_run.py RECIPE FOLDER CASES`, CASES a JSON object of
{name: [when, step, [overrides]]}. Each case trains into FOLDER/name in a process of its own, forked after the imports,
which take longer than the runs. Prints {name: exit status} as its last line, -9 for a process that was killed.

when: `step` dies after the optimizer step `step`; `save` while checkpoint `step` is saved, before its manifest.
"""

import json
import os
import signal
import sys
from pathlib import Path

from agenttuning.train import train
from agenttuning.training import checkpoints, meter
from helpers.tiny_run import tiny_recipe


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_step(step: int) -> None:
    ended = meter.Meter.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        ended(self, args, state, control, **kwargs)
        if state.global_step == step:
            die()

    meter.Meter.on_step_end = on_step_end


def die_in_save(step: int) -> None:
    sealed = checkpoints.seal

    def seal(folder, at, *arguments, **named):
        return die() if at == step else sealed(folder, at, *arguments, **named)

    checkpoints.seal = seal


def main(recipe: str, folder: str, cases: str) -> None:
    statuses = {}
    for name, (when, step, overrides) in json.loads(cases).items():
        child = os.fork()
        if child == 0:
            (die_in_save if when == "save" else die_after_step)(step)
            train(tiny_recipe(Path(recipe), Path(folder) / name, *overrides))
            os._exit(0)
        statuses[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
