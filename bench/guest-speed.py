#!/usr/bin/env python3
"""Runs sixteen small workloads natively, on our software CPU, on QEMU's TCG and in User Mode Linux, in turn.

usage: bench/guest-speed.py [-n ROUNDS] [--memory MIB] [--without NAME …] [WORKLOAD …]

Needs gcc, libc6-dev, linux-image-cloud-amd64, qemu-system-x86, user-mode-linux, and our monitor: ATOLL=<folder with
atoll-vmm> as for machine-boot.py. The program (guest-speed.c, static, for any x86-64) is the guests' /init; ours and
QEMU's get the same kernel, initial ramdisk and command line. Each workload is repeated until it takes 0.2 s, timed by
the guest's own clock; the last line compares what that clock counted with what the host did. A cell is the median over
the rounds of this environment's time divided by the native time of the same round, with the smallest and the largest.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

from ramdisk import cpio, kernel, vmm

COMMAND_LINE = "console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet tsc=reliable no_timer_check clocksource=tsc mitigations=off loglevel=1"


def run(command, wanted):
    """What one environment printed: nanoseconds by workload; and seconds by its clock and by the host's."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    times, output, started, clocks = {}, [], None, None
    for line in child.stdout:
        text = line.decode(errors="replace").strip()
        output.append(text)
        words = text.split()
        if text == "@start":
            started = time.perf_counter()
        elif text.startswith("@end"):
            clocks = float(words[1]), time.perf_counter() - started
        elif text.startswith("@") and len(words) == 2:
            times[words[0][1:]] = float(words[1])
    child.stdin.close()
    child.wait()
    if clocks is None or len(times) < wanted:
        sys.exit(f"{command[0]} did not finish:\n" + "\n".join(output[-30:]))
    return times, clocks


def environments(folder, arguments):
    """What starts each environment."""
    here = os.path.dirname(os.path.abspath(__file__))
    vmlinuz = kernel()
    program, initrd, config = (os.path.join(folder, name) for name in ["speed", "initrd", "vm.json"])
    subprocess.run(["gcc", "-O2", "-static", "-o", program, os.path.join(here, "guest-speed.c")], check=True)
    open(initrd, "wb").write(cpio([("init", 0o100755, open(program, "rb").read())]))
    # The kernel gives what it does not know to /init as arguments.
    chosen = ["--", *arguments.workload] if arguments.workload else []
    line = " ".join([COMMAND_LINE, *chosen])
    json.dump({"backend": "soft", "kernel": vmlinuz, "kernel_store": folder, "initrd": initrd, "command_line": line,
               "memory_bytes": arguments.memory << 20, "cpus": 1}, open(config, "w"))
    memory = str(arguments.memory)
    return {
        "native": [program, *arguments.workload],
        "atoll soft": [vmm(), "--config", config],
        "qemu tcg": ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", memory, "-nodefaults",
                     "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", vmlinuz,
                     "-initrd", initrd, "-append", line],
        "uml": ["linux.uml", f"mem={memory}M", f"initrd={initrd}", "con0=fd:0,fd:1", "con=null", "quiet", "loglevel=1", *chosen],
    }


def cell(ratios):
    return f"{statistics.median(ratios):9.2f} {min(ratios):8.2f}–{max(ratios):<8.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=5, help="rounds")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--without", action="append", default=[], help="an environment to leave out")
    parser.add_argument("workload", nargs="*", help="only these")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = environments(folder, arguments)
        for name in arguments.without:
            commands.pop(name)
        wanted = len(arguments.workload) or 16
        rounds = [{name: run(command, wanted) for name, command in commands.items()} for _ in range(arguments.n)]
    workloads = list(rounds[0]["native"][0])
    others = [name for name in commands if name != "native"]
    print(f"{'× native':16} {'native ns':>13}" + "".join(f"{name:>28}" for name in others))
    medians = {name: [] for name in others}
    for workload in workloads:
        native = [turn["native"][0][workload] for turn in rounds]
        row = f"{workload:16} {statistics.median(native):13.1f}"
        for name in others:
            ratios = [turn[name][0][workload] / turn["native"][0][workload] for turn in rounds]
            medians[name].append(statistics.median(ratios))
            row += f"{cell(ratios):>28}"
        print(row)
    means = {name: math.exp(statistics.fmean(map(math.log, ratios))) for name, ratios in medians.items()}
    print(f"{'geometric mean':30}" + "".join(f"{means[name]:9.2f}{'':19}" for name in others))
    clocks = {name: [turn[name][1][0] / turn[name][1][1] for turn in rounds] for name in others}
    print(f"{'its clock / host clock':30}" + "".join(f"{cell(clocks[name]):>28}" for name in others))


if __name__ == "__main__":
    main()
