#!/usr/bin/env bash
# Slurm: one process a node with all its GPUs. The processes find each other by themselves.
#   sbatch [--nodes 4 --gpus-per-node 8 --time 24:00:00 ...] experiments/train_slurm.sh \
#     configs/published.py:ve/cifar10_ncsnpp_continuous /shared/runs/ncsnpp [--heartbeat 60] [--config.a.b=value ...]
# WORKDIR is on a file system that all nodes share. Two minutes before the time limit, and on
# preemption, every process gets SIGTERM, saves and ends with 143; the job then queues again, under
# the same number, and resumes. Where a process or a node dies, the step ends and the job fails.
#SBATCH --job-name=sdejax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if (($# < 2)) || [[ $1 == --help ]]; then
  echo "usage: sbatch train_slurm.sh CONFIG WORKDIR [overrides]"
  sed -n '2,/^[^#]/s/^# \?//p' "$0"
  [[ ${1:-} == --help ]] && exit 0 || exit 2
fi >&2
config=$1
workdir=$2
shift 2

trap : TERM # the processes get it too: wait for them to save
status=0
srun --kill-on-bad-exit=1 sdejax train --distributed \
  --config "$config" --workdir "$workdir" "$@" || status=$?
if ((status == 143)); then
  echo "preempted: job $SLURM_JOB_ID queues again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
