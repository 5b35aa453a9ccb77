#!/bin/bash
# What the job of jobs/submit.sh does: install, fetch what an earlier job left, run the steps one after the other, and keep
# the bucket up to date.
#
#   jobs/inside.sh BUCKET HOURS VERB RECIPE [words] [--then VERB [its words]]...
set -euo pipefail
bucket=$1 hours=$2 verb=$3 recipe=$4
run=${recipe%.yaml} run=runs/${run##*recipes/}  # where every other verb looks for it
make --no-print-directory .venv/.ready
hf=.venv/bin/hf
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
.venv/bin/python -m agenttuning.chain --one-run "$verb" "$recipe" --run-dir "$run" "${@:5}" > .venv/steps
mapfile -d '' -t steps < .venv/steps  # of each step the number of its words, then the words

# One job writes into $run at a time. It is trained on the job's own disk: a mounted bucket takes no rename of a folder,
# which is how checkpoints are sealed. A half mirrored one is found out by its manifest. Without a training the
# checkpoints, hundreds of GB, stay in the bucket, so nothing may be deleted there.
rest=() mirror=(--delete --exclude '*.tmp*')
[ "$verb" = train ] || { rest=(--exclude 'checkpoints/*'); mirror=(--exclude '*.tmp*'); }
mirror() { "$hf" sync "${mirror[@]}" "$run" "hf://buckets/$bucket/$run"; }
mirror_surely() { mirror || { sleep "${RETRY_SECONDS:-60}"; mirror; }; }
mkdir -p "$run"
git rev-parse HEAD > "$run/commit.txt"
"$hf" sync "$run" "hf://buckets/$bucket/$run"  # makes the folder, so that fetching it cannot fail for want of it
"$hf" sync ${rest[@]+"${rest[@]}"} "hf://buckets/$bucket/$run" "$run"
while sleep "${MIRROR_SECONDS:-900}"; do mirror || echo 'the bucket could not be brought up to date; trying again later'; done &
mirroring=$!
trap 'kill "$mirroring" 2> /dev/null || true' EXIT

# Half an hour before the job's time is up SIGTERM, on which a step saves; also when the job itself is told to end.
seconds=${TRAIN_SECONDS:-$((hours * 3600 - 1800))} told='' working=''
trap 'told=yes; [ -z "$working" ] || kill -TERM "$working"' TERM
run_step() {
    local left=$((seconds - SECONDS)) status=0
    [ -z "$told" ] && [ "$left" -gt 0 ] || return 143
    timeout --preserve-status --signal=TERM "$left" .venv/bin/python -m agenttuning "$@" &
    working=$!
    wait "$working" || status=$?
    while kill -0 "$working" 2> /dev/null; do  # a signal ends `wait`, not the step
        status=0
        wait "$working" || status=$?
    done
    working=''
    return "$status"
}

status=0 SECONDS=0
while [ "${#steps[@]}" -gt 0 ]; do
    words=("${steps[@]:1:${steps[0]}}") steps=("${steps[@]:$((steps[0] + 1))}")
    echo "== ${words[0]}"
    run_step "${words[@]}" || status=$?
    mirror_surely
    if [ "$status" -ne 0 ]; then
        printf 'step %s ended with status %s; those after it did not run; the same command goes on from here\n' \
            "${words[0]}" "$status" >&2
        break
    fi
done
exit "$status"
