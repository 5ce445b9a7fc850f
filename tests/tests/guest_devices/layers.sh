# Disks of layers (after start.sh): vda has 40, vdb 255, both as many partitions. Each layer holds a file that names it.
mkdir -p /layer
named() { # DEVICE NAME
    mount -t erofs -o ro "$1" /layer && [ "$(cat /layer/name)" = "$2" ] && umount /layer
}
few() { named /dev/vda1 few-1 && named /dev/vda15 few-15 && named /dev/vda16 few-16 && named /dev/vda40 few-40; }
check few few
all() { [ "$(ls -d /sys/block/vda/vda* | wc -l)" = 255 ] && [ "$(ls -d /sys/block/vdb/vdb* | wc -l)" = 255 ]; }
check all all
most() { named /dev/vdb1 most-1 && named /dev/vdb128 most-128 && named /dev/vdb129 most-129 && named /dev/vdb255 most-255; }
check most most
locked() { [ "$(cat /sys/block/vda/ro)" = 1 ] && fails dd if=/dev/zero of=/dev/vda40 bs=512 count=1 conv=fsync; }
check read-only locked

# The machine is saved, and restored with other layers in vda's place, of which it is not told.
host exchange
other() { named /dev/vda1 other-1 && named /dev/vda17 other-17 && fails named /dev/vda18 few-18 && named /dev/vdb255 most-255; }
check other other

echo "done"
poweroff -f
