"""Which command starts several processes, and when none is needed."""

from __future__ import annotations

import shlex
import signal
import sys

import pytest

from agenttuning import launch, recipe
from agenttuning.errors import UserError
from agenttuning.machine import Gpu, Machine
from agenttuning.recipe.schema import REPOSITORY

R7 = REPOSITORY / "recipes/agentlm-7b/sft.yaml"
FOUR = Machine((Gpu("H200", 140.0),) * 4, 16, 128.0, None)


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    for name in ("WORLD_SIZE", launch.LAUNCHED, "CUDA_VISIBLE_DEVICES", *launch.PLACE):
        monkeypatch.delenv(name, raising=False)


def load(*overrides, run_dir=None):
    return recipe.load(R7, overrides, run_dir)


def test_the_command_gives_the_same_run_on_every_visible_gpu(tmp_path):
    one = load("learning_rate=1e-5", "mixture.system_prompt='it''s me'", "packing=false", run_dir=tmp_path)
    words = launch.command(one, {"agentinstruct": tmp_path / "a b"}, "never", FOUR)
    assert words[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert words[3:7] == ["--config_file", str(REPOSITORY / "accelerate_configs/fsdp2.yaml"), "--num_processes", "4"]
    assert words[7:11] == ["-m", "agenttuning", "train", str(R7)]
    ours = words[11:]
    assert ours[-6:] == ["--resume", "never", "--run-dir", str(tmp_path), "--data", f"agentinstruct={tmp_path / 'a b'}"]
    again = recipe.load(R7, ours[:-6], tmp_path)
    assert again.hash == one.hash and again.run_dir == one.run_dir


@pytest.mark.parametrize(
    "override", ["mixture.sources={agentinstruct: {share: 1.0}}", "mixture.sources={a: {share: 0.5}, b: {share: 0.5}}"]
)
def test_replaced_sources_stay_replaced(override):
    one = load(override)
    assert recipe.load(R7, launch.overrides(one)).hash == one.hash


def test_accelerate_understands_the_command():
    """accelerate's own parser leaves our words to us."""
    from accelerate.commands.launch import launch_command_parser

    words = launch.command(load("learning_rate=1e-5"), {}, "auto", FOUR)
    parsed = launch_command_parser().parse_args(words[3:])
    assert (parsed.num_processes, parsed.module, parsed.training_script) == (4, True, "agenttuning")
    assert parsed.training_script_args == words[9:]


@pytest.mark.parametrize("name", ["WORLD_SIZE", launch.LAUNCHED])
def test_inside_a_launch_nothing_is_started(monkeypatch, name):
    monkeypatch.setenv(name, "4")
    assert launch.command(load(), {}, "auto", FOUR) is None


@pytest.mark.parametrize("config", ["cpu", "single_gpu"])
def test_one_process_is_this_process(config):
    assert launch.command(load(f"launch.accelerate_config={config}"), {}, "auto", FOUR) is None


def at(monkeypatch, machines="2", rank="1", address="10.0.0.1", port="29500"):
    for name, value in zip(launch.PLACE, (machines, rank, address, port), strict=True):
        monkeypatch.setenv(name, value)


SEVERAL = "launch.accelerate_config=fsdp2_multinode"


def test_which_of_several_machines_is_told_by_the_environment(monkeypatch):
    """A config of 2 x 8 on 3 machines of 4 GPUs: what is there counts, as it does on one machine."""
    from accelerate.commands.launch import launch_command_parser

    at(monkeypatch, machines="3", rank="2")
    words = launch.command(load(SEVERAL), {}, "auto", FOUR)
    parsed = launch_command_parser().parse_args(words[3:])
    assert (parsed.num_machines, parsed.machine_rank, parsed.num_processes) == (3, 2, 12)
    assert (parsed.main_process_ip, parsed.main_process_port) == ("10.0.0.1", 29500)
    assert parsed.training_script_args[:2] == ["train", str(R7)]


def test_the_machines_meet_at_the_address_of_the_first(monkeypatch):
    """accelerate's own path from the command to torch's settings: what it does not read it leaves at localhost."""
    import torch.distributed.run
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    at(monkeypatch)
    words = launch.command(load(SEVERAL), {}, "auto", FOUR)
    parsed = _validate_launch_command(launch_command_parser().parse_args(words[3:]))[0]
    prepare_multi_gpu_env(parsed)
    for name, value in vars(torch.distributed.run.get_args_parser().parse_args(["-m", "agenttuning"])).items():
        if not hasattr(parsed, name):
            setattr(parsed, name, value)
    config = torch.distributed.run.config_from_args(parsed)[0]
    assert (config.rdzv_backend, config.rdzv_endpoint, config.rdzv_configs["rank"]) == ("static", "10.0.0.1:29500", 1)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 4)


