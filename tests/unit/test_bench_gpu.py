"""benchmarks/train_gpu.py in small, on a CPU: the rows, the step and the record that a GPU would give figures for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agenttuning.model_size import LLAMA_2, flops_per_token
from agenttuning.recipe.schema import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
import gpu_loop  # noqa: E402
import train_gpu  # noqa: E402

CPU = torch.device("cpu")
H200 = {"gpu_name": "NVIDIA H200", "peak_tflops": 989.0}
FOUND = {"tokens_per_second": 10_000.0, "peak_gib": 100.0, "n": 24}
TINY = gpu_loop.Setting("tiny", "full", "float32", "sdpa", "none", 0.0, False, 2, 128, 2, 4, 2)


def test_rows_are_full_and_their_documents_are_as_long_as_the_mixtures():
    rows = gpu_loop.documents(300, 4096)
    assert len(rows) == 300 and {sum(row) for row in rows} == {4096} and min(map(min, rows)) > 0
    documents = [length for row in rows for length in row]
    assert sum(documents) / len(documents) == pytest.approx(1500, rel=0.1)  # mean 1,560, less what is cut at 4,096
    attended = gpu_loop.attended(replace(TINY, length=4096, micro_steps=100))
    assert attended / 2048 == pytest.approx(0.55, abs=0.06)  # varlen over causal attention, shared facts of the mixture


def test_packing_leaves_little_room():
    lengths = [length for row in gpu_loop.documents(50, 4096, seed=1) for length in row]
    bins = gpu_loop.pack(lengths, 4096)
    assert sorted(length for bin in bins for length in bin) == sorted(lengths)
    assert max(map(sum, bins)) <= 4096 and len(bins) <= 52


def test_a_batch_with_boundaries_holds_the_same_documents_as_one_with_positions():
    """End to end with cu_seq_lens, or a row below the other: the same ids, and no label from document to document."""
    apart = next(gpu_loop.batches(TINY, CPU, 1))
    packed = next(gpu_loop.batches(replace(TINY, attention="varlen"), CPU, 1))
    assert packed["input_ids"].shape == (1, 256) and apart["input_ids"].shape == (2, 128)
    assert torch.equal(packed["input_ids"].flatten(), apart["input_ids"].flatten())
    starts = packed["cu_seq_lens_q"][:-1].long()
    assert torch.equal(starts, (packed["position_ids"][0] == 0).nonzero().flatten()) and len(starts) > 2
    assert packed["max_length_q"] == packed["cu_seq_lens_q"].diff().max()
    assert torch.equal((packed["labels"][0] == -100).nonzero().flatten(), starts)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "aten.mm" in str(function) or "aten.addmm" in str(function)
        return function(*args, **(kwargs or {}))


def test_checkpointing_changes_what_is_computed_again_and_no_gradient():
    found = {}
    for kind in ("none", "selective", "full"):
        model = gpu_loop.build(replace(TINY, checkpointing=kind), CPU)
        with Products() as products:
            model(**next(gpu_loop.batches(TINY, CPU, 1))).loss.backward()
        found[kind] = products.count, [parameter.grad for parameter in model.parameters()]
    assert found["none"][0] == found["selective"][0] < found["full"][0]
    for kind in ("selective", "full"):
        assert all(map(torch.equal, found["none"][1], found[kind][1]))


def test_varlen_gives_the_logits_of_the_mask_and_is_what_tiny_takes():
    setting = replace(TINY, attention=train_gpu.choose_attention("auto", tiny=True))
    assert setting.attention == "varlen"
    found = gpu_loop.measure(setting, CPU)
    assert found["attention_error"] < 1e-5
    assert found["loss"] == pytest.approx(gpu_loop.measure(TINY, CPU)["loss"], abs=1e-4)


def test_hidden_dropout_drops_while_it_trains_and_not_while_attention_is_checked():
    pytest.importorskip("agenttuning.training.dropout")
    dropped = replace(TINY, attention="varlen", hidden_dropout=0.5)
    found, without = gpu_loop.measure(dropped, CPU), gpu_loop.measure(replace(TINY, attention="varlen"), CPU)
    assert found["attention_error"] < 1e-5 and abs(found["loss"] - without["loss"]) > 1e-4


def test_documents_that_see_each_other_are_found_out(monkeypatch):
    setting = replace(TINY, attention="eager")
    model = gpu_loop.build(setting, CPU)
    assert gpu_loop.attention_error(model, setting, CPU) < 1e-5
    honest = gpu_loop.batches

    def leaking(setting, device, count):
        for batch in honest(setting, device, count):
            if setting.attention == "eager":
                batch["position_ids"] = torch.arange(setting.length).expand_as(batch["input_ids"])
            yield batch

    monkeypatch.setattr(gpu_loop, "batches", leaking)
    assert gpu_loop.attention_error(model, setting, CPU) > gpu_loop.TOLERATED
    with pytest.raises(SystemExit, match="see each other"):
        gpu_loop.measure(setting, CPU)


def test_the_row_that_attention_is_checked_on_holds_two_documents(monkeypatch):
    for length in (2048, 4096, 8192):
        (row,) = gpu_loop.documents(1, length)
        assert len(row) > 1 and row[-1] >= 64  # whose logits are compared
    seen, honest = [], gpu_loop.batches
    monkeypatch.setattr(gpu_loop, "batches", lambda setting, *more: seen.append(setting.rows) or honest(setting, *more))
    setting = replace(TINY, attention="varlen", rows=4)
    gpu_loop.attention_error(gpu_loop.build(setting, CPU), setting, CPU)
    assert seen == [1, 1]


def test_a_compiled_layer_holds_its_checkpointing():
    """Around a compiled layer, selective checkpointing fails; inside it, dynamo traces both as one graph."""
    bare, found = gpu_loop.build(TINY, CPU), []
    for kind in ("selective", "full"):
        torch._dynamo.reset()
        model = gpu_loop.build(replace(TINY, checkpointing=kind), CPU)
        for layer in gpu_loop.decoder_layers(model):
            layer.compile(backend="aot_eager", fullgraph=True)
        model(**next(gpu_loop.batches(TINY, CPU, 1))).loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    bare(**next(gpu_loop.batches(TINY, CPU, 1))).loss.backward()
    for gradients in found:
        assert all(torch.allclose(a, b.grad, atol=1e-6) for a, b in zip(gradients, bare.parameters(), strict=True))


def test_measuring_trains_every_weight():
    for method in ("full", "lora"):
        setting = replace(TINY, method=method, weights="float32")
        model = gpu_loop.build(setting, CPU)
        trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        before = {name: one.detach().clone() for name, one in trained.items()}
        found = gpu_loop.measure(setting, CPU, model)
        assert found["n"] == 4 and found["tokens_per_second"] > 0 and 4 < found["loss"] < 7
        assert trained and not [name for name, one in trained.items() if torch.equal(one, before[name])]


def test_flops_are_those_of_the_plan():
    shape = LLAMA_2["7b"]
    found = gpu_loop.flops_per_token("7b", "full", 4096, 2048.0)
    assert found["causal"] == found["documents"] == flops_per_token(shape, 4096)
    assert found["full"] / 1e9 == pytest.approx(46.09, abs=0.01)  # PaLM's convention, shared facts of the peers
    lora, adapter = gpu_loop.flops_per_token("7b", "lora", 4096, 0), 159_907_840  # PEFT's count at rank 64
    assert lora["matmul"] == found["matmul"] * 4 / 6 + 6 * adapter


def test_a_median_over_the_steps_is_whole_steps_a_second():
    found = gpu_loop.summary(TINY, [0.1, 0.2, 9.0], update=0.1)
    assert found["tokens_per_second"] == pytest.approx(2 * 256 / (2 * 0.2 + 0.1)) and found["n"] == 3


# What a GPU machine without network may lack.
WITHOUT = 'import sys; sys.modules.update(dict.fromkeys(["trl", "datasets", "peft", "flash_attn", "pyarrow"]))\n'


@pytest.mark.slow
def test_the_tiny_form_writes_the_record_with_torch_and_transformers_alone(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    words = ["--tiny", "--out", str(tmp_path), "--name", "it", "--activation-checkpointing", "selective", "--no-peer"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "train_gpu.py"), *words], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "it.json").read_text())
    assert {"date", "commit", "versions", "machine", "gpu_name", "peak_gib", "tokens_per_second", "n"} <= set(record)
    assert (record["model"], record["method"], record["accelerate_config"]) == ("tiny", "full", "cpu")
    assert (record["activation_checkpointing"], record["attention"]) == ("selective", "varlen")
    assert f"{record['tokens_per_second']:,.0f} tokens/s (n = 4)" in done.stdout


@pytest.mark.parametrize("trl", [True, False])
def test_the_peer_is_trl_where_it_is_and_else_the_plain_loop_with_its_defaults(monkeypatch, trl):
    asked = []
    monkeypatch.setattr(train_gpu, "trl_is_here", lambda: trl)
    monkeypatch.setattr(train_gpu, "measured", lambda *words: asked.append(words[1]) or train_gpu.part(*words))
    record = train_gpu.record(train_gpu.checked(train_gpu.parser(), ["--tiny"]))
    assert [(one.checkpointing, one.attention) for one in asked] == [("selective", "varlen"), ("full", "sdpa")]
    peer = record["peer"]
    assert ("SFTTrainer" in peer["is"], "plain loop with TRL's defaults" in peer["is"]) == (trl, not trl)
    assert peer["n"] == 4 and peer["loss"] == pytest.approx(record["loss"], abs=0.05)  # the same start and rows
    assert (peer["activation_checkpointing"], peer["update_seconds"] is None) == ("full", trl)
    assert record["ratio"] == pytest.approx(record["tokens_per_second"] / peer["tokens_per_second"])


def test_the_gpu_is_looked_at_in_a_process_of_its_own(monkeypatch):
    """torch keeps some of its memory for as long as the process lives, and the parts that are measured need all."""
    asked = []

    def answer(words):
        asked.append(words[0])
        return {"gpu": {**H200, "gpu_memory_gib": 139.8}, "attention": "varlen"} if words[0] == "machine" else FOUND

    monkeypatch.setattr(train_gpu, "run_part", answer)
    record = train_gpu.record(train_gpu.checked(train_gpu.parser(), ["--activation-checkpointing", "selective"]))
    assert asked == ["machine", "ours", "peer"] and not torch.cuda.is_initialized()
    assert (record["gpu_name"], record["attention"], record["peer"]["attention"]) == ("NVIDIA H200", "varlen", "sdpa")
    assert record["model"] == "meta-llama/Llama-2-7b-hf" and record["ratio"] == 1


def test_running_out_of_memory_is_a_result(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(gpu_loop, "measure", full)
    found = train_gpu.part("ours", TINY, tiny=True)
    assert found == {"failed": "out of memory: CUDA out of memory. Tried to allocate 2 GiB.", **gpu_loop.peak(CPU)}
    shown = train_gpu.described(TINY, found, H200)
    assert shown["mfu"] is None and "out of memory" in train_gpu.line("ours", shown)


def test_mfu_is_speed_times_flops_over_the_peak():
    shown = train_gpu.described(replace(TINY, size="7b", length=4096), FOUND, H200)
    assert shown["mfu"]["causal"] == pytest.approx(10_000 * 42.87e9 / 989e12, rel=1e-3)
    assert shown["accelerate_config"] == "single_gpu" and shown["model"] == "meta-llama/Llama-2-7b-hf"


def test_refusals(monkeypatch):
    with pytest.raises(SystemExit, match="flash_attention_2 is not installed"):
        train_gpu.choose_attention("flash_attention_2", tiny=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--tiny runs the same code"):
        train_gpu.gpu_here(tiny=False, given_peak=None)
    for words in (["--warmup", "0"], ["--micro-steps", "4"]):
        with pytest.raises(SystemExit):
            train_gpu.checked(train_gpu.parser(), words)
