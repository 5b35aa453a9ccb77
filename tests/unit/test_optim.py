"""Muon beside AdamW in one optimizer: who gets what, both rules as torch has them, and a state that survives saving."""

from __future__ import annotations

import io

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_with_min_lr_schedule_with_warmup

from agenttuning.errors import UserError
from agenttuning.training import optim

VALUES = {"learning_rate": 0.02, "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6,
          "optim_args": "adamw_lr=0.003, momentum=0.9,ns_steps=4"}  # fmt: skip


def model(tied=False):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=50, tie_word_embeddings=tied))


def decayed(one):
    return [name for name, _ in one.named_parameters() if "norm" not in name]


def names(one, groups):
    of = {id(weight): name for name, weight in one.named_parameters()}
    return [{of[id(weight)] for weight in group["params"]} for group in groups]


def backward(one, seed):
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(seed))
    one(input_ids=ids, labels=ids).loss.backward()


def step(one, optimizer, seed):
    backward(one, seed)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_has_one_place(tied):
    one = model(tied)
    muon, embeddings, norms = names(one, optim.build(one, decayed(one), VALUES).param_groups)
    assert len(muon) == 2 * 7 and all(".layers." in name and "_proj" in name for name in muon)
    assert embeddings == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert norms == {name for name, _ in one.named_parameters()} - muon - embeddings and len(norms) == 5


def test_the_recipe_s_numbers_arrive():
    one = model()
    muon, embeddings, norms = optim.build(one, decayed(one), VALUES).param_groups
    assert (muon["lr"], muon["momentum"], muon["ns_steps"], muon["weight_decay"]) == (0.02, 0.9, 4, 0.1)
    for group in (embeddings, norms):
        assert (group["lr"], group["betas"], group["eps"]) == (0.003, (0.8, 0.95), 1e-6)
    assert (embeddings["weight_decay"], norms["weight_decay"]) == (0.1, 0.0)


def test_it_steps_as_torch_s_two_optimizers_do():
    ours, theirs = model(), model()
    optimizer = optim.build(ours, decayed(ours), VALUES)
    of = dict(theirs.named_parameters())
    muon, *others = [[of[name] for name in sorted(group)] for group in names(ours, optimizer.param_groups)]
    one = torch.optim.Muon(muon, lr=0.02, weight_decay=0.1, momentum=0.9, ns_steps=4)
    groups = [{"params": group, "weight_decay": decay} for group, decay in zip(others, (0.1, 0.0), strict=True)]
    other = torch.optim.AdamW(groups, lr=0.003, betas=(0.8, 0.95), eps=1e-6, fused=True)
    for seed in range(4):
        backward(ours, seed)
        optimizer.step()
        optimizer.zero_grad()
        backward(theirs, seed)
        one.step()
        other.step()
        one.zero_grad()
        other.zero_grad()
    start = dict(model().named_parameters())
    for name, weight in ours.named_parameters():
        assert torch.equal(weight, of[name]) and not torch.equal(weight, start[name]), name


def test_a_saved_state_continues_bitwise():
    whole, broken = model(), model()
    optimizer, first = optim.build(whole, decayed(whole), VALUES), optim.build(broken, decayed(broken), VALUES)
    for seed in range(3):
        step(whole, optimizer, seed)
        step(broken, first, seed)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = optim.build(broken, decayed(broken), VALUES)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.muon.state is second.state and second.adamw.state is second.state
    assert len(second.state) == len(list(broken.parameters()))
    for seed in range(3, 6):
        step(whole, optimizer, seed)
        step(broken, second, seed)
    for (name, one), other in zip(whole.named_parameters(), broken.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_scheduler_moves_both_rates():
    one = model()
    optimizer = optim.build(one, decayed(one), VALUES)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(optimizer, 2, 10, min_lr=0.002)
    step(one, optimizer, 0)
    schedule.step()
    assert [group["lr"] for group in optimizer.muon.param_groups] == [pytest.approx(0.01)]
    assert [group["lr"] for group in optimizer.adamw.param_groups] == [pytest.approx(0.0015)] * 2
    optimizer.load_state_dict(optimizer.state_dict())
    for _ in range(9):
        step(one, optimizer, 0)
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.002), *[pytest.approx(0.0003)] * 2]
    assert optimizer.muon.param_groups[0]["lr"] == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "needs the rate of its AdamW part"),
        ("momentum=0.9", "needs the rate of its AdamW part"),
        ("adamw_lr=0.1,momentun=0.9", "`momentun=0.9` is not understood"),
        ("adamw_lr=0.1,momentum", "`momentum` is not understood"),
        ("adamw_lr=0.1,adamw_lr=0.2", "at most once"),
        ("adamw_lr=fast", "adamw_lr is 'fast'"),
        ("adamw_lr=nan", "out of range"),
        ("adamw_lr=0.1,momentum=1.5", "out of range"),
        ("adamw_lr=0.1,ns_steps=2.5", "ns_steps is '2.5'"),
        ("adamw_lr=0.1,adjust_lr_fn=other", "adjust_lr_fn is 'other'"),
    ],
)
def test_wrong_arguments_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        optim.parse_arguments(text)
