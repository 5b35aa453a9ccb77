"""How fast a Llama-2 of full size trains on one GPU, beside stock TRL on the same rows, in one run.

    python benchmarks/train_gpu.py [--model 7b] [--attention auto] [--activation-checkpointing selective] [--compile]

Needs torch and transformers; no Hub, no data, no network. Random weights (not zero), packed 4,096-token rows whose
documents have the lengths of the simulated mixture (data.py), the recipes' optimizer, a median over the micro-steps
after a warm-up, by CUDA events. The peer is TRL's SFTTrainer with its defaults, or where trl is not installed the same
plain loop with these defaults (sdpa with its mask, full checkpointing, no compile); the record says which. Each part
runs in a process of its own. The record goes to benchmarks/results/NAME.json; `--tiny` is the same in small, on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
RESULTS = ROOT / "benchmarks" / "results"
ATTENTION = ("flash_attention_3", "flash_attention_2", "varlen", "sdpa")
# Dense bf16 peak in TFLOP/s, from NVIDIA's data sheets; of the first name that the GPU's own contains.
PEAKS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "H800": 989.0, "A100": 312.0, "B200": 2250.0, "L40S": 362.0}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("7b", "13b", "70b"), default="7b")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--weights", choices=("float32", "bfloat16"), help="default float32; with lora bfloat16")
    parser.add_argument("--attention", choices=("auto", *ATTENTION), default="auto", help="auto: the first one here")
    parser.add_argument("--activation-checkpointing", choices=("none", "selective", "full"), default="selective")
    parser.add_argument("--hidden-dropout", type=float, default=0.0, help="0.05 in the paper's recipes; default 0")
    parser.add_argument("--compile", action="store_true", help="torch.compile each decoder layer")
    parser.add_argument("--rows", type=int, default=1, help="packed rows in a micro-batch (default 1)")
    parser.add_argument("--length", type=int, default=4096, help="tokens in a row (default 4096)")
    parser.add_argument("--accumulate", type=int, default=8, help="micro-batches in an optimizer step (default 8)")
    parser.add_argument("--micro-steps", type=int, default=24, help="measured micro-batches (default 24)")
    parser.add_argument("--warmup", type=int, default=8, help="micro-batches before them (default 8)")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of a GPU that is not in our table")
    parser.add_argument("--no-peer", action="store_true", help="measure ours only")
    parser.add_argument("--commit", help="of this code, where there is no git to ask")
    parser.add_argument("--name", help="of the record; default from GPU, model and settings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record (default benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="two layers, rows of 128 tokens, on the CPU")
    parser.add_argument("--part", choices=("ours", "peer", "machine"), help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    return parser


def choose_attention(asked: str, tiny: bool) -> str:
    """The attention to measure. Ends the program where one is asked for that is not here."""
    from transformers.utils import import_utils

    from agenttuning.training import varlen

    absent = {name: not getattr(import_utils, f"is_flash_attn_{name[-1]}_available")() for name in ATTENTION[:2]}
    absent = {name: "is not installed, or not for this GPU" for name, missing in absent.items() if missing}
    if reason := varlen.available("cpu" if tiny else "cuda"):
        absent["varlen"] = f"cannot run: {reason}"
    if asked == "auto":
        return next(name for name in ATTENTION if name not in absent)
    if asked in absent:
        raise SystemExit(f"--attention {asked} {absent[asked]}; there is: {', '.join(set(ATTENTION) - set(absent))}")
    return asked


def checked(parser: argparse.ArgumentParser, words: list[str] | None = None) -> argparse.Namespace:
    """The command line. Ends the program for counts with which nothing would be measured."""
    given = parser.parse_args(words)
    if given.warmup < 1 or given.micro_steps < given.accumulate:
        parser.error("--warmup must be at least 1, and --micro-steps hold at least one step of --accumulate")
    return given


def trl_is_here() -> bool:
    """Whether the peer can be TRL itself."""
    return find_spec("trl") is not None


def setting_of(given: argparse.Namespace, attention: str):
    """A gpu_loop.Setting from the command line."""
    from gpu_loop import Setting

    return Setting(
        size="tiny" if given.tiny else given.model,
        method=given.method,
        weights=given.weights or ("bfloat16" if given.method == "lora" else "float32"),
        attention=attention,
        checkpointing=given.activation_checkpointing,
        hidden_dropout=given.hidden_dropout,
        compile=given.compile,
        rows=given.rows,
        length=128 if given.tiny else given.length,
        accumulate=2 if given.tiny else given.accumulate,
        micro_steps=4 if given.tiny else given.micro_steps,
        warmup=2 if given.tiny else given.warmup,
    )


def part(name: str, setting, tiny: bool) -> dict:
    """Measure ours or the peer here. Being out of memory is a result: this setting does not fit."""
    import torch

    device = torch.device("cpu" if tiny else "cuda")
    try:
        if name == "peer" and trl_is_here():
            from gpu_peer import measure
        else:
            from gpu_loop import measure
        return measure(setting, device)
    except torch.OutOfMemoryError as error:
        from gpu_loop import peak

        return {"failed": f"out of memory: {str(error).splitlines()[0]}", **peak(device)}


def measured(name: str, setting, tiny: bool) -> dict:
    """`part` in a process of its own, so that one's memory and compiled code are not the other's."""
    return run_part([name, "--setting", json.dumps(asdict(setting)), *(["--tiny"] if tiny else [])])


def run_part(words: list[str]) -> dict:
    """What `--part WORDS` prints. Ends the program with its message where it fails."""
    places = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]  # wheels may have been carried along
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "HF_HUB_OFFLINE": "1"}
    env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    done = subprocess.run([sys.executable, __file__, "--part", *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed with status {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def described(setting, found: dict, gpu: dict) -> dict:
    """The measurement with its setting, under the names that `plan` looks for, and MFU in every convention."""
    from gpu_loop import attended, flops_per_token

    flops = flops_per_token(setting.size, setting.method, setting.length, attended(setting))
    speed = found.get("tokens_per_second")
    rates = {name: speed * each / 1e12 for name, each in flops.items()} if speed else {}
    top = gpu["peak_tflops"]
    return {
        "model": f"meta-llama/Llama-2-{setting.size}-hf" if setting.size != "tiny" else "tiny",
        "method": setting.method,
        "weights": setting.weights,
        "accelerate_config": "single_gpu" if gpu["gpu_name"] != "cpu" else "cpu",
        "attention": setting.attention,
        "activation_checkpointing": setting.checkpointing,
        "hidden_dropout": setting.hidden_dropout,
        "compile": setting.compile,
        "per_device_train_batch_size": setting.rows,
        "max_length": setting.length,
        "micro_batches_per_step": setting.accumulate,
        **found,
        "tflops": rates or None,
        "mfu": {name: rate / top for name, rate in rates.items()} if rates and top else None,
    }


def gpu_here(tiny: bool, given_peak: float | None) -> dict:
    """Name, memory and peak of the GPU. Ends the program where there is none, or where its peak is not known."""
    import torch

    if tiny:
        return {"gpu_name": "cpu", "gpu_memory_gib": None, "peak_tflops": None}
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is visible here; --tiny runs the same code on a CPU")
    device = torch.cuda.get_device_properties(0)
    peak = given_peak or next((peak for name, peak in PEAKS.items() if name in device.name), None)
    if peak is None:
        raise SystemExit(f"the peak of {device.name} is not in our table; give its data sheet's: --peak-tflops")
    return {"gpu_name": device.name, "gpu_memory_gib": device.total_memory / 2**30, "peak_tflops": peak}


def machine(given: argparse.Namespace) -> dict:
    """{"gpu": ..., "attention": ...} of this machine. Having looked, a process holds some of the GPU's memory."""
    return {
        "gpu": gpu_here(given.tiny, given.peak_tflops),
        "attention": choose_attention(given.attention, given.tiny),
    }


