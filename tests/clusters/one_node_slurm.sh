#!/usr/bin/env bash
# A Slurm of one node, for tests: everything on loopback, in one folder, without systemd.
#   one_node_slurm.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf
#   one_node_slurm.sh stop FOLDER
# Needs root, and: apt-get install -y --no-install-recommends slurm-wlm slurmd slurmctld munge
set -euo pipefail
action=${1:?start or stop}
folder=${2:?the folder of the node}
host=$(hostname -s)

alive() { # A container's first process may not bury the dead, so a process number says nothing.
    local state
    state=$(awk '/^State:/ {print $2}' "/proc/$1/status" 2>/dev/null) || return 1
    [[ -n $state && $state != Z && $state != X ]]
}

start() {
    rm -rf "$folder/state" # else what befell its jobs and nodes last time
    mkdir -p "$folder"/{state,spool,log,run}
    chmod 755 "$folder" "$folder/run"
    cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-26817}
SlurmdPort=${SLURMD_PORT:-26818}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory,CR_ONE_TASK_PER_CORE
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,default_queue_depth=100
JobRequeue=0
KillWait=3
MessageTimeout=5
MinJobAge=300
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=${SLURM_TEST_CPUS:-4} RealMemory=${SLURM_TEST_MEMORY:-4000} State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=short Nodes=$host MaxTime=1 State=UP OverSubscribe=NO
CONF
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.socket" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/run/munged.seed"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    slurmd
    for _ in $(seq 100); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|alloc)'; then return; fi
        sleep 0.1
    done
    echo "the node is not ready: $(sinfo 2>&1)" >&2
    tail -n 5 "$folder"/log/*.log >&2
    return 1
}

stop() {
    export SLURM_CONF=$folder/slurm.conf
    timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    for name in slurmd slurmctld munged; do
        local number
        number=$(cat "$folder/run/$name.pid" 2>/dev/null) || continue
        kill "$number" 2>/dev/null || continue
        for _ in $(seq 100); do
            alive "$number" || break
            sleep 0.1
        done
    done
}

"$action"
