# Second half of the proof: a container that counts is written into files in every way there is and goes on each time.
. /await.sh
fail() {
    echo "checkpoint: $1"
    cat /images*/*.log 2>/dev/null | grep -E "Error|Warn" | tail -n 20
    tail -n 5 /said 2>/dev/null
    exit 1
}
more_than() { [ "$(wc -l < /out)" -gt "$1" ]; }
counts_on() { await more_than "$(wc -l < /out)"; }
is_listening() { grep -qi ":$(printf %04X "$1") 00000000:0000 0A" /proc/net/tcp; }
# Container $1 goes on from the folder $2, with further options.
go_on() {
    id=$1
    images=$2
    shift 2
    before=$(wc -l < /out)
    (atoll-runtime restore -d --image-path "$images" "$@" "$id" < /dev/null 2> /said | cat >> /out) &
    await more_than "$before"
}
# Bytes of memory in the folder $1.
memory_in() { cat "$1"/pages-*.img 2>/dev/null | wc -c; }
# There is no iptables here.
mkdir -p /etc/criu
echo "network-lock nftables" > /etc/criu/default.conf
cp -a bin/. bundle/rootfs/bin/
# One process counts; another has four mebibytes of memory, which it only reads, to say how long that is with each number.
cat > bundle/rootfs/count.sh <<'END'
echo kept > /dev/shm/memory
mkfifo /dev/shm/numbers
awk 'BEGIN {
    big = "0123456789abcdef"
    while (length(big) < 4194304) big = big big
    while ((getline number < "/dev/shm/numbers") > 0) { print number, length(big); fflush() }
}' &
exec 3> /dev/shm/numbers
i=0
while :; do
    i=$((i + 1))
    echo $i >&3
    sleep 0.1
done
END
cd /bundle
atoll-runtime spec
sed -i 's/"terminal": true/"terminal": false/; s/^\( *\)"sh"$/\1"sh", "\/count.sh"/' config.json
: > /out
(atoll-runtime run -d a < /dev/null 2> /dev/null | cat >> /out) &
await more_than 2

atoll-runtime checkpoint --image-path /images-all a 2> /said || fail "the checkpoint failed"
[ -z "$(atoll-runtime list -q)" ] || fail "the container is still there"
go_on a /images-all
[ "$(atoll-runtime exec a cat /dev/shm/memory)" = kept ] || fail "files in memory are gone"
atoll-runtime exec a ip addr show lo | grep -q "inet 127.0.0.1" || fail "lo is down"
[ "$(memory_in /images-all)" -gt 4194304 ] || fail "there is less memory in the images than the container has"
atoll-runtime checkpoint --leave-running --image-path /images-left a 2> /said || fail "leaving it running failed"
counts_on

# Memory first, while it runs; then what has changed of it.
atoll-runtime checkpoint --pre-dump --image-path /images-pre a 2> /said || fail "the pre-dump failed"
counts_on
atoll-runtime checkpoint --image-path /images-rest --parent-path ../images-pre a 2> /said || fail "the last dump failed"
[ -z "$(atoll-runtime list -q)" ] || fail "the container is still there after the last dump"
[ "$(memory_in /images-pre)" -gt 4194304 ] || fail "the pre-dump lacks memory"
[ "$(memory_in /images-rest)" -lt 2097152 ] || fail "the last dump has memory that has not changed"
go_on a /images-rest
echo "checkpoint: a pre-dump leaves $(memory_in /images-rest) of $(memory_in /images-pre) bytes to the last dump"

# Memory to a page server.
mkdir /images-sent
criu page-server --address 127.0.0.1 --port 27301 --images-dir /images-sent --log-file server.log -v4 &
server=$!
await is_listening 27301
atoll-runtime checkpoint --page-server 127.0.0.1:27301 --image-path /images-served a 2> /said ||
    fail "the dump to a page server failed"
wait $server || fail "the page server failed"
[ "$(memory_in /images-served)" = 0 ] || fail "memory is in the image folder"
[ "$(memory_in /images-sent)" -gt 4194304 ] || fail "the page server lacks memory"
! atoll-runtime restore -d --image-path /images-served a < /dev/null > /dev/null 2> /said ||
    fail "it went on without its memory"
cp /images-sent/*.img /images-served/
go_on a /images-served
echo "checkpoint: the page server got $(memory_in /images-sent) bytes"

# Memory stays where it was until the copy asks for it.
: > /status
mkdir /images-asked
atoll-runtime checkpoint --lazy-pages --page-server 127.0.0.1:27302 --status-fd 3 --image-path /images-lazy a 3> /status 2> /said &
dump=$!
await test -s /status
is_listening 27302 || fail "it says that it is ready and is not"
kill -0 $dump || fail "it does not wait to be asked"
[ "$(memory_in /images-lazy)" -lt 2097152 ] || fail "memory is in the image folder"
criu lazy-pages --page-server --address 127.0.0.1 --port 27302 --images-dir /images-lazy --work-dir /images-asked \
    --log-file asked.log -v4 &
asker=$!
await test -S /images-asked/lazy-pages.socket
go_on b /images-lazy --lazy-pages --work-path /images-asked
wait $asker || fail "who asks for memory failed"
wait $dump || fail "who is asked for memory failed"
[ "$(atoll-runtime list -q)" = b ] || fail "the container is still there after it was asked for its memory"
counts_on
echo "checkpoint: $(memory_in /images-lazy) bytes were in files, the rest was asked for"

awk '$1 != NR || $2 != 4194304 { exit 1 }' /out || fail "it counted wrong, or lost memory"
atoll-runtime delete --force b
[ -z "$(ls /run/atoll-runtime)" ] || fail "the state is still there"
[ ! -e /sys/fs/cgroup/a ] && [ ! -e /sys/fs/cgroup/b ] || fail "the cgroup is still there"
! grep -q criu /proc/self/mountinfo || fail "a mount is still there"
echo "checkpoint: the container went on where it was, $(wc -l < /out) numbers in 5 parts"
