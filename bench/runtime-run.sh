#!/bin/bash
# Times `run` of /bin/true by atoll-runtime, runc and crun on the same bundle, in turn.
#
# usage: bench/runtime-run.sh [RUNS]     needs root, runc, crun, jq, busybox-static; ATOLL=<directory with our programs>
#
# crun refuses a hybrid cgroup layout, so every runtime runs in a private mount namespace in which an
# empty cgroup2 hierarchy is unmounted; "namespace alone" is what that costs. Containers go below our
# own cgroup. A second round has Docker's seccomp profile, if a file with one is given as PROFILE.
set -euo pipefail

runs=${1:-50}
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "${ATOLL:-$here/../target/atoll/bin}" && pwd)
work=$(mktemp -d /tmp/atoll-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/bundle/rootfs/bin"
cp "$(command -v busybox)" "$work/bundle/rootfs/bin/true"
cd "$work/bundle"
own=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
runc spec
jq --arg cgroup "${own%/}/atoll-bench" \
  '.process.terminal = false | .process.args = ["/bin/true"] | .linux.cgroupsPath = $cgroup + "/run"' \
  config.json >new.json
mv new.json config.json

inside() { # command…
  echo "unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec $*'"
}
"$here/interleave.py" -n "$runs" \
  "atoll=$(inside "$bin/atoll-runtime" --root "$work/a" run one)" \
  "crun=$(inside crun --root "$work/c" run two)" \
  "runc=$(inside runc --root "$work/r" run three)" \
  "namespace alone=$(inside true)"
find /sys/fs/cgroup -depth -type d -path '*atoll-bench*' -exec rmdir {} + 2>/dev/null || true
