#!/bin/bash
# Times atoll-runtime, crun and runc on the same bundle, in turn: `run` of /bin/true; create, start and delete; exec. Beside
# `run` stands the same work by hand (by-hand.c): new namespaces alone, and all that the configuration asks for.
#
# usage: bench/runtime-run.sh [RUNS]     needs root, runc, crun, jq, cc, busybox-static; ATOLL=<directory with our programs>;
#                                        OLD=<another such directory> to compare with
#
# crun refuses a hybrid cgroup layout, so the whole bench runs in a private mount namespace in which an
# empty cgroup2 hierarchy is unmounted; "shell alone" is what starting a command costs. Containers go below our
# own cgroup. A second round has a seccomp profile, if PROFILE is the absolute path of one (an OCI linux.seccomp object).
set -euo pipefail

if [ -z "${IN_NAMESPACE:-}" ]; then
  IN_NAMESPACE=1 exec unshare --mount "$0" "$@"
fi
umount /sys/fs/cgroup/unified 2>/dev/null || true

runs=${1:-50}
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "${ATOLL:-$here/../target/atoll/bin}" && pwd)
work=$(mktemp -d /tmp/atoll-bench.XXXXXX)
own=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
group=${own%/}/atoll-bench
clean() {
  for pair in a:"$bin/atoll-runtime" c:crun r:runc; do
    "${pair#*:}" --root "$work/${pair%%:*}" delete -f "x${pair%%:*}" 2>/dev/null || true
  done
  find /sys/fs/cgroup -depth -type d -path '*atoll-bench*' -exec rmdir {} + 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT

for hierarchy in blkio cpu cpuacct cpuset devices freezer memory pids; do
  mkdir -p "/sys/fs/cgroup/$hierarchy$group"
done
# A cpuset begins empty.
for folder in "${own%/}" "$group"; do
  for file in cpuset.cpus cpuset.mems; do
    place=/sys/fs/cgroup/cpuset$folder/$file
    [ -n "$(cat "$place")" ] || cat "/sys/fs/cgroup/cpuset/$file" >"$place"
  done
done

mkdir -p "$work/bundle/rootfs/bin" "$work/bundle/rootfs/proc" "$work/bundle/rootfs/dev" "$work/bundle/rootfs/sys"
cp "$(command -v busybox)" "$work/bundle/rootfs/bin/true"
cp "$(command -v busybox)" "$work/bundle/rootfs/bin/sleep"
cc -O2 -Wall -o "$work/by-hand" "$here/by-hand.c"
old=${OLD:+$(cd "$OLD" && pwd)}
cd "$work/bundle"
runc spec
jq --arg cgroup "$group" \
  '.process.terminal = false | .process.args = ["/bin/true"] | .linux.cgroupsPath = $cgroup + "/run"' \
  config.json >new.json
mv new.json config.json

compare() {
  local previous=()
  if [ -n "$old" ]; then
    previous=("old=exec $old/atoll-runtime --root $work/o run four")
  fi
  echo "run /bin/true:"
  "$here/interleave.py" -n "$runs" \
    "atoll=exec $bin/atoll-runtime --root $work/a run one" \
    "${previous[@]}" \
    "crun=exec crun --root $work/c run two" \
    "runc=exec runc --root $work/r run three" \
    "by hand, bare=exec $work/by-hand bare $work/bundle/rootfs $group/hand" \
    "by hand, whole=exec $work/by-hand whole $work/bundle/rootfs $group/hand" \
    "shell alone=exec true"
  echo "create, start, delete:"
  life() { echo "$1 create $2 && $1 start $2 && $1 delete --force $2"; }
  "$here/interleave.py" -n "$runs" \
    "atoll=$(life "$bin/atoll-runtime --root $work/a" one)" \
    "crun=$(life "crun --root $work/c" two)" \
    "runc=$(life "runc --root $work/r" three)"
}

compare_exec() {
  jq --arg cgroup "$group" --arg root "$work/bundle/rootfs" \
    '.process.args = ["/bin/sleep", "1000"] | .linux.cgroupsPath = $cgroup + "/exec" | .root.path = $root' \
    config.json >"$work/sleep.json"
  mkdir -p "$work/sleep"
  for name in a c r; do
    jq --arg name "$name" '.linux.cgroupsPath += $name' "$work/sleep.json" >"$work/sleep/config.json"
    case $name in
    a) "$bin/atoll-runtime" --root "$work/a" run -d -b "$work/sleep" xa ;;
    c) crun --root "$work/c" run -d -b "$work/sleep" xc ;;
    r) runc --root "$work/r" run -d -b "$work/sleep" xr ;;
    esac </dev/null >/dev/null 2>&1
  done
  echo "exec /bin/true:"
  "$here/interleave.py" -n "$runs" \
    "atoll=exec $bin/atoll-runtime --root $work/a exec xa /bin/true" \
    "crun=exec crun --root $work/c exec xc /bin/true" \
    "runc=exec runc --root $work/r exec xr /bin/true"
  "$bin/atoll-runtime" --root "$work/a" delete -f xa
  crun --root "$work/c" delete -f xc
  runc --root "$work/r" delete -f xr
}

compare
compare_exec
if [ -n "${PROFILE:-}" ]; then
  echo "with the seccomp profile $PROFILE:"
  jq --slurpfile profile "$PROFILE" '.linux.seccomp = $profile[0]' config.json >new.json
  mv new.json config.json
  compare
  compare_exec
fi
