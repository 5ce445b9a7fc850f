#!/usr/bin/env python3
"""Restores a saved machine again and again, and times it to the guest's first output; then the memory of its monitor.

usage: bench/machine-restore.py [-n ROUNDS] [--clones N] [--memory MIB] [--backend soft|kvm]

Needs linux-image-cloud-amd64, busybox-static and our monitor: ATOLL=<folder with atoll-vmm> (target/release after
`cargo build --release -p atoll-machine`). A guest that boots, says `ready` and waits for a line on its console is saved;
a restored one gets a line, and answers. What is timed runs from starting atoll-vmm to the answer, as the host reads it;
beside it, in turn, the same from a cold boot. Memory is the monitor's resident memory without the guest's (smaps of the
mapping of the memory file left out): all of it, and what is private to it. Clones run at the same time for the second
table, from one file.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from ramdisk import busybox, kernel, vmm

COMMAND_LINE = "console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet pci=off tsc=reliable no_timer_check mitigations=off"
SCRIPT = b"""/bin/busybox echo ready
while read -r line; do /bin/busybox echo "got $line"; done
"""


class Machine:
    """A monitor that runs."""

    def __init__(self, program, config, folder):
        path = os.path.join(folder, f"vm-{time.monotonic_ns()}.json")
        with open(path, "w") as file:
            json.dump(config, file)
        self.start = time.perf_counter()
        self.child = subprocess.Popen([program, "--config", path], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.seen = b""

    def types(self, line):
        self.child.stdin.write(line + b"\n")
        self.child.stdin.flush()

    def hears(self, words):
        """Seconds from the start until the guest said `words`."""
        while words not in self.seen:
            chunk = os.read(self.child.stdout.fileno(), 65536)
            if not chunk:
                sys.exit(f"the machine ended without `{words.decode()}`:\n{self.seen.decode(errors='replace')}")
            self.seen += chunk
        return time.perf_counter() - self.start

    def cpu(self):
        fields = open(f"/proc/{self.child.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """KiB of (monitor resident, monitor private, guest resident, guest private)."""
        sums = [0, 0, 0, 0]
        at = 0
        for line in open(f"/proc/{self.child.pid}/smaps"):
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                name = words[5] if len(words) > 5 else ""
                at = 2 if "guest-memory" in name or name.endswith("/saved/memory") else 0
            elif words[0] == "Rss:":
                sums[at] += int(words[1])
            elif words[0] in ("Private_Dirty:", "Private_Clean:"):
                sums[at + 1] += int(words[1])
        return sums

    def end(self):
        self.child.kill()
        self.child.wait()


def save(control, folder):
    os.mkdir(folder)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(control)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        start = time.perf_counter()
        socket.send_fds(client, [b'{"do":"save"}\n'], [fd])
        answer = client.recv(4096)
        os.close(fd)
    if b'"ok"' not in answer:
        sys.exit(f"not saved: {answer.decode()}")
    return time.perf_counter() - start


def row(name, values, unit=1e3):
    print(f"{name:32} {statistics.median(values) * unit:10.1f} {min(values) * unit:10.1f} {max(values) * unit:10.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20, help="rounds")
    parser.add_argument("--boots", type=int, default=3, help="cold boots among them")
    parser.add_argument("--clones", type=int, default=10, help="machines at once for the memory")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--backend", default="soft")
    arguments = parser.parse_args()
    program = vmm()
    with tempfile.TemporaryDirectory() as folder:
        initrd = os.path.join(folder, "initrd")
        open(initrd, "wb").write(busybox(SCRIPT))
        control = os.path.join(folder, "control")
        boot = {"backend": arguments.backend, "kernel": kernel(), "kernel_store": folder, "initrd": initrd,
                "command_line": COMMAND_LINE, "memory_bytes": arguments.memory << 20, "cpus": 1}
        first = Machine(program, boot | {"control": control}, folder)
        first.hears(b"ready")
        saved = os.path.join(folder, "saved")
        saving = save(control, saved)
        cold_memory = first.memory()
        first.end()
        restore = {"backend": arguments.backend, "restore": saved}
        cold, warm, cpu = [], [], []
        for turn in range(arguments.n):
            if turn < arguments.boots:
                machine = Machine(program, boot, folder)
                cold.append(machine.hears(b"ready"))
                machine.end()
            machine = Machine(program, restore, folder)
            machine.types(b"line")
            warm.append(machine.hears(b"got line"))
            cpu.append(machine.cpu())
            warm_memory = machine.memory()
            machine.end()
        clones = []
        together = []
        for number in range(arguments.clones):
            clone = Machine(program, restore, folder)
            clone.types(b"line")
            together.append(clone.hears(b"got line"))
            clones.append(clone)
        many = [clone.memory() for clone in clones]
        for clone in clones:
            clone.end()
        blocks = os.stat(os.path.join(saved, "memory")).st_blocks * 512
        print(f"saved in {saving * 1e3:.0f} ms, {blocks >> 20} MiB on disk of {arguments.memory} MiB")
        print(f"{'to first output, ms':32} {'median':>10} {'min':>10} {'max':>10}")
        row("cold boot", cold)
        row("restored", warm)
        row("restored, CPU", cpu)
        row(f"clone 1 to {arguments.clones} beside the others", together)
        print(f"{'memory, KiB':32} {'monitor':>10} {'private':>10} {'guest':>10} {'private':>10}")
        for name, sums in (("booted", cold_memory), ("restored", warm_memory)):
            print(f"{name:32} " + " ".join(f"{value:10}" for value in sums))
        middle = [int(statistics.median(sums[at] for sums in many)) for at in range(4)]
        print(f"{f'each of {arguments.clones} clones':32} " + " ".join(f"{value:10}" for value in middle))


if __name__ == "__main__":
    main()
