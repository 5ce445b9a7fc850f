#!/bin/bash
# Throughput of container output in MB/s: into the json-file log, back out by `docker logs`, and attached;
# ours against Debian's dockerd, in turn.
#
# usage: bench/log-throughput.sh [MEGABYTES] [RUNS]   needs root, docker.io, busybox-static; ATOLL=<our programs>
set -euo pipefail

megabytes=${1:-300}
runs=${2:-3}
here=$(cd "$(dirname "$0")" && pwd)
bin=${ATOLL:-$here/../target/atoll/bin}
work=$(mktemp -d /tmp/atoll-bench.XXXXXX)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
mkdir -p "$work/docker" "$work/bb/bin"
dockerd --data-root "$work/docker/data" --exec-root "$work/docker/run" -H "unix://$work/docker.sock" \
  --pidfile "$work/docker/pid" --bridge none --iptables=false >"$work/docker.log" 2>&1 &
pids+=($!)
engine="$bin/atoll engine"
[ -x "$bin/atoll" ] || engine="$bin/atolld"
$engine --data-root "$work/atoll/data" --exec-root "$work/atoll/run" -H "unix://$work/atoll.sock" \
  --bridge none ${ATOLL_ARGS:-} >"$work/atoll.log" 2>&1 &
pids+=($!)
cp "$(command -v busybox)" "$work/bb/bin/busybox"
for name in sh cat; do ln -s busybox "$work/bb/bin/$name"; done
for socket in docker atoll; do
  for _ in $(seq 200); do docker -H "unix://$work/$socket.sock" version >/dev/null 2>&1 && break; sleep 0.1; done
  tar -C "$work/bb" -c . | docker -H "unix://$work/$socket.sock" import - bb:latest >/dev/null
done
# Lines of about 100 bytes, as logs have.
python3 - "$work/text" "$megabytes" <<'PY'
import sys
line = "2026-11-23 13:00:00 INFO  worker-%06d handled GET /api/v1/items/%06d in 12.3 ms with \"200 OK\" <ok>\n"
block = "".join(line % (n, n * 7) for n in range(10000)).encode()
size = int(sys.argv[2]) * 10**6
with open(sys.argv[1], "wb") as out:
    while size > 0:
        out.write(block[:size]); size -= len(block)
PY

rate() { # name, seconds
  awk -v n="$1" -v mb="$megabytes" -v s="$2" 'BEGIN {printf "  %-28s %7.1f MB/s\n", n, mb / s}'
}
now() { date +%s.%N; }
took() { awk -v a="$1" -v b="$(now)" 'BEGIN {print b - a}'; }
for run in $(seq "$runs"); do
  echo "run $run, $megabytes MB of lines of 100 bytes"
  for socket in docker atoll; do
    docker="docker -H unix://$work/$socket.sock"
    start=$(now)
    id=$($docker run -d --network none -v "$work/text:/text:ro" bb cat /text)
    $docker wait "$id" >/dev/null
    rate "$socket: log" "$(took "$start")"
    start=$(now)
    bytes=$($docker logs "$id" | wc -c)
    rate "$socket: logs back" "$(took "$start")"
    [ "$bytes" -eq $((megabytes * 1000000)) ] || echo "  $socket: logs gave $bytes bytes"
    $docker rm "$id" >/dev/null
    start=$(now)
    bytes=$($docker run --rm --network none --log-driver none -v "$work/text:/text:ro" bb cat /text | wc -c)
    rate "$socket: attached, no log" "$(took "$start")"
    [ "$bytes" -eq $((megabytes * 1000000)) ] || echo "  $socket: attached gave $bytes bytes"
    start=$(now)
    $docker run --rm --network none -v "$work/text:/text:ro" bb cat /text | wc -c >/dev/null
    rate "$socket: attached and log" "$(took "$start")"
  done
done
