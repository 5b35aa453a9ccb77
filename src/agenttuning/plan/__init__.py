"""What a run will do, take and cost, before any GPU starts. Arithmetic only: no torch, no network.

target says for which machine, memory what one GPU holds, fit which accelerate configs fit, figures puts the plan
together, text prints it.
"""

from agenttuning.plan.figures import Plan, SourcePlan, as_json, epochs, make
from agenttuning.plan.target import USABLE_MEMORY, Target, accumulation, target
from agenttuning.plan.text import page

__all__ = [
    "USABLE_MEMORY", "Plan", "SourcePlan", "Target", "accumulation", "as_json", "epochs", "make", "page", "target",
]  # fmt: skip
