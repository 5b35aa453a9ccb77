"""TRL's SFTTrainer with its own defaults on the rows of gpu_loop.py: what train_gpu.py compares with, where it is
installed. Defaults: float32 weights, bf16 autocast, sdpa with its mask, full checkpointing, fused head, AdamW.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from gpu_loop import LORA, SIZES, Setting, build, documents, peak, summary


class Steps(TrainerCallback):
    """The time at the end of every optimizer step, when the device has done its work."""

    def __init__(self, cuda: bool) -> None:
        self.cuda, self.times = cuda, []

    def on_step_end(self, args, state, control, **kwargs):
        if self.cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def rows(setting: Setting, count: int) -> Dataset:
    """`count` packed rows of random ids in the columns that SFTTrainer makes by itself."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for lengths in documents(count, setting.length):
        ids = torch.randint(3, SIZES[setting.size].vocabulary, (setting.length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": ids, "seq_lengths": lengths})
    return Dataset.from_list(made)


def measure(setting: Setting, device: torch.device) -> dict:
    """As gpu_loop.measure, in optimizer steps: a micro-batch counts as its part of one."""
    from dataclasses import replace

    model = build(replace(setting, method="full", checkpointing="none"), device)
    lora = {}
    if setting.method == "lora":
        from peft import LoraConfig

        lora = {"peft_config": LoraConfig(**LORA)}
    warm = math.ceil(setting.warmup / setting.accumulate)
    steps = warm + math.ceil(setting.micro_steps / setting.accumulate)
    cuda = device.type == "cuda"
    precision = {} if cuda else {"use_cpu": True, "bf16": False}
    clock = Steps(cuda)
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder, packing=True, max_length=setting.length, per_device_train_batch_size=setting.rows,
            gradient_accumulation_steps=setting.accumulate, max_steps=steps, save_strategy="no", report_to="none",
            disable_tqdm=True, dataset_kwargs={"skip_prepare_dataset": True}, **precision,
        )  # fmt: skip
        data = rows(setting, steps * setting.accumulate * setting.rows)
        trainer = SFTTrainer(
            model, args=settings, train_dataset=data, processing_class=Tokenizer(), callbacks=[clock], **lora
        )
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        loss = trainer.train().training_loss
    gaps = [after - before for before, after in zip(clock.times[warm - 1 :], clock.times[warm:], strict=False)]
    if not math.isfinite(loss):
        raise SystemExit(f"TRL's loss is {loss}; a time of such steps would mean nothing")
    micro = [gap / setting.accumulate for gap in gaps]
    found = summary(setting, micro, 0.0)
    found["n"] = len(gaps) * setting.accumulate
    found["update_seconds"] = None  # part of micro_step_seconds
    assert len(gaps) >= 1 and statistics.median(gaps) > 0
    return found | {"loss": loss, "attention_error": None, **peak(device)}


def Tokenizer():
    """A tokenizer that nothing is tokenised with: SFTTrainer wants one, and the rows are ids already."""
    from tokenizers import Tokenizer as Inner
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2}
    inner = Inner(WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<unk>", bos_token="<s>")
