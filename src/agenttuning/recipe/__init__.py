"""Recipes: strict YAML over TRL's own key names, resolved to one flat record. `load` is the only way in."""

from agenttuning.recipe.resolve import load
from agenttuning.recipe.schema import Launch, Mixture, Publish, Recipe, Source

__all__ = ["Launch", "Mixture", "Publish", "Recipe", "Source", "load"]
