"""The paper's ablations of a recipe: what each run takes, the runs, their scores, and the table beside the paper's.

variants makes the recipes, cost says what they take and which are there already, judging what they will be scored on
here, steps runs one verb, run all of them, outcome reads what they left, text shows it.
"""

from agenttuning.ablation.run import Options, ablation
from agenttuning.ablation.variants import ETAS

__all__ = ["ETAS", "Options", "ablation"]
