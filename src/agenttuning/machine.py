"""What this machine has: GPUs, memory, cores, processes of the launch. No torch import unless nothing else can tell."""

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
NVIDIA_SMI_SECONDS = 2.0


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in GiB as its driver reports it."""

    name: str
    memory_gib: float


@dataclass(frozen=True)
class Machine:
    """This machine. world_size: processes of a distributed launch (WORLD_SIZE), None outside of one."""

    gpus: tuple[Gpu, ...]
    cpus: int
    memory_gib: float
    world_size: int | None


def detect() -> Machine:
    """Look at this machine. Takes at most about two seconds; never raises for absent hardware."""
    world_size = os.environ.get("WORLD_SIZE", "")
    return Machine(
        gpus=visible(_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        cpus=usable_cores(),
        memory_gib=_host_memory() / GIB,
        world_size=int(world_size) if world_size.isdigit() and int(world_size) > 0 else None,
    )


def usable_cores() -> int:
    """Cores that this process may run on, which under a batch system are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible(gpus: tuple[Gpu, ...], mask: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves: nvidia-smi ignores it, CUDA reads it up to the first invalid entry."""
    if mask is None:
        return gpus
    kept = []
    for entry in mask.split(","):
        entry = entry.strip()
        if entry.isdigit() and int(entry) < len(gpus):
            kept.append(gpus[int(entry)])
        elif entry.startswith(("GPU-", "MIG-")) and gpus:
            kept.append(gpus[0])
        else:
            break
    return tuple(kept)


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """Lines of `nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits` (memory in MiB)."""
    gpus = []
    for line in text.splitlines():
        name, _, memory = line.rpartition(",")
        if name and memory.strip().isdigit():
            gpus.append(Gpu(name.strip(), int(memory) / 1024))
    return tuple(gpus)


def _gpus() -> tuple[Gpu, ...]:
    if "torch" in sys.modules:
        return _gpus_of_torch()
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=True,
        )
        return parse_nvidia_smi(answer.stdout)
    except (OSError, subprocess.SubprocessError):
        # A container may have the device but not the tool, and an AMD machine has neither: ask torch only then.
        return _gpus_of_torch() if Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists() else ()


def _gpus_of_torch() -> tuple[Gpu, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    every = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return tuple(Gpu(one.name, one.total_memory / GIB) for one in every)


def _host_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def peak_rss(children: bool = False) -> int:
    """Bytes that this process has had resident at most; with `children`, and the largest of those it has waited for."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if children else (resource.RUSAGE_SELF,)
    peak = sum(resource.getrusage(who).ru_maxrss for who in whose)
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
