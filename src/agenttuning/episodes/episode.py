"""One episode, and the order of the rules of a turn, as AgentBench plays.

A reply without an action ends the episode (refusal or invalid_format), unless its format tells the model so; an action
that the environment refuses is reported by it and the episode goes on, until `invalid_in_a_row` of them
(invalid_action); `repetition` identical replies in a row end it, after the last was played; the turns of the task end
it (task_limit). Only an episode that the environment calls over has a reward: not done is 0, as for AgentBench's
ALFWorld (not won), WebShop (nothing bought) and OS (no answer), where the protocol does not say `unfinished: score`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from agenttuning.environments import Step
from agenttuning.episodes import status
from agenttuning.episodes.remote import WorldError
from agenttuning.policies import ContextLimit
from agenttuning.protocols import Limits, Protocol, TaskRules, format_of
from agenttuning.protocols.history import newest
from agenttuning.protocols.messages import Format, Prompt, Reading, assistant, declines, user

ERROR_CHARS = 500  # of an exception's text in a record


@dataclass(frozen=True)
class Rules:
    """What is asked of the protocol turn by turn."""

    protocol: Protocol
    task: TaskRules
    limits: Limits
    format: Format

    @staticmethod
    def of(protocol: Protocol, task: str) -> Rules:
        """The rules of one task. Raises UserError when the protocol does not name it."""
        told = protocol.rules(task)
        return Rules(protocol, told, protocol.limits_of(task), format_of(told.format))


@dataclass
class Episode:
    """What has happened so far; `ended` is its status once it has one."""

    item: dict
    prompt: str | None = None  # digest of what stood before the first observation
    opening: int = 0  # messages before the model's first turn
    messages: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    ended: str | None = None
    reward: float | None = None
    metrics: dict = field(default_factory=dict)
    last: str | None = None  # the observation after the last action; no reply follows it, so it is no message
    error: str | None = None

    @property
    def turn(self) -> int:
        """Replies so far."""
        return len(self.replies)

    @property
    def replies(self) -> list[str]:
        """The model's replies, as they stand in the history."""
        return [message["content"] for message in self.messages if message["role"] == "assistant" and message["loss"]]

    def begin(self, prompt: Prompt, observation: str) -> None:
        """Note the first observation."""
        self.prompt, self.messages = prompt.digest, prompt.opening(observation)
        self.opening = len(self.messages)

    def shown(self, rules: Rules) -> list[dict]:
        """The messages that the model is shown."""
        messages = self.messages
        if rules.format.fresh:
            messages = [*messages[: self.opening - 1], messages[-1]]
        limit = rules.protocol.history_segments
        return messages if limit is None else newest(messages, limit)

    def fail(self, state: str, error: BaseException) -> None:
        """End it by a failure of the infrastructure."""
        self.ended, self.error = state, text_of(error)

    def outcome(self) -> dict:
        """The part of a record that is not its key."""
        scored = status.is_result(self.ended)
        return {
            "status": self.ended,
            "reward": self.reward if scored else None,
            "metrics": self.metrics if scored else {},
            "turns": self.turn,
            "prompt": self.prompt,
            "messages": self.messages,
            "steps": self.steps,
            "last": self.last,
            "error": self.error,
        }


def opened(env: Any) -> tuple[str, str | None]:
    """The first observation, cleaned, and how the episode ended, if it has; runs where the environment's calls run."""
    observation, over = clean(env.reset()), getattr(env, "over", False)
    return observation, (getattr(env, "ended", None) or status.COMPLETED) if over else None


def act(env: Any, reply: str, rules: Rules) -> tuple[Reading, Step | Exception | None]:
    """Read a cleaned reply and play its action; runs where the environment's calls run, and changes nothing else."""
    parsed = rules.format.read(reply, rules.limits.action_chars, env.actions)
    if parsed.action is None:
        return parsed, None
    try:
        step = env.step(parsed.action)
        return parsed, replace(step, observation=clean(step.observation))
    except Exception as error:
        return parsed, error


def settle(env: Any, episode: Episode, rules: Rules) -> tuple[float, dict]:
    """Reward and metrics of an episode that has ended; runs where the environment's calls run.

    Raises ValueError for a reward outside of [0, 1].
    """
    finished = episode.ended == status.COMPLETED or rules.task.unfinished == "score"
    reward = env.score() if finished else 0.0
    if not 0.0 <= reward <= 1.0:
        raise ValueError(f"score() gave {reward!r}; a reward lies in [0, 1]")
    metrics = getattr(env, "metrics", None)
    return float(reward), metrics() if metrics else {}


def note(episode: Episode, reply: str, parsed: Reading, step: Step | None, rules: Rules) -> None:
    """Write a turn down and end the episode where the rules end it."""
    episode.messages.append(assistant(reply if parsed.keep is None else parsed.keep))
    ended = None
    if step is None:
        episode.steps.append({"action": None, "valid": False, "cut": False, "error": None})
        if parsed.tell is None:
            episode.ended = status.REFUSAL if declines(reply) else status.INVALID_FORMAT
            return
        observation = parsed.tell
    else:
        observation = step.observation
        ended = (step.ended or status.COMPLETED) if step.done else None
        made = {"action": parsed.action, "valid": step.valid, "cut": parsed.cut, "error": step.error}
        episode.steps.append(made)
    episode.ended = ended or _stopped(episode, rules)
    if episode.ended:
        episode.last = observation
    else:
        episode.messages.append(user(rules.format.show(observation)))


def decline(episode: Episode, answer: ContextLimit | Exception) -> None:
    """End the episode by what came in place of a reply."""
    if isinstance(answer, ContextLimit):
        episode.ended = status.CONTEXT_LIMIT
    else:
        # a scripted policy asks the environment: where that is broken, the policy is not
        broken = isinstance(answer, WorldError)
        episode.fail(status.ENVIRONMENT_ERROR if broken else status.AGENT_ERROR, answer)


def _stopped(episode: Episode, rules: Rules) -> str | None:
    limits, replies = rules.limits, episode.replies
    tail = replies[-limits.repetition :] if limits.repetition else []
    if tail and len(replies) >= max(limits.repetition, limits.repetition_from) and len(set(tail)) == 1:
        return status.REPETITION
    tail = episode.steps[-limits.invalid_in_a_row :] if limits.invalid_in_a_row else []
    if tail and len(tail) == limits.invalid_in_a_row and not any(step["valid"] for step in tail):
        return status.INVALID_ACTION
    return status.TASK_LIMIT if len(replies) >= rules.task.max_turns else None


def clean(text: str) -> str:
    """The text without lone surrogates, which JSON can carry: the tokenizer would refuse the whole conversation."""
    return text.encode("utf-8", "replace").decode("utf-8")


def text_of(error: BaseException) -> str:
    """`OSError: what it said`, as it stands in a record."""
    text = str(error) if isinstance(error, WorldError) else f"{type(error).__name__}: {error}"
    return clean(text[:ERROR_CHARS])
