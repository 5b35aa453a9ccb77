"""The machine that a plan reckons with, and how many processes an accelerate config starts on it."""

from dataclasses import dataclass
from typing import Any

from agenttuning.errors import UserError
from agenttuning.machine import Machine
from agenttuning.recipe import Recipe

# Our margin for what the estimate leaves out: allocator fragmentation, communication buffers, the CUDA context.
USABLE_MEMORY = 0.9


@dataclass(frozen=True)
class Target:
    """The machine a plan reckons with. `told_by` says who described it; memory in GiB per GPU (RAM for a CPU run);
    present: GPUs that there are, of which a single process takes one; ram_gib: RAM of one machine where it is this one.
    """

    gpus: int
    name: str
    memory_gib: float | None
    world_size: int
    told_by: str
    machines: int = 1
    present: int = 0
    ram_gib: float | None = None

    @property
    def limit_gib(self) -> float | None:
        """What a run may take of one GPU."""
        return self.memory_gib * USABLE_MEMORY if self.memory_gib else None


def accumulation(recipe: Recipe, world_size: int) -> int:
    """gradient_accumulation_steps = global_batch / (per_device_train_batch_size x world_size).

    Raises UserError when it is not a whole number: the run would train at another batch size than its recipe says.
    """
    per_device, batch = recipe.values["per_device_train_batch_size"], recipe.launch.global_batch
    steps, rest = divmod(batch, per_device * world_size)
    if rest:
        fitting = [size for size in range(1, batch // world_size + 1) if batch % (size * world_size) == 0]
        advice = (
            f"set per_device_train_batch_size to one of {', '.join(map(str, fitting))}"
            if fitting
            else f"use a number of processes that divides {batch}"
        )
        raise UserError(
            f"launch.global_batch {batch} is not a multiple of {per_device} per device x {world_size} processes = "
            f"{per_device * world_size}; training would run at another batch size. For this machine {advice}."
        )
    return steps


def target(recipe: Recipe, machine: Machine, single: bool = False, machines: int = 1) -> Target:
    """The machine to plan for: `launch.gpus` of the command line, else this one's GPUs, else what the recipe states.

    single: the launch starts one process, however many GPUs there are. machines: as many like this one take part;
    `launch.gpus` counts the GPUs of all of them.
    """
    launch = recipe.launch
    if launch.accelerate_config == "cpu":
        name = f"CPU, {machine.cpus} cores"
        return Target(0, name, machine.memory_gib or None, machine.world_size or 1, "this machine")
    origin = recipe.origin.get("launch.gpus", "default")
    if launch.gpus and (origin == "command line" or not machine.gpus):
        seen = f"this machine shows {len(machine.gpus) or 'no'} GPU{'s' if len(machine.gpus) != 1 else ''}"
        gpus = 1 if single else launch.gpus
        name, memory = launch.gpu_name or "GPU", launch.gpu_memory_gib
        return Target(
            gpus, name, memory, machine.world_size or gpus, f"{origin}; {seen}", min(machines, gpus), launch.gpus
        )
    if not machine.gpus:
        raise UserError(
            "This machine shows no GPU and the recipe states none, so there is nothing to plan for. State one: "
            "launch.gpus=8 launch.gpu_memory_gib=140."
        )
    used = machine.gpus[:1] if single else machine.gpus
    world, told_by = machine.world_size or len(used) * machines, "this machine"
    told_by += f", and {machines - 1} more like it" if machines > 1 else ""
    memory, present = min(gpu.memory_gib for gpu in used), len(machine.gpus) * machines
    return Target(world, used[0].name, memory, world, told_by, machines, present, machine.memory_gib or None)


def processes(config: dict[str, Any], where: Target) -> int:
    """Processes that this accelerate config starts on machines like the target's, one a GPU."""
    if config["distributed_type"] == "NO":
        return 1
    return max(1, where.present // where.machines) * config["num_machines"]