def stock(setting):
    """The same work with TRL's defaults; it has no hidden dropout."""
    return replace(setting, attention="sdpa", checkpointing="full", hidden_dropout=0.0, compile=False)


def record(given: argparse.Namespace) -> dict:
    """Measure everything that was asked for, on an otherwise empty GPU."""
    import torch

    from agenttuning import run_record

    peak = ["--peak-tflops", str(given.peak_tflops)] if given.peak_tflops else []
    found = machine(given) if given.tiny else run_part(["machine", "--attention", given.attention, *peak])
    gpu, setting = found["gpu"], setting_of(given, found["attention"])
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **gpu}
    result |= {"cuda": torch.version.cuda, "versions": run_record.versions(), "machine": platform.platform()}
    result["commit"] = given.commit or run_record.commit(ROOT)
    result |= described(setting, measured("ours", setting, given.tiny), gpu)
    if not given.no_peer:
        found = described(stock(setting), measured("peer", stock(setting), given.tiny), gpu)
        kind = "TRL's SFTTrainer" if trl_is_here() else "the plain loop with TRL's defaults (trl is not installed)"
        result["peer"] = {"is": kind, **found}
        ours, theirs = result.get("tokens_per_second"), found.get("tokens_per_second")
        result["ratio"] = ours / theirs if ours and theirs else None
    return result


def line(name: str, found: dict) -> str:
    """One line of the table."""
    how = f"{found['attention']}, checkpointing {found['activation_checkpointing']}, compile {found['compile']}"
    if "failed" in found:
        return f"{name:<5} {how}: {found['failed']}"
    mfu = found["mfu"]
    share = f", MFU {mfu['causal']:.1%} causal, {mfu['full']:.1%} full, {mfu['documents']:.1%} documents" if mfu else ""
    memory = f", peak {found['peak_gib']:.1f} GiB" if found["peak_gib"] else ""
    return f"{name:<5} {how}: {found['tokens_per_second']:,.0f} tokens/s{share}{memory} (n = {found['n']})"


def main() -> None:
    given = checked(parser())
    if given.part == "machine":
        print(json.dumps(machine(given)))
        return
    if given.part:
        from gpu_loop import Setting

        found = part(given.part, Setting(**json.loads(given.setting)), given.tiny)
        print(json.dumps(found))
        return
    result = record(given)
    print(line("ours", result))
    if "peer" in result:
        print(f"{line('peer', result['peer'])}; {result['peer']['is']}")
        if result["ratio"]:
            print(f"ours is {result['ratio']:.2f} times as fast")
    words = (result["gpu_name"], given.model if not given.tiny else "tiny", given.method, result["attention"],
             result["activation_checkpointing"], "compiled" if given.compile else "")  # fmt: skip
    name = given.name or re.sub(r"[^a-z0-9]+", "-", " ".join(filter(None, words)).lower())
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
