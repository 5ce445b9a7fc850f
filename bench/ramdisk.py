"""What the benches' guests begin with: kernel, initial ramdisk, and the folder of our programs."""

import glob
import io
import os


def kernel():
    """Debian's newest kernel for virtual machines on this host."""
    return sorted(glob.glob("/boot/vmlinuz-*-cloud-amd64"))[-1]


def vmm():
    """Our monitor, from the folder that ATOLL names, by default target/release."""
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.join(os.environ.get("ATOLL", os.path.join(here, "../target/release")), "atoll-vmm")


def busybox(script):
    """A ramdisk with busybox and `script`, bytes for its shell, as the first process."""
    program = open("/bin/busybox", "rb").read()
    init = b"#!/bin/busybox sh\n" + script
    return cpio([("bin", 0o40755, b""), ("bin/busybox", 0o100755, program), ("init", 0o100755, init)])


def cpio(files):
    """An archive in cpio's newc format of (name, mode, content)."""
    out = io.BytesIO()
    entries = files + [("TRAILER!!!", 0, b"")]
    for number, (name, mode, content) in enumerate(entries, 1):
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields))
        out.write(name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4))
        out.write(content)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()
