#!/usr/bin/env python3
"""Lists the functions that a container's life executes, in the order of their first calls.

`cargo xtask dist` puts them next to each other (xtask/src/order.rs): the kernel maps 64 KiB around each page of a program
that is touched, so functions spread over the program cost memory and page faults.

usage: bench/symbol-order.py PROGRAM > xtask/order/atoll-runtime.txt      needs root, busybox-static, nm

PROGRAM: atoll-runtime with its symbols, as `CARGO_PROFILE_DIST_STRIP=false cargo xtask dist` makes it. Each function begins
with a breakpoint that goes away when it is hit.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

TRACEME, CONT, DETACH, SETOPTIONS, GETEVENTMSG = 0, 7, 17, 0x4200, 0x4201
PEEKUSER, POKEUSER = 3, 6
RIP = 16 * 8
FORK, VFORK, CLONE, EXEC = 1, 2, 3, 4
OPTIONS = 1 << FORK | 1 << VFORK | 1 << CLONE | 1 << EXEC | 1 << 20
BREAKPOINT = 0xCC
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, address=0, data=0):
    ctypes.set_errno(0)
    answer = libc.ptrace(request, pid, address, data)
    if ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


class Functions:
    """Functions of a program, by their offset in its image."""

    def __init__(self, program):
        self.program = os.path.realpath(program)
        table = subprocess.run(
            ["nm", "--defined-only", self.program], check=True, capture_output=True, text=True
        ).stdout
        self.names = {}
        for line in table.splitlines():
            address, kind, name = line.split(" ", 2)
            if kind in "tTwW":
                self.names.setdefault(int(address, 16), []).append(name)
        with open(self.program, "rb") as file:
            self.is_fixed = file.read(18)[16] == 2
        # First bytes by offset, and what was called, in order.
        self.code = {}
        self.called = {}

    def arm(self, pid):
        """Puts the breakpoints that have not been hit yet; `None` for another program, else where it is loaded."""
        # The program executes itself through a mount of its own: its path is not the same then, its inode is.
        own = os.stat(self.program)
        if not os.path.samestat(os.stat(f"/proc/{pid}/exe"), own):
            return None
        maps = [line.split() for line in open(f"/proc/{pid}/maps")]
        own = [part for part in maps if part[4] == str(own.st_ino)]
        base = 0 if self.is_fixed else min(int(part[0].split("-")[0], 16) for part in own)
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            for part in own:
                if "x" not in part[1]:
                    continue
                begin, end = (int(side, 16) for side in part[0].split("-"))
                memory.seek(begin)
                code = bytearray(memory.read(end - begin))
                for offset in self.names:
                    if begin <= base + offset < end and offset not in self.called:
                        self.code.setdefault(offset, code[base + offset - begin])
                        code[base + offset - begin] = BREAKPOINT
                memory.seek(begin)
                memory.write(code)
        return base

    def hit(self, pid, base):
        """Takes away the breakpoint that was hit; false when it was none of ours."""
        at = ptrace(PEEKUSER, pid, RIP) - 1
        offset = at - base
        if offset not in self.code:
            return False
        self.called.setdefault(offset)
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(at)
            memory.write(bytes([self.code[offset]]))
        ptrace(POKEUSER, pid, RIP, at)
        return True


class Tracer:
    """Runs commands, and follows all that they make."""

    def __init__(self, functions):
        self.functions = functions
        # Where the program is loaded in each process that is followed; None before it is.
        self.bases = {}
        # Children that stopped before their parent's event said that they are there.
        self.early = set()

    def run(self, arguments, folder):
        """Gives the exit code of a command; what it leaves goes on as the next one runs."""
        first = os.fork()
        if first == 0:
            os.chdir(folder)
            ptrace(TRACEME, 0)
            os.dup2(2, 1)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.execv(arguments[0], arguments)
        os.waitpid(first, 0)
        ptrace(SETOPTIONS, first, 0, OPTIONS)
        ptrace(CONT, first)
        self.bases[first] = None
        while True:
            pid, status = os.waitpid(-1, WALL)
            if os.WIFSTOPPED(status):
                self.stopped(pid, os.WSTOPSIG(status), status >> 16)
                continue
            self.bases.pop(pid, None)
            if pid == first:
                return os.waitstatus_to_exitcode(status)

    def stopped(self, pid, number, event):
        if pid not in self.bases:
            self.early.add(pid)
            return
        base = self.bases[pid]
        deliver = 0
        if event in (FORK, VFORK, CLONE):
            message = ctypes.c_ulong()
            ptrace(GETEVENTMSG, pid, 0, ctypes.addressof(message))
            child = message.value
            if child not in self.early:
                os.waitpid(child, WALL)
            self.early.discard(child)
            self.bases[child] = base
            ptrace(CONT, child)
        elif event == EXEC:
            self.bases[pid] = self.functions.arm(pid)
            if self.bases[pid] is None:
                del self.bases[pid]
                ptrace(DETACH, pid)
                return
        elif number == signal.SIGTRAP and base is not None and self.functions.hit(pid, base):
            pass
        elif number not in (signal.SIGTRAP, signal.SIGSTOP):
            deliver = number
        try:
            ptrace(CONT, pid, 0, deliver)
        except ProcessLookupError:
            pass


def bundle(folder, program):
    os.makedirs(f"{folder}/rootfs/bin")
    for name in ("true", "sleep"):
        shutil.copy("/bin/busybox", f"{folder}/rootfs/bin/{name}")
    subprocess.run([program, "spec"], cwd=folder, check=True)
    place = f"{folder}/config.json"
    spec = json.load(open(place))
    spec["process"]["terminal"] = False
    for name, arguments in (("run", ["/bin/true"]), ("stay", ["/bin/sleep", "1000"])):
        os.makedirs(f"{folder}/{name}")
        spec["process"]["args"] = arguments
        spec["root"]["path"] = f"{folder}/rootfs"
        json.dump(spec, open(f"{folder}/{name}/config.json", "w"))


def main():
    functions = Functions(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        program = functions.program
        bundle(folder, program)
        tracer = Tracer(functions)
        state = ["--root", f"{folder}/state"]
        steps = [
            ["run", "-b", "run", "a"],
            ["create", "-b", "stay", "b"],
            ["start", "b"],
            ["state", "b"],
            ["exec", "b", "/bin/true"],
            ["kill", "b", "KILL"],
            ["delete", "-f", "b"],
        ]
        for step in steps:
            code = tracer.run([program, *state, *step], folder)
            print(f"{step[0]}: exit code {code}, {len(functions.called)} functions", file=sys.stderr)
    seen = {}
    for offset in functions.called:
        for name in functions.names[offset]:
            seen.setdefault(key(name))
    print("\n".join(seen))


def key(name):
    """A name without what differs from build to build: xtask/src/order.rs does the same."""
    name = re.sub(r"\.llvm\.\d+$", "", name)
    name = re.sub(r"17h[0-9a-f]{16}E$", "E", name)
    return re.sub(r"Cs[0-9A-Za-z]+_", "C", name) if name.startswith("_R") else name


if __name__ == "__main__":
    main()
