//! The monitor's process: its configuration and its start.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use atoll_guest::protocol::{PORT, SERVE, SHARE_TAG, UPPER_TAG};
use atoll_machine::{
    BootSource, Disk, Jail, MachineError, NetworkCard, Share, Sockets, Source, VmmConfig, boot,
    host,
};

use super::plan::{Plan, RootSource};
use super::share::{Folders, failed};
use crate::failure::Failure;

/// The guest's context ID; each machine has sockets of its own, so all may have the same.
const CID: u64 = 3;

/// Grace periods of RCU by asking instead of by waiting for ticks of an idle guest: mounts, namespaces and control groups
/// wait for several. It halves the time a container takes to be made.
const EXPEDITED: &str = "rcupdate.rcu_expedited=1";

/// A monitor that was started.
pub(crate) struct Started {
    /// Its process, a child of ours.
    pub(crate) pid: u32,
    /// The guest's serial console.
    pub(crate) console: OwnedFd,
    /// What the monitor has to say.
    pub(crate) errors: OwnedFd,
}

/// Where guests of machines in `folders` connect to.
pub(crate) fn guest_socket(folders: &Folders) -> PathBuf {
    folders.sockets.join(format!("vsock_{PORT}"))
}

/// The monitor's control socket.
pub(crate) fn control_socket(folders: &Folders) -> PathBuf {
    folders.sockets.join("control")
}

/// What the monitor is told.
pub(crate) fn config(plan: &Plan, folders: &Folders) -> Result<VmmConfig, Failure> {
    let (kernel, modules) = host::choose(plan.kernel.as_deref()).map_err(machine_failed)?;
    let initrd = host::kept_initramfs(modules.as_deref()).map_err(machine_failed)?;
    Ok(VmmConfig {
        backend: plan.backend,
        source: Source::Boot(BootSource {
            kernel,
            protocol: None,
            kernel_store: host::store(),
            initrd: Some(initrd),
            command_line: command_line(&plan.parameters),
            memory_bytes: plan.memory_bytes,
            cpus: plan.cpus,
        }),
        disks: match &plan.root {
            RootSource::Share => Vec::new(),
            RootSource::Layers { images, .. } => vec![Disk::Layers(images.clone())],
        },
        networks: plan
            .networks
            .iter()
            .take(1)
            .map(|(tap, network)| NetworkCard {
                tap: tap.clone(),
                namespace: plan.namespace.clone(),
                mac: Some(network.mac),
                mtu: u16::try_from(network.mtu).ok(),
            })
            .collect(),
        spare_cards: match plan.namespace {
            None => super::cards::SPARE,
            // Nobody gives a pod another link.
            Some(_) => 0,
        },
        sockets: Some(Sockets {
            path: folders.sockets.join("vsock"),
            cid: CID,
        }),
        shares: shares(plan, folders),
        balloon_bytes: Some(0),
        console: None,
        control: Some(control_socket(folders)),
        statistics: false,
        jail: Jail::On,
    })
}

fn shares(plan: &Plan, folders: &Folders) -> Vec<Share> {
    let mut shares = vec![Share {
        path: folders.share.clone(),
        tag: SHARE_TAG.to_owned(),
        read_only: false,
        overlay_upper: false,
        follows_mounts: plan.shm_bytes.is_some(),
    }];
    if let RootSource::Layers { upper, .. } = &plan.root {
        shares.push(Share {
            path: upper.clone(),
            tag: UPPER_TAG.to_owned(),
            read_only: false,
            overlay_upper: true,
            follows_mounts: false,
        });
    }
    shares
}

/// Memory for each CPU in units of pages instead of 2 MiB: every mount asks for some, and looks through the unit.
const SMALL_UNITS: &str = "percpu_alloc=page";

/// Nobody asks a guest how long its tasks waited; counting it is 2 % of what a short container executes.
const WITHOUT_PRESSURE: &str = "psi=0";

/// Whoever gets a page fills it; Debian's kernels write zeros into it before, for the case that somebody does not. What
/// could be seen then is the same container's, or its pod's.
const WITHOUT_ZEROING: &str = "init_on_alloc=0";

/// The kernel's own objects are not counted for a control group: the machine's memory is their limit.
const WITHOUT_KERNEL_MEMORY: &str = "cgroup.memory=nokmem";

/// What the kernel is told: `parameters` last, as the last of two wins.
fn command_line(parameters: &[String]) -> String {
    let ours = [
        boot::DEFAULT_COMMAND_LINE,
        boot::WITHOUT_TRACEFS,
        EXPEDITED,
        SMALL_UNITS,
        WITHOUT_PRESSURE,
        WITHOUT_ZEROING,
        WITHOUT_KERNEL_MEMORY,
        "quiet",
    ];
    let words = ours
        .into_iter()
        .chain(parameters.iter().map(String::as_str));
    let words: Vec<_> = words.chain(["--", SERVE]).collect();
    words.join(" ")
}

/// Starts the monitor.
///
/// * `ends_with_us`: the kernel kills it when this process, or the thread that calls, ends.
pub(crate) fn start(
    config: &VmmConfig,
    folders: &Folders,
    ends_with_us: bool,
) -> Result<Started, Failure> {
    let program = host::program("atoll-vmm").map_err(machine_failed)?;
    let path = folders.all.join("config.json");
    let text = serde_json::to_vec(config)
        .map_err(|error| Failure::unknown(format!("cannot write {}: {error}", path.display())))?;
    fs::write(&path, text).map_err(failed(format!("write {}", path.display())))?;
    let mut command = Command::new(&program);
    command.arg("--config").arg(&path);
    if ends_with_us {
        command.args(["--parent", &std::process::id().to_string()]);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(failed(format!("start {}", program.display())))?;
    let (Some(console), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::unknown("the monitor has no streams"));
    };
    let (console, errors) = (OwnedFd::from(console), OwnedFd::from(errors));
    for fd in [&console, &errors] {
        // Only a kernel without fcntl refuses.
        let _ = rustix::io::ioctl_fionbio(fd, true);
    }
    Ok(Started {
        pid: child.id(),
        console,
        errors,
    })
}

/// A machine's error with causes and hint, in one line.
pub(crate) fn machine_failed(error: MachineError) -> Failure {
    let mut message = atoll_sys::with_causes(&error);
    if let Some(hint) = error.hint() {
        message = format!("{message} (hint: {hint})");
    }
    Failure::unknown(message)
}
