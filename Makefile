# Make owns names, Python owns logic: VERB-NAME runs `agenttuning VERB RECIPE`, where RECIPE is, for a NAME like
#   13b  recipes/agentlm-13b/sft.yaml          modern-qwen3-8b      recipes/modern/qwen3-8b/sft.yaml
#   13b-lora, 13b-qlora  .../sft-lora.yaml     ablation-agent-only  recipes/ablations/agent-only.yaml
# Needs git, make and Python 3.11 (PYTHON=python3.12 for another).
#
## make quickstart             the whole method on a CPU, in minutes: base, collect, train, eval, report
##
## make plan-13b               batch, memory, tokens, hours, cost of AgentLM-13B; starts nothing
## make data-13b               draw, convert and tokenise its mixture
## make show-data-13b          print a few conversations with the trained tokens marked; a page of hundreds
## make push-data-13b          the built data and its card to the Hub (publish.hub_dataset_id); ARGS=--dry sends nothing
## make decontaminate-13b      find test examples in the training data; ARGS='--against mmlu --against gsm8k=FILE'
## make train-13b              fine-tune; DRY=1 prints the plan and stops
## make slurm-13b              the same as a Slurm job (slurm/README.md); SBATCH='--nodes=2' passes options to sbatch
## make jobs-13b               the same on Hugging Face Jobs (jobs/README.md); BUCKET=you/runs keeps the results
##                             both: ARGS='... --then eval-held-in --then compare --then push', or STEP=compare alone
## make eval-tiny              judge the CPU twin: its agent tasks and general tests
## make eval-held-in-13b       play the paper's six held-in tasks; ARGS='--data db=FILE --server URL' (docs/held-in.md)
## make eval-general-13b       MMLU, GSM8K, HumanEval, MT-Bench; ARGS='--prompts AgentTuning --protocol paper' (docs/general.md)
## make eval-released-13b      both evaluations on the authors' own weights, before anybody trains (docs/comparison.md)
## make compare-13b            verdicts: its scores beside the published ones; ARGS='--results FOLDER' adds other results
## make report-13b             write its results page
## make errors-13b             the paper's error figure with its own bars beside it (docs/looking.md)
## make export-13b             the trained model as a folder for the Hub: bf16, checked (runs/agentlm-13b/sft/export)
## make push-13b               model with card and scores, data, episodes, collection to the Hub; ARGS=--dry-run sends nothing
##
## NAME: 7b 13b 70b tiny, 7b-lora 7b-qlora (13b, 70b, too), ablation-agent-only (any file of recipes/ablations),
##       modern-qwen3-8b modern-llama-3.1-8b modern-smollm3-3b modern-qwen3-30b-a3b
##
## make base-tiny              the tiny base model of the CPU twin
## make collect-miniature      trajectories of the CPU twin's three small worlds
## make collect-tiny           a scripted teacher plays practice items of all six tasks; what it wins is kept
## make export-tools           AgentInstruct as native tool calls with JSON schemas, into OUT=runs/agentinstruct-tools
## make ablation-13b           the paper's ablations: cost first (DRY=1 stops there), then train, judge, compare
## make eta-scan-7b            the same for the share of agent data, 0 to 1 in steps of 0.1
## make ablation-tiny          agent-only, general-only and mixed on the CPU, three seeds; eta-scan-tiny
##
## make bench-train            one GPU: tokens/s, MFU and memory of Llama-2-7B beside stock TRL; ARGS=--tiny on a CPU
##
## make system-packages        Debian packages of sandbox and MariaDB (evaluation/system-packages.txt); root or sudo
## make results              evaluation/RESULTS.md again; ARGS=recipes/agentlm-13b/sft.yaml takes that run's results in
## make doctor                 which environments would run here, what is missing, and the command that supplies it
## make test-packages          what tests want besides: a browser (tests/system-packages.txt)
## make test                   all tests; make lint: ruff; make clean: remove caches (not runs/, not .venv)
##
## ARGS='learning_rate=1e-5 --data agentinstruct=rows.jsonl' passes overrides and local data to any VERB-NAME.
## VENV=path READY= uses an environment that you made yourself.

PYTHON ?= python3.11
VENV ?= .venv
OUT ?= runs/agentinstruct-tools
READY ?= $(VENV)/.ready
RUN = $(VENV)/bin/python -m agenttuning

export PYTHONPATH := src
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help quickstart base-tiny collect-miniature collect-tiny ablation-tiny export-tools bench-train results system-packages test-packages doctor test lint clean FORCE

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# what the launchers read: `make slurm-13b SBATCH=--nodes=2`, `make jobs-13b BUCKET=you/runs` reach them by the environment
export VENV

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[train,eval,dev]'
	touch $@

# Named once: agentlm-NAME/sft.yaml, and the names that mean another file.
recipe = recipes/$(patsubst %-lora/sft.yaml,%/sft-lora.yaml,$(patsubst %-qlora/sft.yaml,%/sft-qlora.yaml,$(patsubst \
  agentlm-modern-%,modern/%,$(patsubst agentlm-ablation-%/sft.yaml,ablations/%.yaml,agentlm-$(1)/sft.yaml))))

