# Second half of the proof: a container that counts is written into files twice and goes on each time.
set -e
export PATH=/sbin:/bin
fail() {
    echo "checkpoint: $1"
    cat /images*/*.log 2>/dev/null | grep -E "Error|Warn" | tail -n 20
    tail -n 5 /said 2>/dev/null
    exit 1
}
# The lines of the output, once there are more than $1 of them.
await_more() {
    for _ in $(seq 200); do
        [ "$(wc -l < /out)" -le "$1" ] || return 0
        sleep 0.1
    done
    fail "the container does not count beyond $1"
}
# There is no iptables here.
mkdir -p /etc/criu
echo "network-lock nftables" > /etc/criu/default.conf
criu check || fail "criu cannot work here"
cp -a bin/. bundle/rootfs/bin/
cat > bundle/rootfs/count.sh <<'END'
echo kept > /dev/shm/memory
i=0
while :; do
    i=$((i + 1))
    echo $i
    sleep 0.1
done
END
cd /bundle
atoll-runtime spec
sed -i 's/"terminal": true/"terminal": false/; s/^\( *\)"sh"$/\1"sh", "\/count.sh"/' config.json
: > /out
(atoll-runtime run -d a < /dev/null 2> /dev/null | cat >> /out) &
await_more 2
for round in 1 2; do
    atoll-runtime checkpoint --image-path /images$round a 2> /said || fail "checkpoint $round failed"
    [ -z "$(atoll-runtime list -q)" ] || fail "the container is still there"
    before=$(wc -l < /out)
    (atoll-runtime restore -d --image-path /images$round a < /dev/null 2> /said | cat >> /out) &
    await_more "$before"
    [ "$(atoll-runtime exec a cat /dev/shm/memory)" = kept ] || fail "files in memory are gone"
    atoll-runtime exec a ip addr show lo | grep -q "inet 127.0.0.1" || fail "lo is down"
done
atoll-runtime checkpoint --leave-running --image-path /images3 a 2> /said || fail "leaving it running failed"
await_more "$(wc -l < /out)"
awk '$1 != NR { exit 1 }' /out || fail "it counted something twice or not at all"
atoll-runtime delete --force a
[ -z "$(ls /run/atoll-runtime)" ] || fail "the state is still there"
[ ! -e /sys/fs/cgroup/a ] || fail "the cgroup is still there"
! grep -q criu /proc/self/mountinfo || fail "a mount is still there"
echo "checkpoint: the container went on where it was, $(wc -l < /out) numbers in 4 parts"
