#!/bin/bash
# Run a verb, and others after it, on Hugging Face Jobs: this commit, one machine, the run mirrored into a bucket.
#
#   BUCKET=you/agenttuning jobs/submit.sh train recipes/agentlm-13b/sft.yaml [key=value ...] [--then VERB [its words]]... \
#       [-- OPTIONS OF hf jobs run]
#
# README.md beside this file says what FLAVOR and HOURS do, and what happens to the results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
refuse() { printf 'jobs/submit.sh: %s\n' "$1" >&2; exit 2; }

[ -n "${BUCKET:-}" ] || refuse 'BUCKET=owner/name is not set; a job has no disk of its own that outlives it'
hours=${HOURS:-24}
[[ $hours =~ ^[1-9][0-9]*$ ]] || refuse "HOURS=$hours; it is a whole number of hours, after which the job is stopped"
[ -f "${2:-}" ] || refuse "the recipe ${2:-} is not a file; write jobs/submit.sh train recipes/agentlm-13b/sft.yaml"
venv=${VENV:-.venv}
[ -x "$venv/bin/hf" ] || refuse "there is no environment $venv; \`make .venv/.ready\` makes it, as \`make jobs-13b\` does"
[ -z "$(git status --porcelain)" ] || refuse 'there are changes that are not committed; the job has a commit, without them'
words=() options=()
while [ $# -gt 0 ]; do
    case $1 in
        --) shift; options=("$@"); break ;;
        --run-dir | --run-dir=*) refuse '--run-dir is set by the job, which mirrors that folder into the bucket' ;;
        *hf_????????????????????*) refuse 'an argument looks like a token; whoever sees the job would read it; use HF_TOKEN' ;;
    esac
    words+=("$1"); shift
done

# What could not run, and the plan of a training with hours and cost: a mistake ends it here, before anything is paid for.
export PYTHONPATH=src
chain=$(mktemp)
trap 'rm "$chain"' EXIT
"$venv/bin/python" -m agenttuning.chain --one-run "${words[@]}" > "$chain"
mapfile -d '' -t steps < "$chain"
[ "${words[0]}" != train ] || "$venv/bin/python" -m agenttuning "${steps[@]:1:${steps[0]}}" --dry

# git's own parcel of this commit: no remote is asked for, and the job knows the commit that it trains
source=$(mktemp -d)
trap 'rm -r "$source" "$chain"' EXIT
git bundle create --quiet "$source/commit.bundle" HEAD
secrets=(--secrets HF_TOKEN)  # by name: hf reads the value from the environment or the login, and sends it as a secret
for name in WANDB_API_KEY ${SECRETS:-}; do
    [ -z "${!name:-}" ] || secrets+=(--secrets "$name")
done

said=$("$venv/bin/hf" buckets create --private --exist-ok "$BUCKET" 2>&1) || {
    # of a traceback what it ends with
    printf '%s\n' "$said" | { grep -v '^ \|^$\|^Traceback\|^The above\|^During handling' || true; } | tail -n 5 >&2
    refuse "no job was started: the bucket $BUCKET could not be made or seen; check the network, \`hf auth login\` and its name"
}
printf '%s\n' "$said"
# shellcheck disable=SC2016  # the single quotes are the container's shell to read
"$venv/bin/hf" jobs run --detach --flavor "${FLAVOR:-h200x8}" --timeout "${hours}h" "${secrets[@]}" \
    --volume "$source:/source:ro" ${options[@]+"${options[@]}"} python:3.11 \
    bash -c 'git clone --quiet /source/commit.bundle agenttuning && cd agenttuning && exec jobs/inside.sh "$@"' job \
    "$BUCKET" "$hours" "${words[@]}"
