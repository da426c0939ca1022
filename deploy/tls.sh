#!/usr/bin/env bash
# A key and certificate for the processes of one campaign's cluster. Whoever has them can run code as you; nobody else
# can connect.
#
#   deploy/tls.sh FOLDER [tls://HOST:PORT]
#
# writes into FOLDER, readable by you alone: ca.pem, cert.pem and key.pem; tls.env, to be sourced before `dask scheduler` and
# `dask worker`; and, for the address of a scheduler, the profile scheduler.yaml for `skygraft run --cluster`. Clusters that
# skygraft starts have keys of their own.
set -euo pipefail

folder=${1:?give a folder that is seen wherever the processes run}
days=${SKYGRAFT_TLS_DAYS:-90}

umask 077
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -e "$folder/key.pem" ]; then
    echo "$folder/key.pem is there already; remove the folder to make new ones" >&2
    exit 1
fi
# One certificate for all, its own authority. Dask looks at who signed it, not at host names.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days "$days" \
    -subj "/CN=skygraft" -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null
cp "$folder/cert.pem" "$folder/ca.pem"

{
    echo "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True"
    printf 'export DASK_DISTRIBUTED__COMM__TLS__CA_FILE=%q\n' "$folder/ca.pem"
    for role in CLIENT SCHEDULER WORKER; do
        printf 'export DASK_DISTRIBUTED__COMM__TLS__%s__CERT=%q\n' "$role" "$folder/cert.pem"
        printf 'export DASK_DISTRIBUTED__COMM__TLS__%s__KEY=%q\n' "$role" "$folder/key.pem"
    done
} >"$folder/tls.env"
if [ $# -gt 1 ]; then
    printf 'kind: scheduler\naddress: "%s"\ntls: {ca_file: ca.pem, cert: cert.pem, key: key.pem}\n' "$2" >"$folder/scheduler.yaml"
fi
echo "wrote ca.pem, cert.pem, key.pem and tls.env into $folder (good for $days days)"
