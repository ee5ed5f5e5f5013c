#!/usr/bin/env bash
# Several processes on one machine, as several hosts would be: N processes, each with its share of
# every batch. On GPUs give each process its own (CUDA_VISIBLE_DEVICES); on CPU gloo connects them.
#   experiments/train_processes.sh 2 configs/digits.py runs/digits [--config.a.b=value ...]
# SIGTERM and Ctrl-C go on to all: they save one step, and this script ends with 143. Where one
# dies, the others have GRACE seconds to end by themselves and are then killed; this script ends
# with the code of the first that failed. PORT is that of process 0.
set -euo pipefail
if (($# < 3)) || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: train_processes.sh N CONFIG WORKDIR [overrides]"
  sed -n '2,/^[^#]/s/^# \?//p' "$0"
  [[ ${1:-} == --help ]] && exit 0 || exit 2
fi >&2
count=$1
config=$2
workdir=$3
shift 3
port=${PORT:-12355} grace=${GRACE:-20}

living=()
tell() { if ((${#living[@]})); then kill "-$1" "${living[@]}" 2>/dev/null || true; fi; }
trap 'tell TERM' INT TERM
trap 'tell KILL' EXIT
for ((i = 0; i < count; i++)); do
  sdejax train --config "$config" --workdir "$workdir" \
    --coordinator "127.0.0.1:$port" --num-processes "$count" --process-id "$i" "$@" &
  living+=($!)
done

status=0 end=0
while ((${#living[@]})); do
  sleep 0.2 || true # cut short by a signal to the whole group
  still=()
  for pid in "${living[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    code=0
    wait "$pid" || code=$?
    if ((code && !status)); then status=$code end=$((SECONDS + grace)); fi
  done
  living=(${still[@]+"${still[@]}"})
  if ((status && SECONDS >= end)); then tell KILL; fi
done
exit "$status"
