"""Initial ramdisks for the benches."""

import io


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