@pytest.mark.parametrize("machines", [None, "1"])
def test_several_machines_are_started_one_by_one(monkeypatch, tmp_path, machines):
    if machines:
        at(monkeypatch, machines=machines, rank="0")
    one = load(SEVERAL, "mixture.system_prompt='it''s me'")
    with pytest.raises(UserError) as refused:
        launch.command(one, {"agentinstruct": tmp_path}, "auto", FOUR)
    text = str(refused.value)
    assert (REPOSITORY / "slurm/train.slurm").is_file() and f"sbatch --nodes=2 slurm/train.slurm {R7} " in text
    by_hand = "NUM_MACHINES=2 MACHINE_RANK=RANK MAIN_PROCESS_IP=ADDRESS MAIN_PROCESS_PORT=PORT python -m agenttuning "
    verb, path, *words = shlex.split(text.partition(by_hand)[2])
    assert (verb, path, words[-2:]) == ("train", str(R7), ["--data", f"agentinstruct={tmp_path}"])
    assert recipe.load(path, words[:-2]).hash == one.hash


@pytest.mark.parametrize("config", ["fsdp2", "cpu"])
def test_several_machines_do_not_each_train_the_whole_run(monkeypatch, config):
    at(monkeypatch)
    with pytest.raises(UserError, match="each of them would train the whole run by itself"):
        launch.command(load(f"launch.accelerate_config={config}", "bf16=false"), {}, "auto", FOUR)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"rank": ""}, "MACHINE_RANK="), ({"port": "http"}, "MAIN_PROCESS_PORT=http"), ({"rank": "2"}, "count from 0"),
     ({"machines": "two"}, "NUM_MACHINES=two"), ({"address": ""}, "MAIN_PROCESS_IP=")],
)  # fmt: skip
def test_an_unfinished_place_is_refused(monkeypatch, wrong, named):
    at(monkeypatch, **wrong)
    with pytest.raises(UserError, match=named):
        launch.place()


def test_a_failed_launch_is_the_exit_status():
    launch.run([sys.executable, "-c", f"import os; assert os.environ['{launch.LAUNCHED}'] == '1'"])
    with pytest.raises(SystemExit) as failure:
        launch.run([sys.executable, "-c", "raise SystemExit(7)"])
    assert failure.value.code == 7


@pytest.mark.parametrize(("visible", "kept"), [(None, "0"), ("2,3", "2"), ("GPU-abc", "GPU-abc")])
def test_a_single_gpu_run_sees_one_gpu(monkeypatch, visible, kept):
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    launch.prepare_process(load("launch.accelerate_config=single_gpu"))
    assert launch.os.environ["CUDA_VISIBLE_DEVICES"] == kept


def test_precision_is_said_once():
    with pytest.raises(UserError, match="cpu.yaml says mixed_precision: no and the recipe asks for bf16"):
        launch.prepare_process(load("launch.accelerate_config=cpu"))
    launch.prepare_process(load("launch.accelerate_config=cpu", "bf16=false"))


SAVES = """
import os, signal, sys, time
def save(number, frame):
    os.kill(os.getppid(), signal.SIGTERM)  # a batch system may say it more than once
    time.sleep(0.5)
    open(sys.argv[1], "a").write("saved ")
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
assert os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "600"
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(20)
"""


def status_after_saving(program, note):
    """The exit status of a launch of `program`, which must have saved exactly once."""
    with pytest.raises(SystemExit) as ended:
        launch.run([sys.executable, "-c", program, str(note)])
    assert note.read_text() == "saved "
    return ended.value.code


def test_sigterm_is_passed_on_once_and_waited_for(tmp_path):
    """The child tells this process to end, which must let it save; its own status is that of accelerate's agent."""
    assert status_after_saving(SAVES, tmp_path / "note") == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


INTERRUPTED = """
import os, signal, sys, time
def save(number, frame):
    time.sleep(0.6)  # longer than Python's own wait for a child after Ctrl-C
    open(sys.argv[1], "a").write("saved ")
    sys.exit(1)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
for process in (os.getppid(), os.getpid()):  # as a terminal does
    os.kill(process, signal.SIGINT)
time.sleep(20)
"""


def test_ctrl_c_is_waited_for_and_not_passed_on(tmp_path):
    assert status_after_saving(INTERRUPTED, tmp_path / "note") == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
