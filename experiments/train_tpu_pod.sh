#!/usr/bin/env bash
# A TPU pod slice: every worker runs the same command and finds the others by itself.
# The workdir is shared storage, e.g. a bucket mounted at the same path on every worker.
#   experiments/train_tpu_pod.sh NAME ZONE configs/cifar10_ncsnpp.py /mnt/bucket/ncsnpp [overrides]
set -euo pipefail
name=${1:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
zone=${2:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
config=${3:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
workdir=${4:?usage: train_tpu_pod.sh NAME ZONE CONFIG WORKDIR [overrides]}
shift 4
overrides=$(printf ' %q' "$@")
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command \
  "cd sdejax && .venv/bin/sdejax train --distributed --config $config --workdir $workdir$overrides"
