#!/bin/bash
# Train a recipe on Hugging Face Jobs: this commit, one machine with several GPUs, the run mirrored into a bucket.
#
#   BUCKET=you/agenttuning jobs/train.sh recipes/agentlm-13b/sft.yaml [key=value ...] [-- OPTIONS OF hf jobs run]
#
# README.md beside this file says what FLAVOR and HOURS do, and what happens to the results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
refuse() { printf 'jobs/train.sh: %s\n' "$1" >&2; exit 2; }

[ -n "${BUCKET:-}" ] || refuse 'BUCKET=owner/name is not set; a job has no disk of its own that outlives it'
hours=${HOURS:-24}
[[ $hours =~ ^[1-9][0-9]*$ ]] || refuse "HOURS=$hours; it is a whole number of hours, after which the job is stopped"
[ -f "${1:-}" ] || refuse "the recipe ${1:-} is not a file; write jobs/train.sh recipes/agentlm-13b/sft.yaml"
[ -z "$(git status --porcelain)" ] || refuse 'there are changes that are not committed; the job trains a commit, without them'
words=() options=()
while [ $# -gt 0 ]; do
    case $1 in
        --) shift; options=("$@"); break ;;
        --run-dir | --run-dir=*) refuse '--run-dir is set by the job, which mirrors that folder into the bucket' ;;
        *hf_????????????????????*) refuse 'an argument looks like a token; whoever sees the job would read it; use HF_TOKEN' ;;
    esac
    words+=("$1"); shift
done

# git's own parcel of this commit: no remote is asked for, and the job knows the commit that it trains
source=$(mktemp -d)
trap 'rm -r "$source"' EXIT
git bundle create --quiet "$source/commit.bundle" HEAD
secrets=(--secrets HF_TOKEN)  # by name: hf reads the value from the environment or the login, and sends it as a secret
[ -z "${WANDB_API_KEY:-}" ] || secrets+=(--secrets WANDB_API_KEY)
hf=${VENV:-.venv}/bin/hf
[ -x "$hf" ] || hf=hf

"$hf" buckets create --private --exist-ok "$BUCKET"
# shellcheck disable=SC2016  # the single quotes are the container's shell to read
"$hf" jobs run --detach --flavor "${FLAVOR:-h200x8}" --timeout "${hours}h" "${secrets[@]}" \
    --volume "$source:/source:ro" ${options[@]+"${options[@]}"} python:3.11 \
    bash -c 'git clone --quiet /source/commit.bundle agenttuning && cd agenttuning && exec jobs/inside.sh "$@"' train \
    "$BUCKET" "$hours" "${words[@]}"
