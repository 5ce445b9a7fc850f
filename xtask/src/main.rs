//! Project chores, so that nothing lives only in a person's shell history.
//!
//! `cargo xtask check` holds the tree against its own rules, `counts` a container's start against its limits, `dist` builds what is shipped, `fuzz` runs
//! a fuzz target,
//! `nested-cgroups` proves the runtime on cgroup v2, `nested-checkpoint` checkpoints, `nested-labels` SELinux labels and AppArmor profiles,
//! `nested-resctrl` shares of caches, `nested-kvm`, `nested-machine` and `nested-wall` the KVM backend, all in an emulated
//! machine, `setup` installs what
//! the tests need, `test` runs all tests. Chores stop at the first failure.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a chore reports to the terminal"
)]

mod architecture;
mod counts;
mod dist;
mod fuzz;
mod house_rules;
mod linker;
mod nested;
mod order;
mod setup;
mod shell;
mod suite;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask <check | counts | dist | fuzz | nested-cgroups | nested-checkpoint | nested-kvm | nested-labels | nested-machine | nested-resctrl | nested-wall | setup | test>
  check           arrows between layers, file sizes, documented unsafe code and dependencies
  counts          system calls and pages of a container's start against their limits (after `dist`); needs root
  dist            build atoll, atoll-runtime and containerd-shim-atoll-v2 into target/atoll/bin
  fuzz TARGET [SECONDS]
                  run a target of fuzz/ (devices, kernels, states) by coverage, for a minute
  nested-cgroups  run atoll-runtime's tests of cgroup v2 in an emulated machine, under a stock kernel
  nested-checkpoint
                  checkpoint and restore a container with CRIU, in an emulated machine under a stock kernel (after `dist`)
  nested-kvm      run the KVM backend's tests in an emulated machine with SVM, under a stock kernel
  nested-labels   run atoll-runtime's tests of SELinux labels and AppArmor profiles in emulated machines, under a stock kernel
  nested-machine  boot that kernel in atoll-vmm, on KVM, inside the same emulated machine; save and restore it (after `dist`)
  nested-resctrl  run atoll-runtime's tests of shares of caches and bandwidth in atoll-vmm, under a stock kernel
  nested-wall     run containers behind the wall of a machine, on KVM, inside that emulated machine (after `dist`)
  setup           install the Debian packages the tests drive (docker CLI, containerd, …); needs root
  test            setup, dist, every test, then the nested ones; needs root";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if linker::is_linker() {
        return linker::link();
    }
    let mut arguments = std::env::args().skip(1);
    let chore = arguments.next();
    if chore.as_deref() == Some("fuzz") {
        let Some(target) = arguments.next() else {
            bail!("{USAGE}");
        };
        return fuzz::run(&target, arguments.next().as_deref());
    }
    if let Some(extra) = arguments.next() {
        bail!("unexpected argument {extra}\n{USAGE}");
    }
    match chore.as_deref() {
        Some("check") => {
            let mut faults = architecture::faults()?;
            faults.extend(house_rules::faults()?);
            if faults.is_empty() {
                println!("check: every arrow runs downwards and the house rules hold");
                return Ok(());
            }
            bail!("{} fault(s):\n  {}", faults.len(), faults.join("\n  "))
        }
        Some("counts") => counts::check(),
        Some("dist") => dist::build(),
        Some("nested-cgroups") => nested::cgroup_tests(),
        Some("nested-checkpoint") => nested::checkpoint(),
        Some("nested-kvm") => nested::kvm_tests(),
        Some("nested-labels") => nested::label_tests(),
        Some("nested-machine") => nested::boot_machine(),
        Some("nested-resctrl") => nested::share_tests(),
        Some("nested-wall") => nested::wall(),
        Some("setup") => setup::install(),
        Some("test") => suite::run(),
        _ => bail!("{USAGE}"),
    }
}
