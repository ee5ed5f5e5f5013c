#!/usr/bin/env bash
# One host, all its devices. The same command resumes.
#   experiments/train_local.sh configs/digits.py runs/digits [--config.a.b=value ...]
set -euo pipefail
if (($# < 2)) || [[ $1 == --help ]]; then
  echo "usage: train_local.sh CONFIG WORKDIR [overrides]"
  sed -n '2,/^[^#]/s/^# \?//p' "$0"
  [[ ${1:-} == --help ]] && exit 0 || exit 2
fi >&2
config=$1
workdir=$2
shift 2
exec sdejax train --config "$config" --workdir "$workdir" "$@"
