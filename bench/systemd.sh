#!/bin/bash
# Boots a Debian with systemd in it behind the wall `system`, two at once, and says how long it takes.
# By hand, as root: debootstrap takes a minute and a half the first time (kept in $CACHE, default below /var/tmp).
# Needs debootstrap, docker's CLI, and `cargo xtask dist` (or ATOLL_BIN).
set -euo pipefail
BIN=${ATOLL_BIN:-$(dirname "$0")/../target/atoll/bin}
CACHE=${CACHE:-/var/tmp/atoll-systemd}
SUITE=${SUITE:-bookworm}
work=$(mktemp -d)
export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/config

archive=$CACHE/$SUITE.tar
if [ ! -f "$archive" ]; then
    mkdir -p "$CACHE"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus "$SUITE" "$work/root" > "$work/log" 2>&1 || {
        tail -n 5 "$work/log" >&2
        exit 1
    }
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/var/lib/dbus/machine-id
    # Each container makes an id of its own.
    : > "$work/root/etc/machine-id"
    tar -C "$work/root" -cf "$archive.new" .
    mv "$archive.new" "$archive"
fi

unshare --net sh -c 'ip link set lo up && exec "$@"' sh "$BIN/atoll" engine \
    --data-root "$work/data" --exec-root "$work/exec" -H "$DOCKER_HOST" > "$work/engine.log" 2>&1 &
engine=$!
finish() {
    docker ps -aq 2> /dev/null | xargs -r docker rm -f > /dev/null
    kill $engine
    wait $engine || true
    rm -rf "$work"
}
trap finish EXIT
for _ in $(seq 50); do
    docker version > /dev/null 2>&1 && break
    sleep 0.1
done

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
expect() {
    [ "$2" = "$3" ] || fail "$1: $2 instead of $3"
}

docker import "$archive" systemd:latest > /dev/null
for name in one two; do
    docker run -d -t --isolation=system --name $name -m 256m systemd > /dev/null
done
for name in one two; do
    for _ in $(seq 100); do
        state=$(docker exec $name systemctl is-system-running 2> /dev/null || true)
        case $state in running | degraded) break ;; esac
        sleep 0.1
    done
    [ "$state" = running ] || docker exec $name systemctl --failed --no-pager
    expect "$name is" "$state" running
    docker exec $name systemd-analyze | head -n 1
done
id=$(docker inspect -f '{{.Id}}' one)
expect "machine id" "$(docker exec one cut -c1-8 /etc/machine-id)" "${id:0:8}"
docker exec one sh -ec '
    logger -t mark hello
    printf "[Service]\nExecStart=/bin/sleep 1000\nDynamicUser=yes\nProtectSystem=strict\nPrivateTmp=yes\n" > /etc/systemd/system/z.service
    systemctl daemon-reload && systemctl start z'
expect service "$(docker exec one systemctl show -P ControlGroup z)" /system.slice/z.service
expect journal "$(docker exec one journalctl -q -t mark -o cat --no-pager)" hello
docker logs one | tr -d '\r' | grep 'Welcome to' > /dev/null || fail "no boot on the console"
begin=$(date +%s%N)
docker stop one > /dev/null
echo "stopped in $((($(date +%s%N) - begin) / 1000000)) ms"
expect "exit code" "$(docker inspect -f '{{.State.ExitCode}}' one)" 0
docker kill two > /dev/null
docker start one > /dev/null
docker rm -f one two > /dev/null
find /sys/fs/cgroup -name "$id*" | grep . && fail "cgroups are left"
echo ok
