//! The small image of the tests, made from Debian's busybox-static.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::Ran;

/// Applets that get a name of their own in the image.
const APPLETS: &[&str] = &[
    "cat",
    "chmod",
    "date",
    "dd",
    "df",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "id",
    "ifconfig",
    "ip",
    "kill",
    "ls",
    "mkdir",
    "mount",
    "nc",
    "nslookup",
    "nproc",
    "ping",
    "ps",
    "pwd",
    "rm",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "stty",
    "test",
    "touch",
    "tr",
    "trap",
    "true",
    "tty",
    "umount",
    "uname",
    "wc",
    "wget",
    "whoami",
    "yes",
];

/// Fills `root` with the tree of the image.
///
/// # Panics
/// When busybox is missing or the folder can't be written.
pub fn tree(root: &Path) {
    for folder in [
        "bin",
        "etc",
        "tmp",
        "proc",
        "sys",
        "dev",
        "root",
        "home/guest",
    ] {
        fs::create_dir_all(root.join(folder)).expect("the test's folder is writable");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("the test's folder is writable");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).expect("the test's folder is writable");
    let group = "root:x:0:\nwheel:x:10:root,guest\nguest:x:1000:\n";
    fs::write(root.join("etc/group"), group).expect("the test's folder is writable");
    let script = "#!/no/such/interpreter\n";
    fs::write(root.join("bin/orphan"), script).expect("the test's folder is writable");
    fs::write(root.join("etc/plain"), "not executable\n").expect("the test's folder is writable");
    fs::write(root.join("bin/garbage"), [0u8, 1, 2, 3]).expect("the test's folder is writable");
    Ran::of(
        Command::new("chmod")
            .arg("755")
            .args([root.join("bin/orphan"), root.join("bin/garbage")]),
    )
    .ok();
}

/// Writes the image's tree as a tar archive, as `docker import` takes it.
///
/// # Panics
/// When tar fails.
pub fn tarball(to: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    tree(folder.path());
    Ran::of(
        Command::new("tar")
            .arg("-C")
            .arg(folder.path())
            .arg("-cf")
            .arg(to)
            .arg("."),
    )
    .ok();
}
