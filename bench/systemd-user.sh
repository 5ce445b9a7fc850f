#!/bin/bash
# Runs `atoll-runtime --systemd-cgroup` as a user without privilege, whose own systemd makes the control groups: as the
# session manager of a Debian that is booted behind the wall `system`, with its users the host's.
# By hand, as root: the first time debootstrap takes two minutes (kept in $CACHE, default below /var/tmp), then some seconds.
# Needs debootstrap, busybox-static, and `cargo xtask dist` (or ATOLL_BIN, with a static atoll-runtime).
set -euo pipefail
BIN=$(realpath "${ATOLL_BIN:-$(dirname "$0")/../target/atoll/bin}")
CACHE=${CACHE:-/var/tmp/atoll-systemd}
SUITE=${SUITE:-bookworm}
work=$(mktemp -d)
root=$work/rootfs
at() { "$BIN/atoll-runtime" --root "$work/state" "$@"; }
finish() {
    at delete --force box > /dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
fail() {
    echo "FAILED: $*" >&2
    exit 1
}

archive=$CACHE/$SUITE-user.tar
if [ ! -f "$archive" ]; then
    mkdir -p "$CACHE"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,uidmap \
        "$SUITE" "$root" > "$work/log" 2>&1 || fail "debootstrap: $(tail -n 5 "$work/log")"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/lib/dbus/machine-id
    : > "$root/etc/machine-id"
    tar -C "$root" -cf "$archive.new" .
    mv "$archive.new" "$archive"
    rm -rf "$root"
fi
mkdir -p "$root"
tar -C "$root" -xf "$archive"
chmod 755 "$work" "$root"

cp "$BIN/atoll-runtime" "$root/usr/local/bin/"
chroot "$root" useradd -m -u 1000 -s /bin/bash user
chroot "$root" usermod --add-subuids 100000-165535 --add-subgids 100000-165535 user
bundle=$root/home/user/bundle
mkdir -p "$bundle"/rootfs/{bin,proc,sys,dev,tmp}
cp /bin/busybox "$bundle/rootfs/bin/"
for name in sh cat sleep echo true grep; do ln -s busybox "$bundle/rootfs/bin/$name"; done
cat > "$root/home/user/proof" << 'PROOF'
#!/bin/bash
# As the user, with his manager's folder in XDG_RUNTIME_DIR or without one.
cd ~/bundle
fail() {
    echo "FAILED: $*"
    exit 1
}
expect() { [ "$2" = "$3" ] || fail "$1: '$2' instead of '$3'"; }
at() { atoll-runtime --systemd-cgroup "$@"; }
config() {
    cat > config.json << JSON
{"ociVersion": "1.2.0", "root": {"path": "rootfs"},
 "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "$1"], "env": ["PATH=/bin"]},
 "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
  {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}],
 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "user"}, {"type": "cgroup"}],
  "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
  "cgroupsPath": "${2-a-b.slice:at:one}"}}
JSON
}
show() { systemctl --user show -P "$1" at-one.scope; }
if [ "${1:-}" = refused ]; then
    config true
    at run one > out 2>&1 && fail "it ran without a manager"
    grep -q "cannot find the user's systemd: " out && grep -q "hint: log in, or have root start it" out || fail "$(cat out)"
    exit 0
