#!/usr/bin/env bash
# A one-machine HTCondor pool for the tests, in a Debian chroot, for Debian 12 has no htcondor package. As root:
#
#   htcondor_pool.sh build DIR                    once; some minutes and 700 MB
#   htcondor_pool.sh up DIR [PATH...]             start it; the PATHs are seen in the pool, read only, where they are
#   htcondor_pool.sh run DIR COMMAND [ARG...]     run a command in the pool, as the user `tester` (HTCondor refuses root)
#   htcondor_pool.sh down DIR
#
# The pool has namespaces of its own for mounts and processes: nothing is mounted outside it, and ending its first
# process ends all of it. It listens on 127.0.0.1 only.
set -euo pipefail

verb=${1:?build, up, run or down} root=$(realpath -m "${2:?a folder}")
shift 2

build() {
    if [ -e "$root/built" ]; then return; fi
    command -v debootstrap >/dev/null || apt-get install -y -q --no-install-recommends debootstrap
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=ca-certificates,procps trixie "$root"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # installing starts no service
    chmod +x "$root/usr/sbin/policy-rc.d"
    cp /etc/hosts /etc/resolv.conf "$root/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    # Not through debootstrap, which does not resolve HTCondor's virtual packages.
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child bash -c '
        mount -t proc proc "$1/proc"
        export DEBIAN_FRONTEND=noninteractive
        chroot "$1" apt-get update -q
        chroot "$1" apt-get install -y -q --no-install-recommends minicondor' build "$root"
    chmod 755 "$root/root" # a Python that is seen in the pool may lie in there
    chroot "$root" useradd --create-home --shell /bin/bash tester
    cat >"$root/etc/condor/config.d/99-skygraft" <<'CONF'
use ROLE: CentralManager
use ROLE: Submit
use ROLE: Execute
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
# More slots than cores, so that driver and workers fit on a small machine.
NUM_CPUS = 4
MEMORY = 8192
# There is no systemd and no control group to put jobs into.
CGROUP_ALL =
BASE_CGROUP =
USE_PID_NAMESPACES = False
PER_JOB_NAMESPACES = False
MOUNT_UNDER_SCRATCH =
DISCARD_SESSION_KEYRING_ON_STARTUP = False
# A test does not wait for the minute-long rounds of a real pool.
SCHEDD_INTERVAL = 2
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 2
UPDATE_INTERVAL = 5
START = TRUE
SUSPEND = FALSE
PREEMPT = FALSE
KILL = FALSE
TRUST_UID_DOMAIN = True
CONF
    touch "$root/built"
}

first_process() { pgrep --parent "$(cat "$root/pool.pid")" | head -n 1; }

up() {
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child bash -c '
        set -e
        root=$1
        shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t sysfs -o ro sys "$root/sys"
        for path; do
            (umask 022 && mkdir -p "$root$path")
            mount --bind "$path" "$root$path"
            mount -o remount,bind,ro "$root$path"
        done
        for folder in run lock log lib/execute lib/spool; do
            case $folder in
                run) path=/run/condor ;;
                lib/*) path=/var/lib/condor/${folder#lib/} ;;
                *) path=/var/$folder/condor ;;
            esac
            chroot "$root" install -d -o condor -g condor "$path"
        done
        chroot "$root" condor_master -f &
        wait' pool "$root" "$@" >"$root/pool.log" 2>&1 &
    echo $! >"$root/pool.pid"
    for _ in $(seq 120); do
        if [ -d "/proc/$(cat "$root/pool.pid")" ] &&
            run condor_status -autoformat Name State 2>/dev/null | grep -q Unclaimed; then
            return
        fi
        sleep 0.5
    done
    cat "$root/pool.log" >&2
    echo "the pool did not start; see $root/var/log/condor" >&2
    exit 1
}

run() {
    nsenter --target "$(first_process)" --mount --pid \
        chroot --userspec=tester:tester "$root" env HOME=/home/tester USER=tester LOGNAME=tester "$@"
}

down() {
    [ -e "$root/pool.pid" ] || return 0
    kill -KILL "$(first_process)" 2>/dev/null || true
    rm -f "$root/pool.pid"
}

case $verb in
    build | up | run | down) "$verb" "$@" ;;
    *)
        echo "unknown verb $verb: build, up, run or down" >&2
        exit 2
        ;;
esac
