#!/bin/busybox sh
# How the first process of a test's guest begins. What follows tries things and says `ok NAME` or `bad NAME WHY`;
# with `do NAME` it asks the host to do something, and waits for a line on its console.
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
stty -echo </dev/console
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "bad module $module"
done

check() {
    name=$1
    shift
    if why=$("$@" 2>&1); then echo "ok $name"; else echo "bad $name" $why; fi
}
fails() {
    if "$@"; then return 1; fi
    return 0
}
host() {
    echo "do $1"
    read -r answer </dev/console
    if [ "$answer" = good ]; then echo "ok $1"; else echo "bad $1 $answer"; fi
}

