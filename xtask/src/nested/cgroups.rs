//! The third proof: `atoll-runtime` on cgroup v2 alone, which a host that has controllers on version 1 can't show.

use anyhow::Result;

use super::{Kernel, Payload, prove, runtime_tests};

/// Memory is not to be swapped, a ram disk is one that I/O can be limited on, and the test's processes are not in the
/// root of the hierarchy: a service manager has none there either.
const SCRIPT: &str =
    "busybox mkdir var sys/fs/cgroup/tests && echo $$ > sys/fs/cgroup/tests/cgroup.procs
busybox mount -t tmpfs tmp tmp
busybox mount --move . /
exec busybox chroot . /test cgroup_v2:: --ignored --test-threads=2
";

/// Runs the tests of the runtime on cgroup v2 inside the emulated machine.
pub(crate) fn cgroup_tests() -> Result<()> {
    let archive = runtime_tests(SCRIPT)?;
    let payload = Payload {
        archive,
        modules: &["drivers/block/brd.ko"],
        kernel_words: "",
        command: "/run",
        proof: "test result: ok",
    };
    prove(&Kernel::find()?, payload)?;
    Ok(())
}
