# Tries every device (after start.sh).
mkdir -p /share /locked /disk

# busybox's head, wc and cmp go byte by byte, which takes long here: dd moves what is large, and the host compares it.
moves() { # FROM TO MEBIBYTES
    dd if="$1" of="$2" bs=1M count="$3" 2>&1 | grep -qx "$3+0 records in"
}

# Block: vda holds 64 MiB of a pattern, vdb is empty, vdc is read-only.
sum() { [ "$(dd if=/dev/vda bs=1M count=1 2>/dev/null | sha256sum | cut -c1-64)" = "$(cat /pattern.sha256)" ]; }
check block-read sum
check block-long-read moves /dev/vda /dev/null 64
check block-write dd if=/dev/vda of=/dev/vdb bs=64k count=16 conv=fsync
host block-written
locked() { [ "$(cat /sys/block/vdc/ro)" = 1 ] && fails dd if=/dev/zero of=/dev/vdc bs=512 count=1 conv=fsync; }
check block-read-only locked
ext4() {
    mke2fs -F /dev/vdb && mount -t ext4 /dev/vdb /disk && moves /dev/vda /disk/file 4 &&
        umount /disk && mount -t ext4 /dev/vdb /disk && cmp -n 100000 /dev/vda /disk/file && umount /disk
}
check block-ext4 ext4
# Two layers that are EROFS images of ours, the partitions of one disk, and a writable one above them.
layers() {
    mkdir -p /lower /upper /layer &&
        mount -t erofs -o ro /dev/vdd1 /lower && mount -t erofs -o ro /dev/vdd2 /upper &&
        mount -t ext4 /dev/vdb /disk && mkdir -p /disk/files /disk/work &&
        mount -t overlay -o lowerdir=/upper:/lower,upperdir=/disk/files,workdir=/disk/work layer /layer &&
        [ "$(cat /layer/folder/below)" = below ] && [ "$(cat /layer/folder/both)" = above ] &&
        fails test -e /layer/hidden && [ "$(ls /layer/opaque)" = new ] && [ "$(readlink /layer/link)" = folder/both ] &&
        cmp -n 100000 /layer/large /dev/vda && fails touch /lower/folder/new && echo changed >/layer/folder/below &&
        [ "$(cat /lower/folder/below)" = below ] && umount /layer && [ "$(cat /disk/files/folder/below)" = changed ] &&
        umount /disk && umount /upper && umount /lower
}
check block-layers layers

rng() {
    grep -q virtio /sys/class/misc/hw_random/rng_current && dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c | grep -qx 64
}
check rng rng

# Console: the host says a line, and gets it back.
exec 3<>/dev/hvc0
stty raw -echo <&3
echo "do console"
read -r line <&3
echo "heard $line" >&3
read -r answer </dev/console
[ "$answer" = good ] && echo "ok console" || echo "bad console $answer"
exec 3>&-

# Network: the host is 10.99.0.1.
ip link set lo up
ip link set eth0 up && ip addr add 10.99.0.2/24 dev eth0
check net-ping ping -c 2 -W 9 10.99.0.1
host net-ping-from-host
tcp() {
    moves /dev/vda /tmp/sent 4 && nc 10.99.0.1 7000 </tmp/sent >/tmp/got && [ "$(stat -c %s /tmp/got)" = 4194304 ]
}
check net-tcp tcp
nc -l -p 7001 -e cat &
host net-tcp-from-host

check vsock-send guest-peer send 5000 3000000
guest-peer echo 6000 &
read -r answer </dev/console
[ "$answer" = good ] && echo "ok vsock-echo" || echo "bad vsock-echo $answer"
check vsock-refused fails guest-peer send 5001 1

# Shared directories: one to change, one to read.
check fs-mount mount -t virtiofs share /share
check fs-mount-locked mount -t virtiofs locked /locked
# The host compares these.
check fs-large-read moves /share/large /tmp/large 8
large() { moves /tmp/large /share/copy 8 && cp /tmp/got /share/tcp && sync; }
check fs-large-write large
run() { [ "$(/share/busybox echo mapped)" = mapped ]; }
check fs-mmap-exec run
names() {
    mkdir /share/folder && echo one >/share/folder/a && mv /share/folder/a /share/folder/b &&
        ln -s b /share/folder/link && [ "$(cat /share/folder/link)" = one ] && ln /share/folder/b /share/hard &&
        echo two >>/share/hard && chmod 640 /share/hard && [ "$(stat -c '%a %h' /share/folder/b)" = "640 2" ] &&
        touch /share/gone && rm /share/gone && fails test -e /share/gone && mkdir /share/empty && rmdir /share/empty
}
check fs-names names
many() {
    mkdir /share/many && for n in $(seq 300); do : >"/share/many/$n"; done && [ "$(ls /share/many | wc -l)" = 300 ]
}
check fs-many many
host fs-seen
check fs-sees-host grep -q "from the host" /share/new
escape() {
    [ "$(readlink /share/out)" = ../secret ] && fails cat /share/out && fails cat /share/absolute && fails cat /share/../secret
}
check fs-escape escape
locked() {
    grep -q "read me" /locked/file && fails touch /locked/file && fails sh -c 'echo x >/locked/new' && fails rm /locked/file
}
check fs-read-only locked

# Balloon: memory that was used once goes back to the host, and can be used again.
check balloon-use moves /dev/zero /tmp/big 64
host balloon-before
rm /tmp/big
echo 3 >/proc/sys/vm/drop_caches
host balloon-inflate
host balloon-deflate
check balloon-use-again moves /dev/zero /tmp/big 64

# The machine was saved and restored meanwhile: its drivers know nothing of it.
again() { moves /dev/vda /dev/vdb 2 && sync && [ "$(dd if=/dev/vdb bs=1M count=1 2>/dev/null | sha256sum | cut -c1-64)" = "$(cat /pattern.sha256)" ]; }
check block-again again
again() {
    mount -t erofs -o ro /dev/vdd2 /upper && [ "$(cat /upper/folder/both)" = above ] && umount /upper &&
        mount -t erofs -o ro /dev/vdd1 /lower && cmp -n 100000 /lower/large /dev/vda && umount /lower
}
check block-layers-again again
check net-again tcp
check vsock-again guest-peer send 5000 100000
again() { cp /share/new /share/newer && grep -q "from the host" /share/newer && moves /share/large /dev/null 8; }
check fs-again again
check rng-again rng

echo "done"
umount /share
umount /locked
poweroff -f
