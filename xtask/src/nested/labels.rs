//! Proves SELinux labels and AppArmor profiles under a distribution's kernel that enforces some of ours, which no host of
//! ours does. A kernel has one of the two: there are two machines.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Kernel, Payload, folder, prove, read, runtime_tests};
use crate::shell;

/// The policy, for checkpolicy(8).
const POLICY: &str = "xtask/src/nested/labels.conf";
/// The profiles, for apparmor_parser(8).
const PROFILES: &str = "xtask/src/nested/labels.apparmor";

/// The policy is loaded by one write, and enforced before the tests but one.
const SELINUX: &str = "busybox mkdir containers && busybox cp /policy .
busybox mount -t selinuxfs none sys/fs/selinux
export TMPDIR=/containers
busybox mount --move . /
busybox chroot . /test --ignored without_a_policy
busybox chroot . /bin/busybox dd if=/policy of=/sys/fs/selinux/load bs=1M
busybox chroot . /bin/busybox mount -t tmpfs -o context=system_u:object_r:container_file_t:s0 none /containers
echo 1 > sys/fs/selinux/enforce
# What the policy doesn't know and allows is a hundred lines.
busybox dmesg -c > /dev/null
exec busybox chroot . /test selinux:: --ignored --test-threads=1 --skip without_a_policy
";

/// The profiles are loaded by one write.
const APPARMOR: &str = "busybox mount -t securityfs none sys/kernel/security
busybox dd if=/policy of=sys/kernel/security/apparmor/.load bs=1M
busybox mount --move . /
exec busybox chroot . /test apparmor:: --ignored --test-threads=2
";

/// Runs the runtime's tests of labels and those of profiles, each inside an emulated machine.
pub(crate) fn label_tests() -> Result<()> {
    // Debian's order has AppArmor first, and only one of the two can be.
    tests(SELINUX, &policy()?, "lsm=selinux")?;
    tests(APPARMOR, &profiles()?, "lsm=apparmor")
}

fn tests(script: &str, policy: &[u8], kernel_words: &'static str) -> Result<()> {
    let mut archive = runtime_tests(script)?;
    archive.file("policy", policy);
    let payload = Payload {
        archive,
        modules: &[],
        kernel_words,
        command: "/run",
        proof: "test result: ok",
    };
    prove(&Kernel::find()?, payload)?;
    Ok(())
}

/// The policy as the kernel reads it.
fn policy() -> Result<Vec<u8>> {
    compile("checkpolicy", &["-M", "-U", "allow", "-o"], POLICY)
}

/// The profiles as the kernel reads them.
fn profiles() -> Result<Vec<u8>> {
    // For a kernel that is not this one's: nothing is loaded, nothing kept.
    let options = ["--skip-kernel-load", "--skip-cache", "--ofile"];
    compile("apparmor_parser", &options, PROFILES)
}

/// What `program` makes of one of our sources, into the file that its last option is to name.
fn compile(program: &str, options: &[&str], source: &str) -> Result<Vec<u8>> {
    let path = folder()?.join(
        Path::new(source)
            .file_name()
            .context("sources have names")?,
    );
    let output = Command::new(program)
        .args(options)
        .arg(&path)
        .arg(shell::root().join(source))
        .output()
        .with_context(|| format!("cannot start {program}\nhint: cargo xtask setup"))?;
    ensure!(
        output.status.success(),
        "{program} refuses {source}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    read(&path)
}