.SECONDEXPANSION:
data-%:      $$(call recipe,$$*) $(READY) FORCE ; $(RUN) data $< $(ARGS)
decontaminate-%: $$(call recipe,$$*) $(READY) FORCE ; $(RUN) decontaminate $< $(ARGS)
show-data-%: $$(call recipe,$$*) $(READY) FORCE ; $(RUN) show-data $< $(ARGS)
push-data-%: $$(call recipe,$$*) $(READY) FORCE ; $(RUN) push-data $< $(ARGS)
plan-%:      $$(call recipe,$$*) $(READY) FORCE ; $(RUN) plan $< $(ARGS)
train-%:     $$(call recipe,$$*) $(READY) FORCE ; $(RUN) train $< $(if $(DRY),--dry) $(ARGS)
slurm-%:     $$(call recipe,$$*) $(READY) FORCE ; slurm/submit.sh $(or $(STEP),train) $< $(ARGS)
jobs-%:      $$(call recipe,$$*) $(READY) FORCE ; jobs/submit.sh $(or $(STEP),train) $< $(ARGS)
eval-held-in-%: $$(call recipe,$$*) $(READY) FORCE ; $(RUN) eval-held-in $< $(ARGS)
eval-general-%: $$(call recipe,$$*) $(READY) FORCE ; $(RUN) eval-general $< $(ARGS)
eval-released-%: $$(call recipe,$$*) $(READY) FORCE ; $(RUN) eval-released $< $(ARGS)
eval-%:      $$(call recipe,$$*) $(READY) FORCE ; $(RUN) eval $< $(ARGS)
compare-%:   $$(call recipe,$$*) $(READY) FORCE ; $(RUN) compare $< $(ARGS)
ablation-%:  $$(call recipe,$$*) $(READY) FORCE ; $(RUN) ablation $< $(if $(DRY),--dry) $(ARGS)
eta-scan-%:  $$(call recipe,$$*) $(READY) FORCE ; $(RUN) eta-scan $< $(if $(DRY),--dry) $(ARGS)
errors-%:    $$(call recipe,$$*) $(READY) FORCE ; $(RUN) errors $< $(ARGS)
export-%:    $$(call recipe,$$*) $(READY) FORCE ; $(RUN) export $< $(ARGS)
push-%:      $$(call recipe,$$*) $(READY) FORCE ; $(RUN) push $< $(ARGS)
report-%:    $$(call recipe,$$*) $(READY) FORCE ; $(RUN) report $< $(ARGS)

# OpenMP threads that spin while they wait cost 10x in speed as soon as another job shares the cores, and those that never
# spin a third on idle cores (docs/notes/miniature.md).
quickstart base-tiny collect-miniature ablation-tiny eta-scan-tiny train-tiny eval-tiny eval-general-tiny test: export OMP_WAIT_POLICY := PASSIVE
quickstart base-tiny collect-miniature ablation-tiny eta-scan-tiny train-tiny eval-tiny eval-general-tiny test: export GOMP_SPINCOUNT := 3000
quickstart base-tiny collect-miniature ablation-tiny eta-scan-tiny train-tiny eval-tiny eval-general-tiny test: export TOKENIZERS_PARALLELISM := false

# Sums in one order: with several threads a resumed run equals an uninterrupted one to about 1e-7, not to the bit.
test: export OMP_NUM_THREADS := 1

base-tiny: $(READY) ; $(RUN) base recipes/agentlm-tiny $(ARGS)
collect-miniature: $(READY) ; $(RUN) collect recipes/agentlm-tiny/collect.yaml $(ARGS)
collect-tiny: $(READY) ; $(RUN) collect recipes/collect/tiny.yaml $(ARGS)
# three seeds, in 25 minutes; ARGS='--seeds 42' takes one
ablation-tiny: $(READY) ; $(RUN) ablation recipes/agentlm-tiny --seeds 42,43,44 $(if $(DRY),--dry) $(ARGS)
bench-train: $(READY) ; $(VENV)/bin/python benchmarks/train_gpu.py $(ARGS)
results: $(READY) ; $(VENV)/bin/python -m agenttuning.report.summary $(ARGS)
doctor: $(READY) ; @$(RUN) doctor $(ARGS)
export-tools: $(READY) ; $(RUN) export-tools $(OUT) $(ARGS)
quickstart: $(READY) ; $(RUN) quickstart recipes/agentlm-tiny $(ARGS)

# --no-install-recommends: of MariaDB only the server is wanted, which nobody starts for the whole machine.
SUDO = $(shell test "$$(id -u)" = 0 || echo sudo)
system-packages: PACKAGES = evaluation/system-packages.txt
test-packages: PACKAGES = tests/system-packages.txt
system-packages test-packages:
	$(SUDO) apt-get update -qq
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends $$(sed 's/\#.*//' $(PACKAGES))

test: $(READY) ; $(VENV)/bin/python -m pytest $(ARGS)
lint: $(READY) ; $(VENV)/bin/python -m ruff check .

clean:
	rm -rf build .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
