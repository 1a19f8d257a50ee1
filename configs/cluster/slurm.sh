#!/bin/bash
# Train a config on the nodes of one Slurm job:
#   sbatch configs/cluster/slurm.sh CONFIG [KEY=VALUE ...]
# Name an output folder that all nodes share, as output=/shared/runs. A requeued job goes on with its run.
#SBATCH --job-name=rayloom
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
##SBATCH --gpus-per-node=1
# Alone on its nodes: at its end `ray symmetric-run` stops every Ray that it finds on them.
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

config=${1:?usage: sbatch configs/cluster/slurm.sh CONFIG [KEY=VALUE ...]}
shift

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
head=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname -I | cut -d ' ' -f 1)
address="$head:$((20000 + SLURM_JOB_ID % 10000))"

# Every node needs the same token: one file in the home folder, which the nodes share.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null
export RAY_TMPDIR=/tmp/rayloom-$SLURM_JOB_ID
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

srun --kill-on-bad-exit=1 bash -c 'mkdir -p "$RAY_TMPDIR" && exec "$@"' start \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false \
    -- env RAY_ADDRESS="$address" rayloom run "$config" "$@" --job "slurm-$SLURM_JOB_ID"
