#!/bin/bash
# Times `run` of /bin/true by atoll-runtime, runc and crun on the same bundle, in turn.
#
# usage: bench/runtime-run.sh [RUNS]     needs root, runc, crun, jq, busybox-static; ATOLL=<directory with our programs>
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

compare() {
  "$here/interleave.py" -n "$runs" \
    "atoll=exec $bin/atoll-runtime --root $work/a run one" \
    "crun=exec crun --root $work/c run two" \
    "runc=exec runc --root $work/r run three" \
    "shell alone=exec true"
}
compare
if [ -n "${PROFILE:-}" ]; then
  echo "with the seccomp profile $PROFILE:"
  jq --slurpfile profile "$PROFILE" '.linux.seccomp = $profile[0]' config.json >new.json
  mv new.json config.json
  compare
fi
find /sys/fs/cgroup -depth -type d -path '*atoll-bench*' -exec rmdir {} + 2>/dev/null || true
