"""From a checkpoint to a folder for the Hub. Weights pass one tensor at a time."""

from agenttuning.export.run import Exported, export, export_adapter

__all__ = ["Exported", "export", "export_adapter"]
