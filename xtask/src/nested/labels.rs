//! Proves SELinux labels under a distribution's kernel that enforces a policy of ours, which no host of ours has.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Kernel, Payload, folder, prove, read, runtime_tests};
use crate::shell;

/// The policy, for checkpolicy(8).
const POLICY: &str = "xtask/src/nested/labels.conf";

/// A root file system in memory with cgroup v2; the policy is loaded by one write, and enforced before the tests but one.
const SCRIPT: &str = "#!/bin/busybox sh
set -e
busybox mkdir /new && busybox mount -t tmpfs -o mode=755 root /new
cd /new && busybox mkdir bin dev proc sys tmp containers && busybox cp /bin/busybox bin/
busybox cp /test /atoll-runtime /policy .
for name in cp sh; do busybox ln -s busybox bin/$name; done
for place in dev proc sys; do busybox mount --move /$place $place; done
busybox mount -t cgroup2 none sys/fs/cgroup
busybox mount -t selinuxfs none sys/fs/selinux
export ATOLL_RUNTIME=/atoll-runtime TMPDIR=/containers RUST_BACKTRACE=1
busybox mount --move . /
busybox chroot . /test --ignored without_a_policy
busybox chroot . /bin/busybox dd if=/policy of=/sys/fs/selinux/load bs=1M
busybox chroot . /bin/busybox mount -t tmpfs -o context=system_u:object_r:container_file_t:s0 none /containers
echo 1 > sys/fs/selinux/enforce
# What the policy doesn't know and allows is a hundred lines.
busybox dmesg -c > /dev/null
exec busybox chroot . /test selinux:: --ignored --test-threads=1 --skip without_a_policy
";

/// Runs the runtime's tests of labels inside the emulated machine.
pub(crate) fn label_tests() -> Result<()> {
    let mut archive = runtime_tests(SCRIPT)?;
    archive.file("policy", &policy()?);
    let payload = Payload {
        archive,
        modules: &[],
        // Debian's order has AppArmor first, and only one of the two can be.
        kernel_words: "lsm=selinux",
        command: "/run",
        proof: "test result: ok",
    };
    prove(&Kernel::find()?, payload)?;
    Ok(())
}

/// The policy as the kernel reads it.
fn policy() -> Result<Vec<u8>> {
    let path = folder()?.join("policy");
    let output = Command::new("checkpolicy")
        .args(["-M", "-U", "allow", "-o"])
        .arg(&path)
        .arg(shell::root().join(POLICY))
        .output()
        .context("cannot start checkpolicy\nhint: cargo xtask setup")?;
    ensure!(
        output.status.success(),
        "checkpolicy refuses {POLICY}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    read(&path)
}
