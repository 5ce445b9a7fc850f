#!/usr/bin/env python3
"""Runs Debian programs (python3, sqlite3, gcc and what it compiles) in a machine on the software CPU and natively, and
compares what they print.

usage: bench/guest-userland.py [--keep FOLDER]

Needs root, bash, python3-minimal, libpython3.11-stdlib, sqlite3, gcc, libc6-dev, busybox-static, e2fsprogs and
linux-image-cloud-amd64; ATOLL=<folder with atoll-vmm> as for machine-boot.py. The guest's disk is an ext4 image made of
the installed packages' own files; natively the same files run in a chroot. Exits with 1 when a line differs.
"""

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

from ramdisk import cpio, kernel, vmm

PACKAGES = ["dash", "bash", "coreutils", "python3-minimal", "python3.11-minimal", "libpython3.11-stdlib", "sqlite3", "gcc",
            "libc6-dev", "libc-bin", "mount"]
LEFT_OUT = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/perl")
MODULES = ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk"]

SCRIPT = r"""#!/bin/bash
export PATH=/usr/bin:/usr/sbin LC_ALL=C HOME=/root
run() { local name=$1; shift; if out=$("$@" 2>&1); then echo "@ok $name ${out:0:200}"; else echo "@bad $name $out"; fi; }
run sha256 sh -c 'dd if=/dev/zero bs=1M count=4 status=none | sha256sum'
run python python3 -c 'import math,hashlib,json,decimal; print(math.sin(1.5), math.exp(0.3)**2.5, hashlib.sha512(b"x"*100000).hexdigest()[:16], json.dumps([0.1+0.2,1e300*10,-0.0]), decimal.Decimal(2).sqrt(), sum(i*i for i in range(100000)))'
run floats python3 -c 'print(sum((i*0.1)**0.5/(i+1) for i in range(1,50000)), float.hex(2**0.5), int(1e15/3))'
run sqlite sqlite3 :memory: 'create table t(a integer primary key, b text); with recursive c(x) as (values(1) union all select x+1 from c where x<5000) insert into t select x, hex(x*x) from c; select count(*), sum(a), max(length(b)), avg(a*1.5) from t;'
cat > /tmp/a.c <<'C'
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
static int order(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return x < y ? -1 : x > y; }
int main(void) {
    static double v[2000]; unsigned s = 1; double t = 0;
    for (int i = 0; i < 2000; i++) { s = s * 1103515245 + 12345; v[i] = sin(s / 1e9) * pow(1.0001, i) + (long double)s / 3.0L; }
    qsort(v, 2000, sizeof *v, order);
    for (int i = 0; i < 2000; i++) t += v[i] / (i + 1);
    printf("%.17g %Lg\n", t, (long double)t / 7);
}
C
run gcc-O2 gcc -O2 -o /tmp/a /tmp/a.c -lm
run compiled-O2 /tmp/a
run gcc-O0 gcc -O0 -msse4.2 -o /tmp/b /tmp/a.c -lm
run compiled-O0 /tmp/b
echo @done
"""


def closure(wanted):
    """The installed packages that `wanted` needs, themselves included."""
    form = "${Package}\t${Depends}, ${Pre-Depends}\t${Provides}\n"
    rows = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout.splitlines()
    needs, provided = {}, {}
    for row in rows:
        package, depends, provides = row.split("\t")
        needs[package] = re.sub(r"\(.*?\)|:any|\s", "", depends)
        for name in filter(None, re.sub(r"\(.*?\)|\s", "", provides).split(",")):
            provided[name] = package
    seen, todo = set(), list(wanted)
    while todo:
        package = todo.pop()
        package = package if package in needs else provided.get(package)
        if package is None or package in seen:
            continue
        seen.add(package)
        for choice in needs[package].split(","):
            todo += [name for name in choice.split("|") if name in needs or name in provided][:1]
    return seen


