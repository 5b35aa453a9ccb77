"""From a checkpoint to a folder for the Hub: `export.export`. Weights pass one tensor at a time."""

from agenttuning.export.run import Exported, export

__all__ = ["Exported", "export"]
