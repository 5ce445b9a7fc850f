# A container's root (after start.sh): an overlay of the layers in vda, with its upper directory on a share.
mkdir -p /below /above /upper /root
check mount-layers mount -t erofs -o ro /dev/vda1 /below
check mount-layer mount -t erofs -o ro /dev/vda2 /above
check mount-share mount -t virtiofs upper /upper
options=lowerdir=/above:/below,upperdir=/upper/files,workdir=/upper/work
check mount-overlay mount -t overlay -o $options,redirect_dir=off root /root
cd /root
hidden() { fails test -e hidden && [ "$(ls opaque)" = new ] && [ "$(cat kept/file)" = below ]; }
check hidden hidden
write() { echo first >new && echo more >>kept/file && [ "$(cat kept/file)" = "$(printf 'below\nmore')" ]; }
check write write
remove() { rm gone && fails test -e gone && rm -r kept/inner && fails test -e kept/inner && [ "$(ls kept)" = "$(printf 'a\nb\nfile')" ]; }
check remove remove
move() {
    mv kept/a kept/moved && [ "$(cat kept/moved)" = a ] && fails test -e kept/a &&
        mv moved elsewhere && [ "$(cat elsewhere/one)" = 1 ] && fails test -e moved &&
        mkdir fresh && echo fresh >fresh/file && mv fresh fresher && [ "$(cat fresher/file)" = fresh ] &&
        mv kept/b new && [ "$(cat new)" = b ]
}
check move move
replace() { rm -r replaced && mkdir replaced && echo new >replaced/new && [ "$(ls replaced)" = new ]; }
check replace replace
links() {
    ln kept/file kept/hard && [ "$(stat -c %h kept/hard)" = 2 ] && ln -s hard kept/soft && chown -h 7:8 link &&
        [ "$(stat -c %u:%g link)" = 7:8 ] && [ "$(readlink link)" = kept/file ] && rm two && [ "$(cat one)" = two ]
}
check links links
attributes() { chmod 711 kept && chown 1000:1001 given && chmod 755 capable && touch -d @1000000000 large && chmod 700 opaque; }
check attributes attributes
nodes() { mkfifo pipe && fails mknod null c 1 3 && fails mknod disk b 8 1 && [ -c /root/dev-null ]; }
check nodes nodes
many() {
    mkdir many && for n in $(seq 60); do echo $n >many/$n; done && for n in $(seq 2 60); do rm many/$n; done &&
        rm -r crowd && mkdir crowd && for n in $(seq 20); do echo $n >crowd/$n; done
}
check many many
# What was made is found again by an overlay that knows nothing of it.
anew() {
    umount /root && echo 3 >/proc/sys/vm/drop_caches && mount -t overlay -o $options,redirect_dir=off root /root &&
        cd /root && fails test -e gone && [ "$(ls replaced)" = new ] && [ "$(ls opaque)" = new ] && fails test -e moved
}
cd /
check anew anew
list() { cd /root && . /list.sh >/upper/listing && [ -s /upper/listing ]; }
check list list
umount /root
umount /upper

# A share with two file systems of the host in it, whose files have the same numbers.
mkdir -p /mounts
mounts() {
    mount -t virtiofs mounts /mounts && [ "$(cat /mounts/one/file)" = one ] && [ "$(cat /mounts/two/file)" = two ] &&
        [ "$(stat -c %i /mounts/one/file)" = "$(stat -c %i /mounts/two/file)" ] &&
        [ "$(stat -c %d /mounts/one/file)" != "$(stat -c %d /mounts/two/file)" ] &&
        echo new >/mounts/two/new && mv /mounts/two/new /mounts/two/newer && ls -lR /mounts >/dev/null &&
        fails ln /mounts/two/newer /mounts/one/newer && umount /mounts && mount -t virtiofs mounts /mounts &&
        [ "$(cat /mounts/two/newer)" = new ] && umount /mounts
}
check mounts mounts
echo "done"
poweroff -f
