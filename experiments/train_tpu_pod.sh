#!/usr/bin/env bash
# A TPU pod slice: every worker runs the same command and finds the others by itself.
# The workdir is shared storage, e.g. a bucket mounted at the same path on every worker.
#   experiments/train_tpu_pod.sh NAME ZONE configs/cifar10_ncsnpp.py /mnt/bucket/ncsnpp [overrides]
# Where a worker dies, the others end within the heartbeat (--heartbeat SECONDS, 100 by default) and
# so does this script, with a code other than 0. The same command resumes.
set -euo pipefail
name=${1:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
zone=${2:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
config=${3:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
workdir=${4:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
shift 4
words=$(printf ' %q' train --distributed --config "$config" --workdir "$workdir" "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command \
  "cd sdejax && exec .venv/bin/sdejax$words"
