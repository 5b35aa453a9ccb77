"""AgentInstruct as native tool calls: `forward` and `back` for a row; export.py writes a folder of them."""

from agenttuning.data.tools.convert import back, drop_opening, forward, split_of
from agenttuning.data.tools.schemas import TOOLS

__all__ = ["TOOLS", "back", "drop_opening", "forward", "split_of"]
