#!/bin/sh
# Makes an EROFS image of a folder with ours and with mkfs.erofs, in turn; needs erofs-utils.
#
# usage: bench/erofs.sh [FOLDER] [ROUNDS]
set -e
here=$(dirname "$0")
folder=${1:-/usr/share}
cargo build --quiet --release --manifest-path "$here/../Cargo.toml" -p atoll-erofs --example image
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 "$here/interleave.py" -n "${2:-10}" \
    "atoll=rm -f $scratch/a && $here/../target/release/examples/image $folder $scratch/a" \
    "mkfs.erofs=rm -f $scratch/b && mkfs.erofs --quiet $scratch/b $folder"
fsck.erofs "$scratch/a"
stat -c '%s bytes  %n' "$scratch/a" "$scratch/b"
