# Third part of the proof: containerd has the shim write a task into an image, and makes another container of that.
. /await.sh
fail() {
    echo "checkpoint: $1"
    tail -n 20 /containerd.log
    find /run/ctd /var/ctd -name "*.log" -exec tail -n 5 {} +
    exit 1
}
call() { ctr --address /run/ctd.sock --timeout 60s "$@"; }
answers() { call version > /dev/null 2>&1; }
# How far container $1 has counted.
number() { call task exec --exec-id "x$RANDOM$RANDOM" "$1" cat /number; }
more_than() { [ "$(number "$1")" -gt "$2" ]; }
cat > /ctd.toml <<'END'
version = 2
root = "/var/ctd"
state = "/run/ctd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/ctd.sock"
END
mkdir -p /var /image && cd /image
cat > /bundle/rootfs/steady.sh <<'END'
i=0
while :; do
    i=$((i + 1))
    echo $i > /next && mv /next /number
    sleep 0.1
done
END
tar -C /bundle/rootfs -cf layer.tar bin steady.sh
sum=$(sha256sum layer.tar | cut -d " " -f 1)
echo '{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh", "/steady.sh"], "Env": ["PATH=/bin"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:'"$sum"'"]}}' > config.json
echo '[{"Config": "config.json", "RepoTags": ["bb:1"], "Layers": ["layer.tar"]}]' > manifest.json
tar -cf /image.tar manifest.json config.json layer.tar
containerd --config /ctd.toml > /containerd.log 2>&1 &
daemon=$!
await answers
call image import --snapshotter native /image.tar > /dev/null || fail "the image cannot be imported"
image=docker.io/library/bb:1
call run -d --snapshotter native --runtime io.containerd.atoll.v2 $image one || fail "the container cannot be made"
# Farther than one that begins anew gets before it is asked.
await more_than one 30

call container checkpoint --task --rw --image one kept || fail "containerd gets no checkpoint"
reached=$(number one)
await more_than one "$reached"
call task kill -s KILL one
await sh -c "ctr --address /run/ctd.sock task ls | grep -q 'one.*STOPPED'"
call task rm one > /dev/null 2>&1 || fail "the task cannot be removed"
call container rm one || fail "the container cannot be removed"

call container restore --rw --live two kept || fail "the checkpoint cannot be made a container"
went_on=$(number two)
[ "$went_on" -le $((reached + 20)) ] && [ "$went_on" -gt 30 ] || fail "it went on with $went_on, after $reached"
await more_than two "$went_on"
call task kill -s KILL two
await sh -c "ctr --address /run/ctd.sock task ls | grep -q 'two.*STOPPED'"
call task rm two > /dev/null 2>&1 || fail "the restored task cannot be removed"
call container rm two || fail "the restored container cannot be removed"

# ctr gives a folder to those runtimes only that it knows by name.
call run -d --snapshotter native --runtime io.containerd.runc.v2 $image three || fail "we are no shim by runc's name"
await more_than three 5
# ctr takes it for a fault that what it writes is there already.
call image rm --sync kept > /dev/null
call task checkpoint --exit --image-path /images-task three > /dev/null || fail "the task cannot be written to a folder"
[ -s /images-task/pstree.img ] || fail "there is no task in the folder"
await sh -c "ctr --address /run/ctd.sock task ls | grep -q 'three.*STOPPED'"
call task rm three > /dev/null 2>&1 || fail "the ended task cannot be removed"
call container rm three || fail "the ended container cannot be removed"
kill $daemon
wait $daemon || true
! pidof containerd-shim-atoll-v2 containerd-shim-runc-v2 > /dev/null || fail "a shim is still there"
! grep -q /run/ctd /proc/self/mountinfo || fail "a mount of containerd's is still there"
echo "checkpoint: containerd's task went on where it was, with $went_on after $reached"
