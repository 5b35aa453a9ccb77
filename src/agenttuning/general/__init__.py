"""General ability: the paper's MMLU, GSM8K, HumanEval and MT-Bench."""
