"""AgentInstruct as native tool calls, for models that have them: `forward` and `back` a row; export.py writes them all."""

from agenttuning.data.tools.convert import back, drop_opening, forward, split_of
from agenttuning.data.tools.schemas import TOOLS

__all__ = ["TOOLS", "back", "drop_opening", "forward", "split_of"]
