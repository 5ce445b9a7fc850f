#!/usr/bin/env python3
"""Times `docker run --isolation=vm` cold and from the template beside a container; exec; memory; network; files.

usage: bench/vm-wall.py [-n ROUNDS] [--cold ROUNDS] [--machines N] [--isolation vm|vm:soft|vm:kvm]

Needs root, docker.io (the CLI), busybox-static, linux-image-cloud-amd64, qemu-system-x86 and our programs:
ATOLL=<folder> (target/atoll/bin after `cargo xtask dist`). The engine has throwaway roots, a cache of its own, and a
network namespace that goes with this script. Rows are run in turn; each has its median, least and most. QEMU's row is the
same kernel with a busybox ramdisk on q35 under TCG, to the first line of user space (its microvm hangs under TCG here).
Memory is the resident memory of monitors and shims by smaps, the guests' left out; a page that several share counts in
parts (Pss).
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from ramdisk import busybox, kernel

LINE = b"bench: user space"


class Engine:
    """An engine in `folder`; docker speaks to it."""

    def __init__(self, programs, folder):
        self.folder = folder
        self.cache = os.path.join(folder, "cache")
        address = "unix://" + os.path.join(folder, "docker.sock")
        environment = os.environ | {"ATOLL_CACHE_ROOT": self.cache}
        self.environment = os.environ | {"DOCKER_HOST": address}
        log = open(os.path.join(folder, "engine.log"), "w")
        self.child = subprocess.Popen(
            [os.path.join(programs, "atoll"), "engine", "--data-root", folder + "/data", "--exec-root", folder + "/exec",
             "-H", address, "--bip", "10.233.0.1/24"], env=environment, stdout=log, stderr=log)
        for _ in range(100):
            if subprocess.run(["docker", "version"], env=self.environment, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit("the engine does not answer:\n" + open(log.name).read())

    def docker(self, *words, stdin=None):
        done = subprocess.run(["docker", *words], env=self.environment, capture_output=True, stdin=stdin)
        if done.returncode != 0:
            sys.exit(f"docker {' '.join(words)}: {done.stderr.decode()}")
        return done.stdout.decode().strip()

    def timed(self, *words):
        start = time.perf_counter()
        self.docker(*words)
        return time.perf_counter() - start

    def end(self):
        self.child.terminate()
        self.child.wait()


def image(folder):
    """busybox, and a tree of 100 MB in files of 100 kB and 4 kB."""
    root = os.path.join(folder, "image")
    os.makedirs(root + "/bin")
    for name in ("proc", "sys", "dev", "tmp"):
        os.mkdir(os.path.join(root, name))
    shutil.copy(shutil.which("busybox"), root + "/bin/busybox")
    for name in ("sh", "true", "sleep", "ping", "nc", "cat", "find", "dd", "head", "wc"):
        os.symlink("busybox", f"{root}/bin/{name}")
    for number in range(900):
        os.makedirs(f"{root}/tree/{number % 30}", exist_ok=True)
        with open(f"{root}/tree/{number % 30}/big-{number}", "wb") as file:
            file.write(os.urandom(100_000))
    for number in range(2500):
        with open(f"{root}/tree/{number % 30}/small-{number}", "wb") as file:
            file.write(os.urandom(4_000))
    archive = os.path.join(folder, "image.tar")
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    return archive


def qemu(initrd):
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-m", "512M", "-nographic",
               "-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", kernel(), "-initrd", initrd, "-append",
               "console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet clocksource=tsc tsc=reliable no_timer_check"]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seen = b""
    while LINE not in seen:
        chunk = os.read(child.stdout.fileno(), 65536)
        if not chunk:
            sys.exit("QEMU ended: " + seen.decode(errors="replace"))
        seen += chunk
    took = time.perf_counter() - start
    child.kill()
    child.wait()
    return took


def memory(pid):
    """KiB (Pss) of a monitor without its guest's memory, and of the guest's."""
    own = guest = 0
    is_guest = False
    for line in open(f"/proc/{pid}/smaps"):
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            name = words[5] if len(words) > 5 else ""
            is_guest = "guest-memory" in name or name.endswith("/memory")
        elif words[0] == "Pss:":
            if is_guest:
                guest += int(words[1])
            else:
                own += int(words[1])
    return own, guest


def parent(pid):
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1]


def row(name, values, unit="ms"):
    print(f"{name:44} {statistics.median(values):10.1f} {min(values):10.1f} {max(values):10.1f} {unit}", flush=True)


def machines_memory(engine, wall, count):
    ids = [engine.docker("run", "-d", wall, "bb", "sleep", "1000") for _ in range(count)]
    time.sleep(2)
    monitors = [engine.docker("inspect", "-f", "{{.State.Pid}}", name) for name in ids]
    sums = [memory(pid) for pid in monitors]
    shims = [sum(memory(parent(pid))) for pid in monitors]
    for name in ids:
        engine.docker("rm", "-f", name)
    print(f"{f'memory of each of {count}, KiB':44} monitor {sum(own for own, _ in sums) // count}, shim {sum(shims) // count}, "
          f"guest {sum(guest for _, guest in sums) // count}", flush=True)


def network(engine, wall):
    for name, server, client in (("container to container", [], []), ("container to machine", [wall], []),
                                 ("machine to container", [], [wall])):
        engine.docker("run", "-d", *server, "--name", "server", "bb", "sh", "-c",
                      "nc -l -p 81 -e dd if=/dev/zero bs=64k count=400; sleep 1000")
        address = engine.docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "server")
        said = engine.docker("run", "--rm", *client, "bb", "ping", "-q", "-c", "20", "-i", "0.05", address)
        trip = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)", said)
        said = engine.docker("run", "--rm", *client, "bb", "sh", "-c",
                             f"(time nc {address} 81 > /dev/null) 2>&1")
        engine.docker("rm", "-f", "server")
        took = re.search(r"real\s+(\d+)m ([\d.]+)s", said)
        rate = 26.2 / max(int(took.group(1)) * 60 + float(took.group(2)), 0.01)
        print(f"{'ping, ' + name:44} {trip.group(2)} ms (least {trip.group(1)}); 26 MB come back at {rate:.0f} MB/s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=15, help="rounds")
    parser.add_argument("--cold", type=int, default=3, help="rounds of booting")
    parser.add_argument("--machines", type=int, default=10, help="at once, for their memory")
    parser.add_argument("--isolation", default="vm")
    parser.add_argument("--only", choices=["network", "memory"], help="leave the rest out")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, __file__, "--inside", *sys.argv[1:]])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    programs = os.environ.get("ATOLL") or sys.exit("say where our programs are: ATOLL=<folder>")
    wall = f"--isolation={arguments.isolation}"
    with tempfile.TemporaryDirectory(prefix="atoll-bench.") as folder:
        initrd = os.path.join(folder, "initrd")
        open(initrd, "wb").write(busybox(b"/bin/busybox echo '" + LINE + b"'\n/bin/busybox sleep 1000\n"))
        engine = Engine(programs, folder)
        try:
            engine.docker("import", image(folder), "bb")
            # What is made once: the layer's image, the uncompressed kernel, the ramdisk.
            engine.docker("run", "--rm", wall, "bb", "true")
            if arguments.only == "network":
                network(engine, wall)
                return
            if arguments.only == "memory":
                for count in (1, arguments.machines):
                    machines_memory(engine, wall, count)
                return
            cold, peer, warm, container, into, into_container = [], [], [], [], [], []
            for _ in range(arguments.cold):
                shutil.rmtree(engine.cache + "/templates")
                cold.append(engine.timed("run", "--rm", wall, "bb", "true") * 1e3)
                peer.append(qemu(initrd) * 1e3)
            # The first copy teaches the template what copies execute.
            engine.docker("run", "--rm", wall, "bb", "true")
            machine = engine.docker("run", "-d", wall, "bb", "sleep", "1000")
            other = engine.docker("run", "-d", "bb", "sleep", "1000")
            for _ in range(arguments.n):
                container.append(engine.timed("run", "--rm", "bb", "true") * 1e3)
                warm.append(engine.timed("run", "--rm", wall, "bb", "true") * 1e3)
                into.append(engine.timed("exec", machine, "true") * 1e3)
                into_container.append(engine.timed("exec", other, "true") * 1e3)
            print(f"{'':44} {'median':>10} {'min':>10} {'max':>10}")
            row("docker run --rm, container", container)
            row("docker run --rm, machine from its template", warm)
            row("docker run --rm, machine that boots", cold)
            row("QEMU q35, TCG, to user space", peer)
            row("docker exec, container", into_container)
            row("docker exec, machine", into)
            tree = ("sh", "-c", "find /tree -type f -exec cat {} + > /dev/null")
            reads = {"container": [], "machine": []}
            for _ in range(3):
                reads["container"].append(engine.timed("run", "--rm", "bb", *tree) * 1e3)
                reads["machine"].append(engine.timed("run", "--rm", wall, "bb", *tree) * 1e3)
            for name, values in reads.items():
                row(f"reading a tree of 100 MB, {name}", values)
            engine.docker("rm", "-f", machine, other)
            network(engine, wall)
            for count in (1, arguments.machines):
                machines_memory(engine, wall, count)
        finally:
            engine.end()


if __name__ == "__main__":
    main()
