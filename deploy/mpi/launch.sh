#!/usr/bin/env bash
# A whole campaign in one MPI launch: rank 0 is the scheduler, rank 1 the driver, all others are workers. Run it where
# mpirun knows its machines: in a batch job, or with a host file.
#
#   deploy/mpi/launch.sh campaign.yaml                                  # with mpirun
#   SKYGRAFT_LAUNCH="srun --mpi=pmix" deploy/mpi/launch.sh campaign.yaml
#
# mpirun ends all ranks on a signal: images that were in the making then are made again when it is run again.
set -euo pipefail

# ---- yours; each can also be set in the environment ----
: "${SKYGRAFT_RANKS:=64}"                    # at least 3: scheduler, driver and a worker
: "${SKYGRAFT_LAUNCH:=mpirun --bind-to none}" # with --hostfile FILE outside a batch job
: "${SKYGRAFT_VENV:=$HOME/skygraft/.venv}"   # where skygraft is installed, with the extra mpi
: "${SKYGRAFT_CLUSTER:=mpi}"                 # or a profile with `kind: mpi`
# --------------------------------------------------------

campaign=${1:?give the campaign: launch.sh campaign.yaml}
shift
if [ "$SKYGRAFT_RANKS" -lt 3 ]; then
    echo "SKYGRAFT_RANKS is $SKYGRAFT_RANKS; at least 3 are needed" >&2
    exit 2
fi
# shellcheck disable=SC1091
source "$SKYGRAFT_VENV/bin/activate"
# One thread for each rank: the ranks of a node share its cores.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# shellcheck disable=SC2086
exec $SKYGRAFT_LAUNCH -n "$SKYGRAFT_RANKS" skygraft run "$campaign" --cluster "$SKYGRAFT_CLUSTER" "$@"
