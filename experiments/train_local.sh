#!/usr/bin/env bash
# One host, all its devices. The same command resumes.
#   experiments/train_local.sh configs/cifar10_ddpmpp.py runs/ddpmpp [--config.a.b=value ...]
set -euo pipefail
config=${1:?usage: train_local.sh CONFIG WORKDIR [overrides]}
workdir=${2:?usage: train_local.sh CONFIG WORKDIR [overrides]}
shift 2
exec sdejax train --config "$config" --workdir "$workdir" "$@"
