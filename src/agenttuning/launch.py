"""How `train` gets its processes: a recipe whose accelerate config asks for several is started again by accelerate.

Inside a launch (accelerate, torchrun) WORLD_SIZE is set and nothing is started. A run over several machines is started
once on each of them, by the same `train`; four variables, named after accelerate's options, say which one this is
(slurm/train.slurm sets them). `--cpu-processes N` is a rehearsal: N processes in place of this machine's GPUs, and the
rest as the accelerate config says. Light: no torch.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenttuning.errors import UserError
from agenttuning.machine import Machine, detect
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import validate

# accelerate starts a single process without WORLD_SIZE, which must not start another one in turn.
LAUNCHED = "AGENTTUNING_LAUNCHED"
PLACE = ("NUM_MACHINES", "MACHINE_RANK", "MAIN_PROCESS_IP", "MAIN_PROCESS_PORT")
# Seconds that accelerate's agent gives its processes to save after SIGTERM before it kills them; torch's default is 30,
# in which no large checkpoint is written. slurm/train.slurm asks for a longer notice.
SAVE_SECONDS = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}

# For the processes of a rehearsal: no GPU is seen, DeepSpeed looks for none, and DDP is not told a GPU's number.
REHEARSAL = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "ACCELERATE_BYPASS_DEVICE_MAP": "true"}


@dataclass(frozen=True)
class Place:
    """One of several machines: rank counts from 0, and machine 0 listens at address and port."""

    machines: int
    rank: int
    address: str
    port: int


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Which of several machines this one is; None where NUM_MACHINES is 1 or not set.

    Raises UserError when the variables are incomplete or no numbers.
    """
    values = {name: environment.get(name, "") for name in PLACE}
    if values["NUM_MACHINES"] in ("", "1"):
        return None
    wrong = [name for name in PLACE if not values[name].isdigit() and name != "MAIN_PROCESS_IP" or not values[name]]
    if wrong:
        raise UserError(
            f"NUM_MACHINES={values['NUM_MACHINES']}, but {wrong[0]}={values[wrong[0]]}; without it the machines would "
            f"wait for each other for ever; set all of {', '.join(PLACE)} on each machine, as slurm/train.slurm does"
        )
    found = Place(*(int(value) if value.isdigit() else value for value in values.values()))
    if not 0 <= found.rank < found.machines:
        raise UserError(f"MACHINE_RANK={found.rank} of NUM_MACHINES={found.machines}; ranks count from 0")
    return found


