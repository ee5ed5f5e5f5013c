#!/usr/bin/env bash
# Several processes on one machine, as several hosts would be: N processes, each with its share of
# every batch. On GPUs give each process its own (CUDA_VISIBLE_DEVICES); on CPU gloo connects them.
#   experiments/train_processes.sh 2 configs/digits.py runs/digits [--config.a.b=value ...]
set -euo pipefail
count=${1:?usage: train_processes.sh N CONFIG WORKDIR [overrides]}
config=${2:?usage: train_processes.sh N CONFIG WORKDIR [overrides]}
workdir=${3:?usage: train_processes.sh N CONFIG WORKDIR [overrides]}
shift 3
port=${PORT:-12355}
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
  sdejax train --config "$config" --workdir "$workdir" \
    --coordinator "127.0.0.1:$port" --num-processes "$count" --process-id "$i" "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