fi
own=/user.slice/user-1000.slice/user@1000.service
config 'grep ^0: /proc/self/cgroup; sleep 1000'
at run -d one < /dev/null > out 2>&1 || fail "run: $(cat out)"
expect state "$(show ActiveState) $(show Delegate) $(show Slice)" "active yes a-b.slice"
group=$(show ControlGroup)
expect "unit's group" "${group##*user@1000.service}" /a.slice/a-b.slice/at-one.scope
pid=$(at state one | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
expect "group of the first process" "$(sed -n 's/^0:://p' /proc/$pid/cgroup)" "$group"
expect "what it sees" "$(cat out)" 0::/
expect "group of another process" "$(at exec one grep ^0: /proc/self/cgroup)" 0::/
at exec -d one sleep 500
expect processes "$(wc -l < /sys/fs/cgroup$group/cgroup.procs)" 2
expect placeholders "$(grep -lx atoll-runtime /proc/[0-9]*/comm 2> /dev/null)" ""
systemctl --user daemon-reload
expect "after a reload" "$(wc -l < /sys/fs/cgroup$group/cgroup.procs)" 2
at pause one || fail pause
expect paused "$(at state one | grep -c paused)" 1
at resume one || fail resume
at kill one KILL || fail kill
for _ in $(seq 50); do at state one | grep stopped > /dev/null && break; sleep 0.1; done
at delete one || fail delete
systemctl --user status at-one.scope > /dev/null 2>&1
expect "status of the unit" $? 4
[ ! -e /sys/fs/cgroup$group ] || fail "the group is left"
# What fails leaves no unit; without a slice it is the user's.
config true
sed -i 's/"sh", "-c", "true"/"nothing"/' config.json
at run one > out 2>&1 && fail "ran nothing"
expect "units of a failed start" "$(systemctl --user list-units --all --plain --no-legend 'at-*')" ""
config 'exit 7' :at:two
at run two
expect "exit code" $? 7
# As root of a user namespace, which rootless engines are.
config 'cat /proc/self/cgroup; exit 5'
sed -i 's/{"type": "user"}, {"type": "cgroup"}/{"type": "user"}/; s/, {"type": "user"}//; /uidMappings/d; s/a-b.slice:at:one//' config.json
unshare --user --map-root-user --mount atoll-runtime --root ~/state --systemd-cgroup run three > out 2>&1
code=$?
expect "exit code in a user namespace ($(cat out))" $code 5
grep -q "^0::.*/user.slice/atoll-three.scope" out || fail "as root of a user namespace it was in $(cat out)"
begin=$(date +%s%N)
config true
for _ in 1 2 3 4 5 6 7 8 9 10; do at run one || fail run; done
echo "run true: $((($(date +%s%N) - begin) / 10000000)) ms"
expect "units in the end" "$(systemctl --user list-units --all --plain --no-legend 'at-*')" ""
PROOF
chmod +x "$root/home/user/proof"
chown -R 1000:1000 "$root/home/user"

cd "$work"
at spec
python3 - << 'EDIT'
import json
spec = json.load(open("config.json"))
spec["annotations"] = {"io.atoll.isolation": "system"}
spec["root"]["readonly"] = False
process = spec["process"]
process["args"], process["terminal"] = ["/sbin/init"], False
every = ["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "SETFCAP",
         "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE", "SYS_RESOURCE", "NET_ADMIN", "NET_BIND_SERVICE", "AUDIT_WRITE", "SYS_NICE"]
for name in ("bounding", "effective", "permitted"):
    process["capabilities"][name] = ["CAP_" + capability for capability in every]
process["noNewPrivileges"] = False
spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
spec["linux"]["cgroupsPath"] = "atoll-systemd-user"
json.dump(spec, open("config.json", "w"))
EDIT
at run -d box < /dev/null > console 2>&1 || fail "$(cat console)"
state=
for _ in $(seq 300); do
    state=$(at exec box systemctl is-system-running 2> /dev/null || true)
    case $state in running | degraded) break ;; esac
    sleep 0.1
done
echo "systemd is $state"
as_user() { at exec box setpriv --reuid 1000 --regid 1000 --init-groups env -i HOME=/home/user USER=user PATH=/usr/local/bin:/usr/bin:/bin "$@"; }
as_user /home/user/proof refused
at exec box systemctl start user@1000.service || fail "the user's systemd does not start"
# His manager's own socket, his bus by its usual path, and by its address.
as_user XDG_RUNTIME_DIR=/run/user/1000 /home/user/proof
at exec box sh -c 'mv /run/user/1000/systemd/private /run/user/1000/systemd/elsewhere'
as_user XDG_RUNTIME_DIR=/run/user/1000 /home/user/proof
at exec box sh -c 'mv /run/user/1000/bus /run/user/1000/that'
as_user XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/that /home/user/proof
echo ok
