"""AgentTuning (Zeng et al. 2023, arXiv 2310.12823) rebuilt in the open on the Hugging Face stack.

Importing this package costs nothing: no module imports torch, transformers, trl or datasets at its top level.
"""

__version__ = "0.1.0"
