#!/bin/bash
# Memory of idle shims, ours against containerd-shim-runc-v2, N of each under one throwaway containerd.
#
# usage: bench/shim-memory.sh [N]     needs root, containerd, runc, busybox-static; ATOLL=<directory with our programs>
#
# PSS shares program pages among the N; "private" is what one more shim costs.
set -euo pipefail

count=${1:-10}
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "${ATOLL:-$here/../target/atoll/bin}" && pwd)
work=$(mktemp -d /tmp/atoll-bench.XXXXXX)
mkdir -p "$work/bin" "$work/rootfs/bin" "$work/rootfs/proc" "$work/rootfs/dev" "$work/rootfs/sys"
ln -s "$bin/containerd-shim-atoll-v2" "$work/bin/"
cp "$(command -v busybox)" "$work/rootfs/bin/busybox"
ln -s busybox "$work/rootfs/bin/sleep"
cat >"$work/config.toml" <<TOML
version = 2
root = "$work/root"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$work/c.sock"
[ttrpc]
  address = "$work/c.sock.ttrpc"
TOML
export CONTAINERD_ADDRESS="$work/c.sock"
PATH="$work/bin:$PATH" containerd -c "$work/config.toml" >"$work/log" 2>&1 &
daemon=$!
cleanup() {
  for id in $(ctr task ls -q); do
    ctr task kill -s KILL "$id" 2>/dev/null || true
    ctr task delete -f "$id" >/dev/null 2>&1 || true
    ctr container delete "$id" >/dev/null 2>&1 || true
  done
  kill "$daemon" && wait "$daemon" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done

measure() { # runtime, program
  for n in $(seq "$count"); do
    ctr run -d --runtime "io.containerd.$1.v2" --cgroup "bench-$$-$1-$n" --rootfs "$work/rootfs" "$1-$n" /bin/sleep 1000
  done
  sleep 2
  pids=$(pgrep -f -- "$2 .*-address $work/c.sock" || true)
  for pid in $pids; do
    awk '/^Rss:/ {rss = $2} /^Pss:/ {pss = $2} /^Private/ {private += $2} END {print rss, pss, private}' "/proc/$pid/smaps_rollup"
  done | awk -v name="$2" '{rss += $1; pss += $2; private += $3; n++}
    END {printf "%-28s %d shims: rss %d, pss %d, private %d KiB each\n", name, n, rss/n, pss/n, private/n}'
}
measure atoll containerd-shim-atoll-v2
measure runc containerd-shim-runc-v2
