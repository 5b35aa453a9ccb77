#!/bin/bash
# What the job of jobs/train.sh does: install, fetch what an earlier job left, train, and keep the bucket up to date.
#
#   jobs/inside.sh BUCKET HOURS RECIPE [key=value ...]
set -euo pipefail
bucket=$1 hours=$2 recipe=$3
run=${recipe%.yaml} run=runs/${run##*recipes/}  # where every other verb looks for it
make --no-print-directory .venv/.ready
hf=.venv/bin/hf

# One job writes into $run at a time. It is trained on the job's own disk: a mounted bucket takes no rename of a folder,
# which is how checkpoints are sealed. A half mirrored one is found out by its manifest.
mirror() { "$hf" sync --delete --exclude '*.tmp*' "$run" "hf://buckets/$bucket/$run"; }
mkdir -p "$run"
git rev-parse HEAD > "$run/commit.txt"
"$hf" sync "$run" "hf://buckets/$bucket/$run"  # makes the folder, so that fetching it cannot fail for want of it
"$hf" sync "hf://buckets/$bucket/$run" "$run"
while sleep "${MIRROR_SECONDS:-900}"; do mirror || echo 'the bucket could not be brought up to date; trying again later'; done &
mirroring=$!

# Half an hour before the job's time is up SIGTERM, on which `train` saves; also when the job itself is told to end.
timeout --preserve-status --signal=TERM "${TRAIN_SECONDS:-$((hours * 3600 - 1800))}" \
    .venv/bin/python -m agenttuning train "${@:3}" --run-dir "$run" &
training=$!
trap 'kill -TERM "$training"' TERM
status=0
wait "$training" || status=$?
while kill -0 "$training" 2> /dev/null; do  # a signal ends `wait`, not the training
    status=0
    wait "$training" || status=$?
done
kill "$mirroring"
mirror || { sleep "${RETRY_SECONDS:-60}"; mirror; }
exit "$status"