def files(packages):
    """The packages' files and links, by their place below /usr."""
    names = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=True).stdout.splitlines()
    found = set()
    for name in names:
        name = re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", name)
        if name.startswith(LEFT_OUT) or not os.path.lexists(name):
            continue
        if os.path.islink(name) or not os.path.isdir(name):
            found.add(name.lstrip("/"))
    return sorted(found)


def make_root(root):
    for name in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "tmp", "etc", "root"]:
        os.makedirs(os.path.join(root, name))
    for name in ["bin", "sbin", "lib", "lib64"]:
        os.symlink("usr/" + name, os.path.join(root, name))
    pack = subprocess.Popen(["tar", "-C", "/", "-c", "--no-recursion", "-T", "-"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)
    unpack = subprocess.Popen(["tar", "-C", root, "-x"], stdin=pack.stdout)
    pack.stdin.write("\n".join(files(closure(PACKAGES))).encode())
    pack.stdin.close()
    if unpack.wait() or pack.wait():
        sys.exit("cannot copy the packages' files")
    if not os.path.lexists(os.path.join(root, "usr/bin/sh")):
        os.symlink("dash", os.path.join(root, "usr/bin/sh"))
    subprocess.run(["ldconfig", "-r", root], check=True)
    open(os.path.join(root, "test.sh"), "w").write(SCRIPT)


def ramdisk(vmlinuz):
    release = os.path.basename(vmlinuz).removeprefix("vmlinuz-")
    entries = [(name, 0o40755, b"") for name in ["bin", "dev", "disk", "modules"]]
    entries.append(("bin/busybox", 0o100755, open("/bin/busybox", "rb").read()))
    for module in MODULES:
        path = glob.glob(f"/lib/modules/{release}/kernel/**/{module}.ko", recursive=True)[0]
        entries.append((f"modules/{module}.ko", 0o100644, open(path, "rb").read()))
    load = "".join(f"/bin/busybox insmod /modules/{module}.ko\n" for module in MODULES)
    init = f"""#!/bin/busybox sh
{load}/bin/busybox mount -t devtmpfs dev /dev
until [ -b /dev/vda ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -t ext4 /dev/vda /disk
/bin/busybox mount --move /dev /disk/dev
/bin/busybox mount -t proc proc /disk/proc
/bin/busybox mount -t tmpfs tmp /disk/tmp
/bin/busybox chroot /disk /bin/bash /test.sh
/bin/busybox poweroff -f
"""
    entries.append(("init", 0o100755, init.encode()))
    return cpio(entries)


def lines(output):
    return [line[1:] for line in output.decode(errors="replace").replace("\r", "").splitlines() if line.startswith("@")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", help="work in this folder and leave it")
    arguments = parser.parse_args()
    vmlinuz = kernel()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or temporary
        root, disk = os.path.join(folder, "root"), os.path.join(folder, "disk")
        make_root(root)
        subprocess.run(["truncate", "-s", "600M", disk], check=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, "-F", disk], check=True)
        native = lines(subprocess.run(["chroot", root, "/bin/bash", "-c", "mknod /dev/zero c 1 5; mknod -m 666 /dev/null c 1 3; . /test.sh"],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout)
        initrd, config = os.path.join(folder, "initrd"), os.path.join(folder, "vm.json")
        open(initrd, "wb").write(ramdisk(vmlinuz))
        json.dump({"backend": "soft", "kernel": vmlinuz, "kernel_store": folder, "initrd": initrd,
                   "command_line": "console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet tsc=reliable no_timer_check",
                   "memory_bytes": 512 << 20, "cpus": 1, "disks": [{"path": disk}]}, open(config, "w"))
        output = subprocess.run([vmm(), "--config", config], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900).stdout
        guest = lines(output)
    for here, there in zip(native, guest):
        print(("same  " if here == there else "DIFFER") + " " + there)
    if native != guest or "done" not in guest:
        sys.exit(f"native:\n{native}\nguest:\n{guest}\n{output[-1500:].decode(errors='replace')}")


if __name__ == "__main__":
    main()
