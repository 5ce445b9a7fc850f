#!/bin/busybox sh
# Leaves the initial ramdisk, which nothing can pivot_root(2) away from, for a root in memory; then the wall.
if [ "$1" != inside ]; then
    busybox mkdir /new && busybox mount -t tmpfs -o mode=755 root /new
    cd /new
    busybox mkdir bin dev proc sys run tmp
    busybox cp /bin/busybox bin/
    busybox mv /boot /bundle /lib /sbin /var /wall.sh .
    for place in dev proc sys; do busybox mount --move /$place $place; done
    busybox mount -t cgroup2 none sys/fs/cgroup
    busybox mkdir sys/fs/cgroup/tests && echo $$ > sys/fs/cgroup/tests/cgroup.procs
    busybox mount --move . /
    exec busybox chroot . /bin/busybox sh /wall.sh inside
fi

failed() {
    echo "wall: $1"
    busybox cat /tmp/out /tmp/err
    exit 1
}

export PATH=/sbin:/bin ATOLL_CACHE_ROOT=/var/atoll
cd /bundle
# The first machine boots and is saved, the second is a copy of it.
for name in first second; do
    atoll-runtime --root /run/atoll run $name > /tmp/out 2> /tmp/err < /dev/null
    code=$?
    busybox cat /tmp/out
    [ $code = 7 ] || failed "run ended with $code"
    busybox grep -q "^in the guest as 1 of $(busybox hostname)\$" /tmp/out && failed "the host's name is the guest's"
    busybox grep -q "^in the guest as 1 of walled\$" /tmp/out || failed "it said something else"
done
[ -e /var/atoll/templates/*/state.json ] || failed "no template was made"
busybox sed -i 's/exit 7/sleep 1000/' config.json
atoll-runtime --root /run/atoll run --detach third > /tmp/out 2> /tmp/err < /dev/null || failed "no third one"
atoll-runtime --root /run/atoll exec third cat /proc/cpuinfo > /tmp/out 2> /tmp/err || failed "exec"
busybox grep -q "^flags.*hypervisor" /tmp/out || failed "that is no guest's processor"
atoll-runtime --root /run/atoll kill third KILL 2> /tmp/err || failed "kill"
for n in $(busybox seq 100); do
    atoll-runtime --root /run/atoll delete third 2> /tmp/err && break
    busybox sleep 0.1
done
[ -z "$(atoll-runtime --root /run/atoll list -q)" ] || failed "a container is left"
[ -z "$(busybox pidof atoll-vmm)" ] || failed "a monitor is left"
echo "wall: three containers ran in machines on KVM"
