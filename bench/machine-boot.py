#!/usr/bin/env python3
"""Boots the stock Debian kernel to the first line of user space on our software CPU and on others, in turn.

usage: bench/machine-boot.py [-n ROUNDS] [--memory MIB] [--bochs]

Needs linux-image-cloud-amd64, busybox-static, qemu-system-x86, and our monitor: ATOLL=<folder with atoll-vmm>
(target/release after `cargo build --release -p atoll-machine`). Both guests get the same kernel, initial ramdisk and
command line (q35: under microvm, TCG cannot calibrate the TSC here and hangs); what is timed runs from starting the program to the guest's line, as the host reads it from the console.
CPU time is what the whole process had used until then. Our row also says how many instructions a second.

Where user-mode-linux is installed, its own kernel boots from the same initial ramdisk. Where bochs, bochs-term,
grub-pc-bin, xorriso and mtools are, it boots the same kernel from a CD: its row holds its BIOS and GRUB.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from ramdisk import busybox, kernel, vmm

# What follows it may be lost when the guest powers off at once.
LINE = b"atoll-bench:"
COMMAND_LINE = "console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet tsc=reliable no_timer_check clocksource=tsc mitigations=off"
BOCHS_LINE = "console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet mitigations=off"


def ramdisk():
    return busybox(b"/bin/busybox echo '" + LINE + b" the first line of user space'\n/bin/busybox poweroff -f\n")


def boot(command):
    """(wall, CPU) seconds to the line, and the whole output."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen, wall, cpu = b"", None, None
    while chunk := os.read(child.stdout.fileno(), 65536):
        seen += chunk
        if wall is None and LINE in seen:
            wall = time.perf_counter() - start
            fields = open(f"/proc/{child.pid}/stat").read().rsplit(")", 1)[1].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    child.wait()
    if wall is None:
        sys.exit(f"{command[0]} never came to user space:\n{seen.decode(errors='replace')[-2000:]}")
    return wall, cpu, seen


def uml(initrd, memory):
    return ["linux.uml", f"mem={memory}M", f"initrd={initrd}", "con=null", "con0=null,fd:1", "quiet", "panic=-1"]


def bochs(folder, kernel, initrd, memory):
    """A script that boots a CD in Bochs and prints what its serial port says."""
    grub = os.path.join(folder, "cd/boot/grub")
    os.makedirs(grub)
    for name, path in (("vmlinuz", kernel), ("initrd", initrd)):
        shutil.copy(path, os.path.join(folder, "cd/boot", name))
    with open(os.path.join(grub, "grub.cfg"), "w") as file:
        file.write(f"set timeout=0\nlinux /boot/vmlinuz {BOCHS_LINE}\ninitrd /boot/initrd\nboot\n")
    subprocess.run(["grub-mkrescue", "-o", f"{folder}/cd.iso", f"{folder}/cd"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(os.path.join(folder, "bochsrc"), "w") as file:
        file.write(f"""megs: {memory}
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path={folder}/cd.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={folder}/serial
cpu: model=corei7_sandy_bridge_2600k, count=1, ips=100000000
clock: sync=none
display_library: term
log: {folder}/bochs.log
""")
    open(os.path.join(folder, "continue"), "w").write("c\n")
    return ["script", "-qc", f"bochs -q -f {folder}/bochsrc -rc {folder}/continue", "/dev/null"]


def boot_bochs(command, folder):
    """As boot(), by looking into the file of its serial port."""
    serial = os.path.join(folder, "serial")
    if os.path.exists(serial):
        os.remove(serial)
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
    seen = b""
    while LINE not in seen and child.poll() is None:
        time.sleep(0.02)
        seen = open(serial, "rb").read() if os.path.exists(serial) else b""
    wall = time.perf_counter() - start
    child.wait()  # the guest powers off, which ends Bochs
    if LINE not in seen:
        sys.exit(f"Bochs never came to user space:\n{seen.decode(errors='replace')}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu or wall, seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=5, help="rounds")
    parser.add_argument("--bochs", action="store_true", help="Bochs, too, which takes its time")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    arguments = parser.parse_args()
    vmlinuz = kernel()
    with tempfile.TemporaryDirectory() as folder:
        initrd = os.path.join(folder, "initrd")
        open(initrd, "wb").write(ramdisk())
        config = os.path.join(folder, "vm.json")
        json.dump({"backend": "soft", "kernel": vmlinuz, "kernel_store": folder, "initrd": initrd,
                   "command_line": COMMAND_LINE, "memory_bytes": arguments.memory << 20, "cpus": 1,
                   "statistics": True}, open(config, "w"))
        commands = {
            "atoll soft": [vmm(), "--config", config],
            "qemu tcg q35": ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max",
                                 "-m", str(arguments.memory), "-nodefaults", "-no-user-config", "-display", "none",
                                 "-serial", "stdio", "-no-reboot", "-kernel", vmlinuz, "-initrd", initrd,
                                 "-append", COMMAND_LINE],
        }
        if shutil.which("linux.uml"):
            commands["user mode linux"] = uml(initrd, arguments.memory)
        if arguments.bochs:
            commands["bochs"] = bochs(folder, vmlinuz, initrd, arguments.memory)
        boot(commands["atoll soft"])  # unpacks the kernel once
        results = {name: [] for name in commands}
        speed = []
        for _ in range(arguments.n):
            for name, command in commands.items():
                wall, cpu, seen = boot_bochs(command, folder) if name == "bochs" else boot(command)
                results[name].append((wall, cpu))
                if found := re.search(rb"([\d.]+) s, (\d+) instructions, ([\d.]+) MIPS", seen):
                    speed.append((int(found[2]), float(found[3])))
        first = results["atoll soft"]
        print(f"{'':20} {'wall s':>8} {'min':>7} {'max':>7} {'CPU s':>7} {'atoll/this, CPU':>16}")
        for name, runs in results.items():
            walls, cpus = [run[0] for run in runs], [run[1] for run in runs]
            ratio = statistics.median(a[1] / b[1] for a, b in zip(first, runs))
            print(f"{name:20} {statistics.median(walls):8.2f} {min(walls):7.2f} {max(walls):7.2f} "
                  f"{statistics.median(cpus):7.2f} {ratio:16.2f}")
        if speed:
            print(f"atoll soft: {statistics.median(s[0] for s in speed) / 1e6:.0f} M instructions to power off, "
                  f"{statistics.median(s[1] for s in speed):.0f} MIPS of wall time")


if __name__ == "__main__":
    main()
