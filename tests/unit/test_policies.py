"""Batched decoding gives the tokens of one-by-one decoding and of transformers' own generate."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from agenttuning import chat
from agenttuning.environments import TASKS
from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit, Turn
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.policies.teacher import GIVING_UP, teacher
from agenttuning.protocols import react
from agenttuning.protocols.messages import own
from helpers import toy_task
from helpers.llama_tokenizer import build_tokenizer

torch = pytest.importorskip("torch")

STOP = {7, 8, 9, 10, 11, 12}


def tiny_llama(vocabulary: int = 64, positions: int = 256):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.4,  # the usual 0.02 makes a random model repeat one token
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(1, 64) for _ in range(rng.choice((1, 2, 5, 30, 60)))] for _ in range(24)]


def decode(model, prompts, **settings):
    from agenttuning.policies.generate import generate

    return generate(model, prompts, **{"max_new_tokens": 20, "stop": STOP, "pad": 0, **settings})


@pytest.mark.parametrize("width", [2, 5, 24])
def test_batched_greedy_is_one_by_one_greedy(model, prompts, width) -> None:
    alone = [decode(model, [prompt])[0] for prompt in prompts]
    assert decode(model, prompts, width=width) == alone
    # The comparison means something: replies end early, at the limit, and differ.
    lengths = {len(reply) for reply in alone}
    assert len(lengths) > 5
    assert 20 in lengths


def test_each_prompt_may_have_a_limit_of_its_own(model, prompts) -> None:
    limits = [1 + 3 * (place % 6) for place in range(len(prompts))]
    whole = decode(model, prompts)
    assert decode(model, prompts, max_new_tokens=limits, width=5) == [
        reply[:most] for reply, most in zip(whole, limits, strict=True)
    ]


def test_own_loop_is_transformers_generate(model, prompts) -> None:
    for prompt, reply in zip(prompts, decode(model, prompts), strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=sorted(STOP),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert reply == (theirs[:-1] if theirs[-1] in STOP else theirs)


def test_what_the_padding_is_made_of_does_not_matter(model, prompts) -> None:
    assert decode(model, prompts, pad=0) == decode(model, prompts, pad=33)


def test_greedy_follows_a_forward_pass_without_a_cache(model) -> None:
    prompt = [5, 6, 20, 21]
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + 20:
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token in STOP:
                break
            ids.append(token)
    assert decode(model, [[1] * 40, prompt])[1] == ids[len(prompt) :]


def test_sampling_is_seeded_and_does_not_depend_on_the_batch(model, prompts) -> None:
    def rngs(seed):
        return [random.Random(f"{seed}/{row}") for row in range(len(prompts))]

    first = decode(model, prompts, temperature=1.0, rngs=rngs(0), width=24)
    assert first == decode(model, prompts, temperature=1.0, rngs=rngs(0), width=5)
    assert first != decode(model, prompts, temperature=1.0, rngs=rngs(1))
    assert first != decode(model, prompts)
    assert decode(model, prompts, temperature=1e-4, rngs=rngs(0)) == decode(model, prompts)


def test_sampling_follows_the_distribution(model) -> None:
    prompt, n = [5, 6, 20, 21], 3000
    drawn = decode(
        model,
        [prompt] * n,
        temperature=2.0,
        max_new_tokens=1,
        stop=set(),
        width=500,
        rngs=[random.Random(i) for i in range(n)],
    )
    with torch.inference_mode():
        wanted = torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double() / 2.0, -1)
    seen = torch.bincount(torch.tensor([reply[0] for reply in drawn]), minlength=64) / n
    # Total variation of an empirical distribution over 64 outcomes: about sqrt(64 / 2 pi n) at most.
    assert float((seen - wanted).abs().sum()) / 2 < 0.12


def test_no_prompts_empty_prompts_and_missing_generators(model) -> None:
    assert decode(model, []) == []
    with pytest.raises(ValueError, match="empty prompt"):
        decode(model, [[]])
    with pytest.raises(ValueError, match="generator"):
        decode(model, [[1]], temperature=1.0)


def test_the_training_mode_is_given_back(model) -> None:
    model.train()
    try:
        decode(model, [[1]])
        assert model.training
    finally:
        model.eval()


def messages(text: str) -> list[dict]:
    return own(SimpleNamespace(INSTRUCTION="Count.", ACKNOWLEDGEMENT="Ok."))({}).opening(text)


def policy_of(model, tokenizer, **settings):
    from agenttuning.policies.transformers_policy import TransformersPolicy

    return TransformersPolicy(model, tokenizer, **{"max_new_tokens": 8, **settings})


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_the_policy_asks_with_the_ids_of_training(tokenizer) -> None:
    policy = policy_of(tiny_llama(len(tokenizer)), tokenizer)
    turns = [Turn(messages("Count to 3."), "a", 0), Turn(messages("x"), "b", 0)]
    replies = policy(turns)
    assert len(replies) == 2
    for turn, reply in zip(turns, replies, strict=True):
        prompt = chat.encode_prompt(turn.messages, tokenizer)
        (ids,) = decode(policy.model, [prompt], max_new_tokens=8, stop={tokenizer.eos_token_id})
        assert reply == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert policy.counts["replies"] == 2


def test_a_prompt_without_room_for_a_reply_is_not_cut(tokenizer) -> None:
    short, long = messages("x"), messages("x " * 200)
    room = len(chat.encode_prompt(short, tokenizer)) + 8
    policy = policy_of(tiny_llama(len(tokenizer), room), tokenizer)
    size = len(chat.encode_prompt(long, tokenizer))
    first, second, third = policy([Turn(long, "a", 0), Turn(short, "b", 0), Turn(long, "c", 0)])
    assert first == third == ContextLimit(size, room)
    assert isinstance(second, str)
    assert policy_of(policy.model, tokenizer, context=room - 1)([Turn(short, "b", 0)]) == [
        ContextLimit(room - 8, room - 1)
    ]


def test_a_reply_may_fill_the_context_where_that_is_wanted(tokenizer) -> None:
    model = tiny_llama(len(tokenizer), 512)
    turns = [Turn(messages("x " * size), f"{size}", 1) for size in (1, 20, 40, 60)]
    sizes = [len(chat.encode_prompt(turn.messages, tokenizer)) for turn in turns]
    context = sizes[2] + 5  # room for more than 8 tokens, for 8 or more, for 5, for none
    policy = policy_of(model, tokenizer, context=context, fill_context=True)
    policy.stop = set()  # a reply ends where it may not go on
    replies = policy(turns)
    prompts = [chat.encode_prompt(turn.messages, tokenizer) for turn in turns[:3]]
    wanted = decode(model, prompts, max_new_tokens=[8, 8, 5], stop=set())
    assert replies[:3] == [chat.decode_reply(ids, tokenizer) for ids in wanted]
    assert replies[3] == ContextLimit(sizes[3], context)
    assert policy.rooms == {("40", 1): 5} and policy.counts["unfinished"] == 3
    assert [isinstance(reply, ContextLimit) for reply in policy_of(model, tokenizer, context=context)(turns)] == [
        False, False, True, True,
    ]  # fmt: skip


def test_a_prompt_is_cut_at_its_beginning_where_the_protocol_says_so(tokenizer) -> None:
    model = tiny_llama(len(tokenizer))
    turns = [Turn(messages("Count to 3."), "a", 0), Turn(messages("one two three four five " * 9), "b", 0)]
    prompts = [chat.encode_prompt(turn.messages, tokenizer) for turn in turns]
    keep = len(prompts[0])
    assert len(prompts[1]) > keep
    policy = policy_of(model, tokenizer, truncate_prompt_tokens=keep)
    # As TGI cut, which the paper used: `<s>`, and then the end.
    cut = [prompts[0], [tokenizer.bos_token_id, *prompts[1][1 - keep :]]]
    wanted = decode(model, cut, max_new_tokens=8, stop=policy.stop)
    assert policy(turns) == [chat.decode_reply(ids, tokenizer) for ids in wanted]
    assert policy.counts["truncated"] == 1
    assert policy(turns) != policy_of(model, tokenizer)(turns)
    room = policy_of(model, tokenizer, truncate_prompt_tokens=keep, context=keep + 8)
    assert not any(isinstance(reply, ContextLimit) for reply in room(turns))
    assert isinstance(policy_of(model, tokenizer, context=keep + 8)(turns)[1], ContextLimit)
    with pytest.raises(ValueError, match="at least one token"):
        policy_of(model, tokenizer, truncate_prompt_tokens=0)


def test_a_tokenizer_without_an_end_is_refused(tokenizer) -> None:
    class Endless:
        eos_token_id = None

    with pytest.raises(UserError, match="end-of-sequence"):
        policy_of(tiny_llama(), Endless())


def test_a_saved_checkpoint_answers_as_the_model_in_memory(tmp_path, tokenizer) -> None:
    from agenttuning.policies.transformers_policy import load

    model = tiny_llama(len(tokenizer))
    model.save_pretrained(tmp_path)
    chat.save_tokenizer(tokenizer, tmp_path)
    turns = [Turn(messages("Count to 3."), "a", 0)]
    loaded = load(tmp_path, device="cpu", max_new_tokens=8)
    assert loaded(turns) == policy_of(model, tokenizer)(turns)


def turn_of(task, item: dict, number: int = 0) -> Turn:
    environment = task.Environment(item)
    environment.reset()
    return Turn([], item["id"], number, environment, react.write)


def test_the_random_policy_is_admissible_and_seeded() -> None:
    turns = [turn_of(toy_task, item) for item in toy_task.items("test", 30, 0)]
    replies = random_policy(0)(turns)
    assert replies == [random_policy(0)([turn])[0] for turn in turns]
    assert replies != random_policy(1)(turns)
    assert {react.read(reply, 100).action for reply in replies} == {"add 0", "add 1", "add 2"}


def test_the_teacher_slips_and_gives_up_as_often_as_it_says() -> None:
    turns = [turn_of(toy_task, {"id": f"toy_{n}", "target": 3}) for n in range(4000)]
    replies = teacher(slip=0.3, give_up=0.1, seed=0)(turns)
    slips = [reply for reply in replies if "I am not sure" in reply]
    assert abs(replies.count(GIVING_UP) / 4000 - 0.1) < 0.02
    assert abs(len(slips) / 4000 - 0.3) < 0.03
    rest = [reply for reply in replies if reply != GIVING_UP and reply not in slips]
    assert set(rest) == set(expert(turns[:1]))
    assert teacher(0.0, 0.0, 0)(turns[:5]) == expert(turns[:5])
    assert react.read(GIVING_UP, 100).action is None


@pytest.mark.parametrize(("slip", "give_up"), [(-0.1, 0), (0.6, 0.6), (0, 1.1)])
def test_a_teacher_with_impossible_chances_is_refused(slip, give_up) -> None:
    with pytest.raises(UserError, match="chances"):
        teacher(slip, give_up, 0)


def test_the_experts_moves_can_all_be_written() -> None:
    for task in TASKS.values():
        for item in task.items("train", 20, 1):
            turn = turn_of(task, item)
            assert react.read(expert([turn])[0], 500).action == turn.env.oracle().action
            turn.env.close()
