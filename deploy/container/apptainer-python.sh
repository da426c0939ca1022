#!/usr/bin/env bash
# A Python that runs in the Apptainer image: name it as `python` in the profile of your cluster.
set -euo pipefail

# ---- yours; each can also be set in the environment ----
: "${SKYGRAFT_IMAGE:=$HOME/skygraft.sif}"
: "${SKYGRAFT_BIND:=/scratch,/project}" # the folders of the survey, the outputs and the jobs' logs, at their own paths
# --------------------------------------------------------

exec apptainer exec --bind "$SKYGRAFT_BIND" "$SKYGRAFT_IMAGE" python "$@"
