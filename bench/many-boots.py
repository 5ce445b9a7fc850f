#!/usr/bin/env python3
"""Boots the stock kernel many times in our monitor, some machines at once, and counts those that did not get to user space.

usage: bench/many-boots.py [-n BOOTS] [-j AT_ONCE] [--backend soft|kvm]

Needs linux-image-cloud-amd64, busybox-static and our monitor: ATOLL=<folder with atoll-vmm>. Every fourth machine has
two CPUs. A boot is good when the guest said its line and powered off, and the monitor ended with 0 within five minutes.
Prints what a bad one said. With more at once than there are CPUs, the host is a loaded one.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import tempfile
import time

from ramdisk import busybox, kernel, vmm

COMMAND_LINE = "console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet pci=off no_timer_check tsc=reliable"
LINE = b"many-boots: user space"


def boot(number, program, config, folder):
    path = os.path.join(folder, f"vm-{number}.json")
    json.dump(config | {"cpus": 2 if number % 4 == 3 else 1}, open(path, "w"))
    start = time.perf_counter()
    try:
        done = subprocess.run([program, "--config", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300)
        said, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as expired:
        said, code = expired.stdout or b"", "none in 300 s"
    os.remove(path)
    if LINE in said and code == 0:
        return time.perf_counter() - start
    print(f"boot {number} is bad, exit code {code}:\n{said.decode(errors='replace')[-3000:]}", flush=True)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="boots")
    parser.add_argument("-j", type=int, default=2, help="at once")
    parser.add_argument("--backend", default="soft")
    arguments = parser.parse_args()
    program = vmm()
    with tempfile.TemporaryDirectory() as folder:
        initrd = os.path.join(folder, "initrd")
        open(initrd, "wb").write(busybox(b"/bin/busybox echo '" + LINE + b"'\n/bin/busybox poweroff -f\n"))
        config = {"backend": arguments.backend, "kernel": kernel(), "kernel_store": folder, "initrd": initrd,
                  "command_line": COMMAND_LINE, "memory_bytes": 128 << 20}
        good, done = [], 0
        with concurrent.futures.ThreadPoolExecutor(arguments.j) as pool:
            boots = [pool.submit(boot, number, program, config, folder) for number in range(arguments.n)]
            for one in concurrent.futures.as_completed(boots):
                done += 1
                if (seconds := one.result()) is not None:
                    good.append(seconds)
                if done % 50 == 0:
                    print(f"{len(good)} of {done} are good, the last took {good[-1] if good else 0:.1f} s", flush=True)
        good.sort()
        print(f"{len(good)} of {arguments.n} boots are good; {good[len(good) // 2]:.1f} s at the middle, {good[-1]:.1f} s at most")


if __name__ == "__main__":
    main()
