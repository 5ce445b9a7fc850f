#!/usr/bin/env python3
"""Runs the kernel's own x86 self-tests in a guest on our software CPU, on QEMU's TCG and natively, and compares.

usage: bench/guest-selftests.py [--package FILE] [TEST …]

Needs root, gcc, libc6-dev, busybox-static, linux-image-cloud-amd64, qemu-system-x86 and apt (or linux-source-6.1's
package as FILE): the tests' source is fetched, compiled into a temporary folder and thrown away. ATOLL=<folder with
atoll-vmm> as for machine-boot.py. Exits with 1 when a test does worse on our CPU than on QEMU's; the native kernel is
another one, so what differs there is only shown. Tests for 32-bit programs are not built.
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

TESTS = ["check_initial_reg_state", "fsgsbase", "fsgsbase_restore", "ioperm", "iopl", "ldt_gdt", "mov_ss_trap",
         "ptrace_syscall", "sigaltstack", "sigreturn", "sigtrap_loop", "single_step_syscall", "syscall_arg_fault",
         "syscall_nt", "syscall_numbering", "sysret_rip", "sysret_ss_attrs", "test_FCMOV", "test_FCOMI", "test_FISTTP",
         "test_mremap_vdso", "test_syscall_vdso", "test_vsyscall"]
FILES = ["*/tools/testing/selftests/x86/*", "*/tools/testing/selftests/kselftest*.h", "*/tools/include/*",
         "*/arch/x86/include/asm/desc_defs.h"]
FLAGS = {"check_initial_reg_state": ["-Wl,-ereal_start"]}
COMMAND_LINE = ("console=ttyS0 cryptomgr.notests reboot=t panic=-1 quiet loglevel=1 tsc=reliable no_timer_check "
                "clocksource=tsc")
SCRIPT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
cd /tests
for test in *; do
    /bin/busybox timeout 120 ./$test > /tmp/out 2>&1 < /dev/null
    code=$?
    echo "@$test $code"
    /bin/busybox grep -e "\\[FAIL" /tmp/out | /bin/busybox head -5
done
echo @done 0
/bin/busybox poweroff -f
"""


def compile_all(package, folder, tests):
    """The tests that could be compiled, in `folder`/tests."""
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    archive = glob.glob(os.path.join(folder, "usr/src/linux-source-*.tar.xz"))[0]
    subprocess.run(["tar", "-C", folder, "-xf", archive, "--wildcards", *FILES], check=True)
    source = glob.glob(os.path.join(folder, "linux-source-*/tools/testing/selftests/x86"))[0]
    programs = os.path.join(folder, "tests")
    os.mkdir(programs)
    for test in tests:
        files = [f"{test}.c"] + (["thunks.S"] if test == "sysret_ss_attrs" else [])
        done = subprocess.run(["gcc", "-O2", "-static", "-std=gnu99", "-w", "-I../../../include", "-I..", "-I../../../../tools/include",
                               *FLAGS.get(test, []), "-o", os.path.join(programs, test), *files, "-pthread", "-lm"], cwd=source, capture_output=True, text=True)
        if done.returncode:
            print(f"{test}: not built: {done.stderr.splitlines()[0]}")
    return programs


def results(output):
    """Exit code and complaints of each test."""
    found, name = {}, None
    for line in output.decode(errors="replace").replace("\r", "").splitlines():
        if match := re.fullmatch(r"@(\w+) (\d+)", line):
            name = match[1]
            found[name] = (int(match[2]), [])
        elif name and "[FAIL" in line:
            found[name][1].append(line)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", help="linux-source-6.1_….deb")
    parser.add_argument("test", nargs="*", default=TESTS)
    arguments = parser.parse_args()
    vmlinuz = kernel()
    with tempfile.TemporaryDirectory() as folder:
        package = arguments.package
        if not package:
            subprocess.run(["apt-get", "download", "linux-source-6.1"], cwd=folder, check=True)
            package = glob.glob(os.path.join(folder, "linux-source-*.deb"))[0]
        programs = compile_all(package, folder, arguments.test)
        entries = [(name, 0o40755, b"") for name in ["bin", "dev", "proc", "tmp", "tests"]]
        entries += [("bin/busybox", 0o100755, open("/bin/busybox", "rb").read()), ("init", 0o100755, SCRIPT.encode())]
        for name in sorted(os.listdir(programs)):
            entries.append((f"tests/{name}", 0o100755, open(os.path.join(programs, name), "rb").read()))
        initrd, config = os.path.join(folder, "initrd"), os.path.join(folder, "vm.json")
        open(initrd, "wb").write(cpio(entries))
        json.dump({"backend": "soft", "kernel": vmlinuz, "kernel_store": folder, "initrd": initrd,
                   "command_line": COMMAND_LINE, "memory_bytes": 256 << 20, "cpus": 1}, open(config, "w"))
        commands = {
            "atoll": [vmm(), "--config", config],
            "qemu": ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults",
                     "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", vmlinuz,
                     "-initrd", initrd, "-append", COMMAND_LINE],
        }
        found = {name: results(subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                              stderr=subprocess.STDOUT, timeout=900).stdout)
                 for name, command in commands.items()}
        found["native"] = {}
        for name in sorted(os.listdir(programs)):
            done = subprocess.run(["timeout", "120", os.path.join(programs, name)], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            lines = done.stdout.decode(errors="replace").splitlines()
            found["native"][name] = (done.returncode, [line for line in lines if "[FAIL" in line][:5])
    worse = [environment for environment in commands if "done" not in found[environment]]
    print(f"{'exit codes':26}" + "".join(f"{name:>8}" for name in found))
    for test in arguments.test:
        codes = {name: found[name].get(test, ("-", []))[0] for name in found}
        print(f"{test:26}" + "".join(f"{str(code):>8}" for code in codes.values()))
        if codes["atoll"] not in (0, codes["qemu"]):
            worse.append(test)
        for name in found:
            for line in found[name].get(test, (0, []))[1]:
                print(f"    {name}: {line}")
    if worse:
        sys.exit(f"worse or unfinished: {', '.join(worse)}")


if __name__ == "__main__":
    main()