def inside(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started by a launcher."""
    return "WORLD_SIZE" in environment or LAUNCHED in environment


def command(
    recipe: Recipe,
    data_paths: Mapping[str, Path] | None = None,
    resume: str = "auto",
    machine: Machine | None = None,
    cpu_processes: int | None = None,
    allow_partial: bool = False,
) -> list[str] | None:
    """The `accelerate launch` command that trains `recipe` here, one process per visible GPU, or cpu_processes on the
    CPU; None when this process can train by itself.

    The command repeats what came from the command line, as `recipe.origin` records it. Raises UserError where several
    machines are asked for and the environment does not say which one this is, or the other way round, and for more
    cpu_processes than the config has.
    """
    config = validate(recipe.accelerate_config)
    _check_rehearsal(recipe, config, cpu_processes)
    if inside():
        return None
    where = place()
    data = [word for name, path in (data_paths or {}).items() for word in ("--data", f"{name}={path}")]
    _check_machines(recipe, config["num_machines"], where, data)
    if config["num_processes"] == 1:
        return None
    processes = (cpu_processes or max(1, len((machine or detect()).gpus))) * (where.machines if where else 1)
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(recipe.accelerate_config)]
    start += ["--num_processes", str(processes)]
    if where:
        start += ["--num_machines", str(where.machines), "--machine_rank", str(where.rank)]
        start += ["--main_process_ip", where.address, "--main_process_port", str(where.port)]
    elif cpu_processes:
        start += ["--main_process_port", "0"]  # any free one: rehearsals may run side by side
    ours = ["-m", "agenttuning", "train", str(recipe.path), *overrides(recipe), "--resume", resume]
    ours += ["--allow-partial"] if allow_partial else []
    ours += ["--cpu-processes", str(cpu_processes)] if cpu_processes else []
    return [*start, *ours, "--run-dir", str(recipe.run_dir), *data]


def _check_rehearsal(recipe: Recipe, config: dict[str, Any], cpu_processes: int | None) -> None:
    if cpu_processes is None:
        return
    if cpu_processes < 1:
        raise UserError(f"--cpu-processes {cpu_processes}: a run needs at least one")
    if config["distributed_type"] == "NO" and cpu_processes > 1:
        raise UserError(
            f"--cpu-processes {cpu_processes}: {recipe.accelerate_config.name} is for one process, and accelerate "
            "would start one in silence; take a config that spreads, e.g. launch.accelerate_config=ddp"
        )
    if recipe.values.get("fp16"):
        raise UserError("--cpu-processes: fp16 needs the loss scaling of GPUs; rehearse with fp16=false bf16=true")
    block = config.get("fsdp_config") or {}
    if block.get("fsdp_offload_params"):
        raise UserError(
            f"--cpu-processes: {recipe.accelerate_config.name} offloads parameters, which FSDP 2 does from GPUs only; "
            "rehearse with fsdp2, or with zero3_offload"
        )


def _check_machines(recipe: Recipe, planned: int, where: Place | None, data: list[str]) -> None:
    """Raise UserError unless the recipe's accelerate config and the environment agree on one machine or several.

    How many there are is the environment's to say, as the number of GPUs is: neither may move a result.
    """
    config = recipe.accelerate_config.name
    if planned > 1 and where is None:
        shown = shlex.join([str(recipe.path), *overrides(recipe), *data])
        words = (planned, "RANK", "ADDRESS", "PORT")
        variables = " ".join(f"{name}={word}" for name, word in zip(PLACE, words, strict=True))
        raise UserError(
            f"{config} spreads the run over {planned} machines, and which of them this one is cannot be guessed. With "
            f"Slurm: sbatch --nodes={planned} slurm/train.slurm {shown}. Without, on each of them, RANK from 0 and "
            f"ADDRESS that of machine 0: {variables} python -m agenttuning train {shown}"
        )
    if planned == 1 and where is not None:
        raise UserError(
            f"NUM_MACHINES={where.machines}, and {config} is for one machine; each of them would train the whole run "
            "by itself, all into the same folder; take launch.accelerate_config=fsdp2_multinode, or one machine"
        )


def overrides(recipe: Recipe) -> list[str]:
    """The `key=value` words that give this recipe again from its file: JSON is YAML, and sources go in as a whole."""
    flat, words = recipe.flat(), {}
    for key, where in recipe.origin.items():
        if where == "command line" and key.startswith("mixture.sources."):
            sources = {name: asdict(source) for name, source in recipe.mixture.sources.items()}
            words["mixture.sources"] = sources
        elif where == "command line":
            words[key] = flat[key]
    return [f"{key}={json.dumps(value)}" for key, value in words.items()]


def run(words: list[str]) -> None:
    """Run the launch to its end. Exits this process with its status when that is not 0.

    The folder of this Python leads the PATH: DeepSpeed compiles its operators with the `ninja` that pip put there.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    print("starting:", " ".join(words), flush=True)
    told: list[int] = []
    status = wait(words, {**SAVE_SECONDS, **os.environ, "PATH": path, LAUNCHED: "1"}, told)
    if not status:
        return
    if told:
        print(f"ended by {signal.Signals(told[0]).name}; a traceback above is that of accelerate's agent", flush=True)
        raise SystemExit(status)
    print("the processes failed; their own words stand above the traceback of accelerate's agent", file=sys.stderr)
    raise SystemExit(status)


def wait(words: list[str], environment: Mapping[str, str] | None = None, told: list[int] | None = None) -> int:
    """Run a command to its end and return its exit status, as a shell has it; signals that came are put into `told`.

    SIGTERM is passed on once, so that the processes save, and this one waits for them: a batch system kills what its
    first process leaves behind. Ctrl-C reaches them from the terminal; this one waits as well, or the shell would be
    back, and a second Ctrl-C reach nobody, while they still save. The status of one that fails is 143 or 130 then,
    whatever a launcher in between makes of it.
    """
    told = [] if told is None else told
    children: list[subprocess.Popen] = []

    def pass_on(number: int, _frame: object) -> None:
        if number == signal.SIGTERM and number not in told:
            for child in children:
                child.send_signal(number)
        told.append(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with subprocess.Popen(words, env=environment) as child:
            children.append(child)
            if signal.SIGTERM in told:
                child.send_signal(signal.SIGTERM)
            status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status and told:
        return 128 + told[0]
    return status if status >= 0 else 128 - status


def prepare_process(recipe: Recipe, cpu_processes: int | None = None) -> None:
    """Make this process fit its accelerate config, before torch looks at the GPUs.

    A launcher hands the config's precision to its processes; without one only the recipe speaks, so the two must agree.
    Raises UserError otherwise. A rehearsal on the CPU (cpu_processes) computes in the recipe's precision, whatever the
    config's: `bf16=false` makes it comparable to the last digit.
    """
    config = validate(recipe.accelerate_config)
    asked = "fp16" if recipe.values.get("fp16") else "no" if recipe.values.get("bf16") is False else "bf16"
    if cpu_processes is not None:
        _check_rehearsal(recipe, config, cpu_processes)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if here != cpu_processes:
            raise UserError(f"--cpu-processes {cpu_processes}, and {here} came up here; start `train` by itself")
        os.environ |= {"ACCELERATE_MIXED_PRECISION": asked} | REHEARSAL
        return
    if config.get("mixed_precision", "no") != asked:
        raise UserError(
            f"{recipe.accelerate_config.name} says mixed_precision: {config.get('mixed_precision', 'no')} and the "
            f"recipe asks for {asked} (TRL's default is bf16: true); which of them wins would depend on the launcher; "
            "make them agree"
        )
    if config.get("use_cpu"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it says, on stdout, that it sees no GPU
    elif config["num_processes"] == 1 and not inside():
        # the Trainer would put every visible GPU under nn.DataParallel, which TRL refuses
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
