#!/usr/bin/env bash
# A TPU pod slice: every worker runs the same command and finds the others by itself.
# The workdir is shared storage, e.g. a bucket mounted at the same path on every worker.
#   experiments/train_tpu_pod.sh NAME ZONE configs/published.py:ve/cifar10_ncsnpp_continuous /mnt/bucket/ncsnpp [overrides]
# Where a worker dies, the others end within the heartbeat (--heartbeat SECONDS, 100 by default) and
# so does this script, with a code other than 0. The same command resumes.
set -euo pipefail
if (($# < 4)) || [[ $1 == --help ]]; then
  echo "usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]"
  sed -n '2,/^[^#]/s/^# \?//p' "$0"
  [[ ${1:-} == --help ]] && exit 0 || exit 2
fi >&2
name=$1
zone=$2
config=$3
workdir=$4
shift 4
words=$(printf ' %q' train --distributed --config "$config" --workdir "$workdir" "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command \
  "cd sdejax && exec .venv/bin/sdejax$words"
