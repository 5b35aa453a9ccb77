"""The paper's general benchmarks: MMLU, GSM8K and HumanEval through lm-eval, MT-Bench with a judge.

protocol     how a benchmark is asked and read: a versioned file of evaluation/general/
documents    its items: official files of the user or the Hub at a commit, or small ones of our own for the tiny twin
originals    the original's prompts, read from a checkout of THUDM/AgentTuning
mmlu, gsm8k, humaneval   documents and task files for lm-eval, and the rewards of what it logged
lm           how lm-eval reaches a model: transformers in this process, vLLM, an OpenAI-compatible server
engine       one benchmark through lm-eval, resumable
mt_bench     two-turn questions, answered by a policy and graded by a judge
evaluate     all of it: `agenttuning eval-general`
"""
