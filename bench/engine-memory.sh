#!/bin/bash
# Memory of an idle engine, ours against Debian's dockerd with its containerd: RSS and PSS in KiB, after one container each.
#
# usage: bench/engine-memory.sh     needs root, docker.io, busybox-static; ATOLL=<directory with our programs>
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bin=${ATOLL:-$here/../target/atoll/bin}
work=$(mktemp -d /tmp/atoll-bench.XXXXXX)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT

memory() { # pid…
  awk '/^Rss:/ {rss += $2} /^Pss:/ {pss += $2} END {printf "rss %d KiB, pss %d KiB\n", rss, pss}' \
    $(for pid in "$@"; do echo "/proc/$pid/smaps_rollup"; done)
}

mkdir -p "$work/docker"
dockerd --data-root "$work/docker/data" --exec-root "$work/docker/run" -H "unix://$work/docker.sock" \
  --pidfile "$work/docker/pid" --bridge none --iptables=false >"$work/docker.log" 2>&1 &
docker_pid=$!
pids+=("$docker_pid")
engine="$bin/atoll engine"
[ -x "$bin/atoll" ] || engine="$bin/atolld"
$engine --data-root "$work/atoll/data" --exec-root "$work/atoll/run" -H "unix://$work/atoll.sock" \
  --bridge none ${ATOLL_ARGS:-} >"$work/atoll.log" 2>&1 &
atoll_pid=$!
pids+=("$atoll_pid")

mkdir -p "$work/bb/bin"
cp "$(command -v busybox)" "$work/bb/bin/busybox"
for name in sh true sleep; do ln -s busybox "$work/bb/bin/$name"; done
for socket in docker atoll; do
  for _ in $(seq 200); do docker -H "unix://$work/$socket.sock" version >/dev/null 2>&1 && break; sleep 0.1; done
  tar -C "$work/bb" -c . | docker -H "unix://$work/$socket.sock" import - bb:latest >/dev/null
  docker -H "unix://$work/$socket.sock" run --rm --network none bb true
done
sleep 5

echo "atoll engine:          $(memory "$atoll_pid")"
containerd=$(pgrep -P "$docker_pid" containerd | head -1)
echo "dockerd:               $(memory "$docker_pid")"
echo "dockerd + containerd:  $(memory "$docker_pid" $containerd)"

docker -H "unix://$work/atoll.sock" run -d --name memory --network none bb sleep 1000 >/dev/null
docker -H "unix://$work/docker.sock" run -d --name memory --network none bb sleep 1000 >/dev/null
sleep 1
ours=$(pgrep -f -- "-bundle $work/atoll/run/bundles" | head -1)
theirs=$(pgrep -f "containerd-shim-runc-v2.*$work/docker" | head -1)
echo "our shim:              $(memory "$ours")"
[ -z "$theirs" ] || echo "containerd-shim-runc:  $(memory "$theirs")"
docker -H "unix://$work/atoll.sock" rm -f memory >/dev/null
docker -H "unix://$work/docker.sock" rm -f memory >/dev/null
