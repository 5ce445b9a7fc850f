#!/bin/bash
# Times `docker run --rm bb true` on our engine and on Debian's dockerd, in turn, without network and with the bridge.
#
# usage: bench/docker-run.sh [RUNS]     needs root, docker.io, busybox-static; ATOLL=<directory with our programs>
#
# Both engines get throwaway roots and are ended by their pid. The CLI's own time (`docker version`-less start) is shown too.
set -euo pipefail

# Bridges and firewall rules of both engines stay in a network namespace that goes with this script.
if [ "${1:-}" != --inside ]; then
  exec unshare --net "$0" --inside "$@"
fi
shift
ip link set lo up

runs=${1:-20}
here=$(cd "$(dirname "$0")" && pwd)
bin=${ATOLL:-$here/../target/atoll/bin}
work=$(mktemp -d /tmp/atoll-bench.XXXXXX)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  awk '{print $5}' /proc/self/mountinfo | grep "^$work/" | sort -r | while read -r mount; do umount -l "$mount"; done || true
  rm -rf "$work"
}
trap cleanup EXIT

ip link add benchd0 type bridge && ip addr add 10.231.0.1/24 dev benchd0 && ip link set benchd0 up
mkdir -p "$work/docker"
dockerd --data-root "$work/docker/data" --exec-root "$work/docker/run" -H "unix://$work/docker.sock" \
  --pidfile "$work/docker/pid" --bridge benchd0 >"$work/docker.log" 2>&1 &
pids+=($!)

engine="$bin/atoll engine"
[ -x "$bin/atoll" ] || engine="$bin/atolld"
$engine --data-root "$work/atoll/data" --exec-root "$work/atoll/run" -H "unix://$work/atoll.sock" \
  --bridge benchd1 --bip 10.232.0.1/24 ${ATOLL_ARGS:-} >"$work/atoll.log" 2>&1 &
pids+=($!)

mkdir -p "$work/bb/bin"
cp "$(command -v busybox)" "$work/bb/bin/busybox"
for name in sh true; do ln -s busybox "$work/bb/bin/$name"; done
for socket in docker atoll; do
  for _ in $(seq 200); do docker -H "unix://$work/$socket.sock" version >/dev/null 2>&1 && break; sleep 0.1; done
  tar -C "$work/bb" -c . | docker -H "unix://$work/$socket.sock" import - bb:latest >/dev/null
done

run() { echo "docker -H unix://$work/$1.sock run --rm $2 bb true"; }
"$here/interleave.py" -n "$runs" \
  "dockerd none=$(run docker '--network none')" "atoll none=$(run atoll '--network none')" \
  "docker CLI alone=docker -H unix://$work/atoll.sock ps"
"$here/interleave.py" -n "$runs" \
  "dockerd bridge=$(run docker '')" "atoll bridge=$(run atoll '')"
