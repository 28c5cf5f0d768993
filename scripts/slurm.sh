#!/usr/bin/env bash
# Train on the nodes of a Slurm cluster: one torchrun on each, one process for each of its GPUs.
#   sbatch --nodes 4 --job-name faces scripts/slurm.sh -b celeba_ae train.batch_size=800
# The arguments are those of iin-train; the environment (.venv, conda) is that of the shell that submits the job. Its run
# is logs/<time>_<job name>-<job id>. Two minutes before its time is over the job saves what it has and queues again; then
# it goes on with that run. docs/devices.md says more.
#SBATCH --job-name=iin
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

refuse() {
  echo "error: $1" >&2
  exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || refuse "this is no job of Slurm; submit it: sbatch scripts/slurm.sh -b CONFIG ..."

# What to start: the run that an earlier turn of this job has begun, or what the arguments ask for.
logs="${IIN_LOGS:-logs}"
again=() # of the arguments, those that are no part of a run's configuration
resumes=0
before=""
for word in "$@"; do
  case "$before" in
    --logs) logs="$word" && again+=("$before" "$word") ;;
    --allow) again+=("$before" "$word") ;;
  esac
  case "$word" in
    --logs=*) logs="${word#*=}" && again+=("$word") ;;
    --allow=* | -q | --quiet) again+=("$word") ;;
    -r* | --resume* | -p* | --project*) resumes=1 ;;
    -n* | --name*) refuse "-n: the run is named after the job; use sbatch --job-name NAME" ;;
    -c* | --checkpoint*) refuse "-c: each turn of this job would begin there; go back with iin-train -r RUN -c WHICH first" ;;
    --devices*) refuse "--devices: one process for each GPU of the job; use sbatch --gpus-per-node N" ;;
  esac
  before="$word"
done
arguments=("$@")
if [ "$resumes" = 0 ]; then
  name="${SLURM_JOB_NAME:-iin}"
  name="${name//[^A-Za-z0-9_.-]/_}-$SLURM_JOB_ID"
  arguments+=(-n "$name")
  for folder in "$logs"/*_"$name"; do
    if [ -f "$folder/config.yaml" ]; then
      arguments=(-r "$folder" ${again[@]+"${again[@]}"})
    fi
  done
fi

# Where the processes meet. Jobs that share a node have different numbers, and so different ports.
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST") || refuse "scontrol names no node of this job"
port=$((10000 + SLURM_JOB_ID % 20000))

# srun does not know by itself what sbatch was told about cores; torchrun gives its processes 30 seconds to save.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-90}"

# SIGUSR1 comes to this shell alone. It has SIGTERM sent to the torchruns, which pass it on. (An srun that gets SIGTERM
# would kill them; and a job that is cancelled gets SIGTERM as well, but shall not come back.)
asked=0
save() {
  trap '' USR1
  asked=1
  echo "Job $SLURM_JOB_ID: time is nearly over; saving." >&2
  scancel --signal=TERM "$SLURM_JOB_ID"
}
trap save USR1

# Behind -- torchrun leaves --logs alone, which it would take for one of its own.
# A node that is done before the others leaves them time: the first process may still be writing the checkpoint.
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=300 \
  torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" --max-restarts=0 \
  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  -m -- iin.cli.train "${arguments[@]}" &
step=$!

interrupted=0
while :; do
  wait "$step" && code=0 || code=$?
  [ "$asked" != "$interrupted" ] || break
  interrupted="$asked" # it was the signal that ended the wait, not the end of the step
done
if [ "$asked" = 1 ] && [ "$code" != 0 ]; then
  echo "Job $SLURM_JOB_ID: queued again; it goes on with its run." >&2
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
