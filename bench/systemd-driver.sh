#!/bin/bash
# Runs `atoll-runtime --systemd-cgroup` on a Debian whose systemd has cgroup v2 alone, or with HYBRID=1 controllers on v1
# beside it, in an emulated machine.
# With the Debian of bench/systemd-user.sh, also as a user on cgroup v2, whose limits his own systemd makes.
# By hand, as root: the machine boots in about half a minute. Needs what bench/systemd.sh made ($CACHE), QEMU, a cloud kernel
# with its modules, criu, mkfs.ext4, and `cargo xtask dist` (or ATOLL_BIN, with a static atoll-runtime).
set -euo pipefail
BIN=${ATOLL_BIN:-$(dirname "$0")/../target/atoll/bin}
CACHE=${CACHE:-/var/tmp/atoll-systemd}
SUITE=${SUITE:-bookworm}
HYBRID=${HYBRID:-0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
archive=$CACHE/$SUITE-user.tar
[ -f "$archive" ] || archive=$CACHE/$SUITE.tar
[ -f "$archive" ] || { echo "run bench/systemd.sh or bench/systemd-user.sh first: it makes $archive" >&2; exit 1; }
release=$(ls /lib/modules | grep cloud-amd64 | sort | tail -n 1)

root=$work/root
mkdir "$root"
tar -C "$root" -xf "$archive"
cp "$BIN/atoll-runtime" "$root/usr/local/bin/"
mkdir -p "$root"/bundle/rootfs/{bin,proc,sys,dev,tmp}
cp /bin/busybox "$root/bundle/rootfs/bin/"
cat > "$root/bundle/rootfs/count.sh" << 'COUNT'
i=0
while :; do
    i=$((i + 1))
    echo $i
    sleep 0.2
done
COUNT
# CRIU, and the libraries it needs.
mkdir -p "$root/etc/criu"
echo "network-lock nftables" > "$root/etc/criu/default.conf"
cp --parents -nL /usr/sbin/criu $(ldd /usr/sbin/criu | grep -o '/[^ ]*') "$root/"
for name in sh cat sleep echo mknod head true; do ln -s busybox "$root/bundle/rootfs/bin/$name"; done
[ ! -e "$root/usr/lib/systemd/user/dbus.socket" ] || chroot "$root" useradd -m -u 1000 user
cat > "$root/etc/systemd/system/proof.service" << 'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/proof
ExecStopPost=/bin/systemctl poweroff --no-block
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
[Install]
WantedBy=graphical.target
UNIT
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -s ../proof.service "$root/etc/systemd/system/graphical.target.wants/"
cat > "$root/proof" << 'PROOF'
#!/bin/bash
cd /bundle
fail() {
    echo "FAILED: $*"
    exit 1
}
expect() { [ "$2" = "$3" ] || fail "$1: '$2' instead of '$3'"; }
at() { atoll-runtime --systemd-cgroup --root /run/at "$@"; }
if grep -q unified_cgroup_hierarchy=0 /proc/cmdline; then
    layout=hybrid
    folders=/sys/fs/cgroup/*
    file() { cat /sys/fs/cgroup/${1%%.*}/a.slice/a-b.slice/at-one.scope/$1; }
    unified=
else
    layout=v2
    folders=/sys/fs/cgroup
    file() { cat /sys/fs/cgroup/a.slice/a-b.slice/at-one.scope/$1; }
    unified=', "unified": {"memory.high": "33554432"}'
fi
show() { systemctl show -P "$1" at-one.scope; }
expect "file system" "$layout $(stat -fc %T /sys/fs/cgroup)" "$([ $layout = v2 ] && echo v2 cgroup2fs || echo hybrid tmpfs)"
echo "systemd $(systemctl --version | head -n 1) after $(cut -d' ' -f1 /proc/uptime) s: $(systemctl is-system-running)"
config() {
    cat > config.json << JSON
{"ociVersion": "1.2.0", "annotations": {"org.systemd.property.TimeoutStopSec": "uint64 7"}, "root": {"path": "rootfs"},
 "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "$1"], "env": ["PATH=/bin"],
  "capabilities": {"bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"]}},
 "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}],
  "cgroupsPath": "a-b.slice:at:one",
  "resources": {"memory": {"limit": 67108864, "swap": 67108864, "reservation": 1048576},
   "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"}, "pids": {"limit": 20},
   "devices": [{"allow": false, "access": "rwm"}]$unified}}}
JSON
}
config 'mknod /kmsg c 1 11; sleep 1000'
at run -d one < /dev/null > out 2>&1 || fail "run: $(cat out)"
devices() {
    at exec one sh -c 'head -c 1 /dev/zero > /dev/null' || fail "/dev/zero can't be read"
    at exec one sh -c 'head -c 1 < /kmsg' 2> /dev/null && fail "/kmsg can be read"
    return 0
}
limits_hybrid() {
    expect memory "$(file memory.limit_in_bytes)" "$1"
    expect quota "$(file cpu.cfs_quota_us) $(file cpu.cfs_period_us)" "$2"
    expect shares "$(file cpu.shares)" 512
    expect pids.max "$(file pids.max)" "$3"
    expect cpuset.cpus "$(file cpuset.cpus)" 0
    devices
}
limits_v2() {
    expect memory.max "$(file memory.max)" "$1"
    expect memory.high "$(file memory.high)" 33554432
    expect memory.low "$(file memory.low)" 1048576
    expect memory.swap.max "$(file memory.swap.max)" 0
    expect cpu.max "$(file cpu.max)" "$2"
    expect cpu.weight "$(file cpu.weight)" 59
    expect pids.max "$(file pids.max)" "$3"
    expect cpuset.cpus "$(file cpuset.cpus)" 0
    devices
}
limits() { limits_$layout "$@"; }
expect state "$(show ActiveState) $(show Delegate) $(show Slice) $(show TimeoutStopUSec)" "active yes a-b.slice 7s"
limits 67108864 "50000 100000" 20
[ $layout = hybrid ] || expect MemoryMax "$(show MemoryMax) $(show TasksMax) $(show CPUWeight) $(show AllowedCPUs)" "67108864 20 59 0"
systemctl daemon-reload
limits 67108864 "50000 100000" 20
at update --memory 50331648 --memory-swap 50331648 --cpu-quota 20000 --pids-limit 30 one || fail update
limits 50331648 "20000 100000" 30
systemctl daemon-reload
systemctl set-property --runtime a-b.slice TasksMax=1000
limits 50331648 "20000 100000" 30
echo "limits and devices survive reloads"
expect group "$(at exec one cat /proc/self/cgroup | grep -E '^0:|memory|pids|name=' | grep -v a.slice/a-b.slice/at-one.scope$)" ""
at pause one && expect state "$(at state one | grep -c paused)" 1 && at resume one || fail pause
at kill one KILL
sleep 0.3
at delete one || fail delete
systemctl status at-one.scope > /dev/null 2>&1
expect "status of the unit" $? 4
ls -d $folders/a.slice/a-b.slice/at-one.scope 2> /dev/null && fail "a folder is left"
# What fails leaves no unit, and one that failed is no obstacle.
config 'true'
sed -i 's/"sh", "-c", "true"/"nothing"/' config.json
at run one > out 2>&1 && fail "ran nothing"
expect "units of a failed start" "$(systemctl list-units --all --plain --no-legend 'at-*')" ""
config 'true'
sed -i 's/at:one/one/' config.json
at run one > out 2>&1 && fail "took a bad path"
grep -q 'expected cgroupsPath to be of format' out || fail "$(cat out)"
config 'exit 7'
at run one
expect "exit code" $? 7
# What is written into files goes on in a scope again.
config 'exec sh /count.sh'
: > out
(at run -d one < /dev/null 2> /dev/null | cat >> out) &
counts_beyond() { for _ in $(seq 100); do [ "$(wc -l < out)" -le "$1" ] || return 0; sleep 0.1; done; fail "it does not count beyond $1: $(cat said)"; }
counts_beyond 2
at checkpoint --image-path /images one > said 2>&1 || fail "checkpoint: $(cat said; grep Error /images/dump.log)"
systemctl status at-one.scope > /dev/null 2>&1
expect "status of the unit after a checkpoint" $? 4
before=$(wc -l < out)
(at restore -d --image-path /images one < /dev/null 2> said | cat >> out) &
counts_beyond "$before"
expect "unit of what was restored" "$(show ActiveState) $(show Slice)" "active a-b.slice"
limits 67108864 "50000 100000" 20
expect "its groups" "$(grep -E '^0:|memory|pids|name=' /proc/$(at state one | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')/cgroup | grep -v a.slice/a-b.slice/at-one.scope$)" ""
systemctl daemon-reload
limits 67108864 "50000 100000" 20
at delete --force one || fail "delete of what was restored"
awk '$1 != NR { exit 1 }' out || fail "it counted something twice or not at all"
for driver in "" --systemd-cgroup; do
    config true
    [ -n "$driver" ] || sed -i 's/"a-b.slice:at:one"/"\/plain"/' config.json
    begin=$(date +%s%N)
    for _ in 1 2 3 4 5 6 7 8 9 10; do atoll-runtime $driver --root /run/at run one || fail "run $driver"; done
    echo "run true ${driver:-with folders}: $((($(date +%s%N) - begin) / 10000000)) ms"
done
if [ $layout = v2 ] && [ -d /home/user ]; then
    systemctl start user@1000.service || fail "the user's systemd does not start"
    as_user() { setpriv --reuid 1000 --regid 1000 --init-groups env HOME=/home/user XDG_RUNTIME_DIR=/run/user/1000 "$@"; }
    cp -r /bundle /home/user/ && chown -R 1000:1000 /home/user/bundle && cd /home/user/bundle
    cat > config.json << JSON
{"ociVersion": "1.2.0", "root": {"path": "rootfs"},
 "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sleep", "1000"], "env": ["PATH=/bin"]},
 "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "user"}],
  "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
  "cgroupsPath": ":at:one", "resources": {"memory": {"limit": 67108864}, "cpu": {"quota": 50000, "period": 100000}, "pids": {"limit": 20},
   "devices": [{"allow": false, "access": "rwm"}]}}}
JSON
    as_user atoll-runtime --systemd-cgroup run -d one < /dev/null > /tmp/out 2>&1 || fail "as a user: $(cat /tmp/out)"
    group=/sys/fs/cgroup$(as_user systemctl --user show -P ControlGroup at-one.scope)
    limits_of_user() { expect "the user's limits" "$(cat $group/memory.max $group/cpu.max $group/pids.max | tr '\n' ' ')" "$1 "; }
    limits_of_user "67108864 50000 100000 20"
    as_user systemctl --user daemon-reload
    limits_of_user "67108864 50000 100000 20"
    as_user atoll-runtime --systemd-cgroup update --memory 50331648 --pids-limit 30 one || fail "update as a user"
    as_user systemctl --user daemon-reload
    limits_of_user "50331648 50000 100000 30"
    as_user atoll-runtime exec one true || fail "exec as a user, from $(cat /proc/self/cgroup)"
    as_user atoll-runtime delete --force one || fail "delete as a user"
    [ ! -e $group ] || fail "the user's group is left"
    echo "a user's limits survive reloads"
    cd /bundle
fi
if [ $layout = hybrid ] && [ -d /home/user ]; then
    systemctl start user@1000.service
    cp -r /bundle /home/user/ && chown -R 1000:1000 /home/user/bundle
    (cd /home/user/bundle && setpriv --reuid 1000 --regid 1000 --clear-groups env XDG_RUNTIME_DIR=/run/user/1000 \
        sh -c 'rm config.json; atoll-runtime spec --rootless && exec atoll-runtime --systemd-cgroup run one') > /tmp/out 2>&1 && fail "a user's systemd on cgroup v1"
    grep -q "makes cgroups on cgroup v2 only" /tmp/out && grep -q "hint: leave --systemd-cgroup out" /tmp/out || fail "$(cat /tmp/out)"
fi
expect "units in the end" "$(systemctl list-units --all --plain --no-legend 'at-*')" ""
echo PROOF-OK
PROOF
chmod +x "$root/proof"
truncate -s 700M "$work/disk"
mkfs.ext4 -q -d "$root" "$work/disk"

# An initramfs that loads what the disk needs and goes there.
early=$work/early
mkdir -p "$early"/{bin,dev,proc,new,modules}
cp /bin/busybox "$early/bin/"
modules="libcrc32c nfnetlink nf_tables nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack nf_conntrack_netlink veth tun unix_diag
    inet_diag tcp_diag udp_diag af_packet_diag netlink_diag virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk"
for module in $modules; do
    found=$(find "/lib/modules/$release" -name "$module.ko*" | head -n 1)
    [ -n "$found" ] || continue
    case $found in
    *.xz) xz -dc "$found" > "$early/modules/$module.ko" ;;
    *) cp "$found" "$early/modules/$module.ko" ;;
    esac
done
cat > "$early/init" << INIT
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(echo $modules); do [ -e /modules/\$module.ko ] && /bin/busybox insmod /modules/\$module.ko; done
/bin/busybox mount -t ext4 /dev/vda /new
exec /bin/busybox switch_root /new /sbin/init
INIT
chmod +x "$early/init"
(cd "$early" && find . | /bin/busybox cpio -o -H newc 2> /dev/null) > "$work/initrd"

hierarchy=systemd.unified_cgroup_hierarchy=1
[ "$HYBRID" = 0 ] || hierarchy="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0"
timeout 280 qemu-system-x86_64 -accel tcg -cpu max -M q35 -m 1024 -nodefaults -no-user-config -display none -no-reboot \
    -serial "file:$work/console" -kernel "/boot/vmlinuz-$release" -initrd "$work/initrd" \
    -drive "file=$work/disk,format=raw,if=virtio" \
    -append "console=ttyS0 quiet panic=-1 cryptomgr.notests tsc=reliable no_timer_check clocksource=tsc $hierarchy systemd.mask=serial-getty@ttyS0.service" || true
grep -v '^.\[\|^\[' "$work/console" | tr -d '\r' | grep -v "Broken pipe" | tail -n 20
grep -q PROOF-OK "$work/console"
