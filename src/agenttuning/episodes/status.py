"""How an episode ended. The names are AgentBench's, spelt as identifiers.

A status is either a result of the model, which is scored, or a failure of the infrastructure, which never is: a crashed
environment says nothing about the model, and counting it as a wrong answer would.
"""

from __future__ import annotations

COMPLETED = "completed"  # the environment says that the episode is over; the only status with a reward above 0
TASK_LIMIT = "task_limit"  # the protocol's turns are used up
INVALID_FORMAT = "invalid_format"  # a reply without an action
INVALID_ACTION = "invalid_action"  # too many refused actions in a row
CONTEXT_LIMIT = "context_limit"  # no room in the context for another reply
REPETITION = "repetition"  # identical replies in a row
REFUSAL = "refusal"  # a reply without an action that declines the task

AGENT_ERROR = "agent_error"  # the policy raised, also when asked again
ENVIRONMENT_ERROR = "environment_error"  # the environment raised
CANCELLED = "cancelled"  # interrupted while in play

MODEL = (COMPLETED, TASK_LIMIT, INVALID_FORMAT, INVALID_ACTION, CONTEXT_LIMIT, REPETITION, REFUSAL)
INFRASTRUCTURE = (AGENT_ERROR, ENVIRONMENT_ERROR, CANCELLED)

# AgentBench v0.2's SampleStatus, and its client's AGENT_FAILED. It has no name for repetition and refusal: there an
# episode that repeats itself is cut by the task, and a refusal is a reply which does not parse.
AGENTBENCH = {
    COMPLETED: "completed",
    TASK_LIMIT: "task limit reached",
    INVALID_FORMAT: "agent validation failed",
    INVALID_ACTION: "agent invalid action",
    CONTEXT_LIMIT: "agent context limit",
    REPETITION: "task limit reached",
    REFUSAL: "agent validation failed",
    AGENT_ERROR: "AGENT_FAILED",
    ENVIRONMENT_ERROR: "task error",
    CANCELLED: "cancelled",
}

# The bars of the paper's error-analysis figure that a status alone proves. The figure counts trajectories which contain
# an error, whatever they ended with: scoring/errors.py looks inside.
FIGURE = {INVALID_ACTION: "invalid action", REPETITION: "short-term repetition", REFUSAL: "refuse to answer"}


def is_result(status: str) -> bool:
    """True for a result of the model, False for a failure of the infrastructure. Raises ValueError for another name."""
    if status not in MODEL and status not in INFRASTRUCTURE:
        raise ValueError(f"unknown status {status!r}")
    return status in MODEL
