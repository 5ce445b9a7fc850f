//! Runs every test of the workspace.

use anyhow::Result;

use crate::{counts, dist, nested, setup, shell};

/// Installs what is missing, builds what is shipped, counts what a container costs, runs all tests, those of cgroup v2, of SELinux, of AppArmor, of resctrl and of the KVM backend (again) in an
/// emulated machine whose processor has what this host's may lack, where it also boots the stock kernel and runs containers in machines, and
/// checkpoints by CRIU under the kernel that CRIU was made for.
pub(crate) fn run() -> Result<()> {
    shell::require_root("the tests make namespaces, mounts and cgroups, so running them")?;
    setup::install()?;
    dist::build()?;
    counts::check()?;
    let mut tests = shell::command("cargo", &["test", "--workspace", "--no-fail-fast"]);
    tests.env("ATOLL_BIN", shell::root().join("target/atoll/bin"));
    shell::run(&mut tests)?;
    nested::cgroup_tests()?;
    nested::checkpoint()?;
    nested::label_tests()?;
    nested::share_tests()?;
    nested::kvm_tests()?;
    nested::boot_machine()?;
    nested::wall()
}
