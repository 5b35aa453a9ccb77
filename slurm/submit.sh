#!/bin/bash
# Submit a verb, and others that wait for it, as Slurm jobs.
#
#   slurm/submit.sh train recipes/agentlm-13b/sft.yaml [key=value ...] [--then VERB [its words]]...
#
# SBATCH, EVAL_SBATCH and CPU_SBATCH hold options of sbatch: for training, for the evaluations, for the steps without a
# GPU. README.md beside this file says more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for word in "$@"; do
    case $word in
        *hf_????????????????????*)
            echo 'slurm/submit.sh: an argument looks like a token; whoever lists the jobs would read it; use HF_TOKEN' >&2
            exit 2 ;;
    esac
done
for name in SBATCH EVAL_SBATCH CPU_SBATCH; do
    xargs -r printf '%s\0' <<< "${!name:-}" > /dev/null || {
        echo "slurm/submit.sh: $name=${!name:-} is no list of words for a shell (above); sbatch would not get them" >&2
        exit 2
    }
done
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
list=$(mktemp)
trap 'rm "$list"' EXIT
"${VENV:-.venv}/bin/python" -m agenttuning.chain "$@" > "$list"  # all of it is checked before anything is queued
command -v sbatch > /dev/null || {
    echo 'slurm/submit.sh: there is no sbatch here, so nothing was queued; run it on a machine that submits to Slurm, or' >&2
    echo 'type the commands above one after the other (slurm/README.md, "Without Slurm")' >&2
    exit 2
}
mapfile -d '' -t steps < "$list"  # of each step the number of its words, then the words
jobs=()
while [ "${#steps[@]}" -gt 0 ]; do
    words=("${steps[@]:1:${steps[0]}}") steps=("${steps[@]:$((steps[0] + 1))}")
    case ${words[0]} in
        train) more=${SBATCH:-} options=() script=slurm/train.slurm ;;
        eval*) more=${EVAL_SBATCH:-} options=(--gpus-per-node=1) script=slurm/step.slurm ;;
        ablation | eta-scan) more=${SBATCH:-} options=(--gpus-per-node=8 --exclusive --mem=0) script=slurm/step.slurm ;;
        *) more=${CPU_SBATCH:-} options=() script=slurm/step.slurm ;;
    esac
    [ "$script" = slurm/train.slurm ] && arguments=("${words[@]:1}") || arguments=("${words[@]}")
    [ "${#jobs[@]}" -eq 0 ] || options+=("--dependency=afterok:${jobs[-1]}" --kill-on-invalid-dep=yes)
    mapfile -d '' -t given < <(xargs -r printf '%s\0' <<< "$more")  # words as a shell splits them, and nothing run
    id=$(sbatch --parsable "--job-name=agenttuning-${words[0]}" "${options[@]}" "${given[@]}" "$script" "${arguments[@]}")
    jobs+=("${id%%;*}")  # with federated clusters sbatch says JOBID;CLUSTER
    printf 'job %s: %s, log slurm-agenttuning-%s-%s.out\n' "${jobs[-1]}" "${words[0]}" "${words[0]}" "${jobs[-1]}"
done
printf 'cancel: scancel %s\n' "${jobs[*]}"
[ "${#jobs[@]}" -eq 1 ] || echo 'a step that fails ends those that wait for it; the same command goes on from what is done'
