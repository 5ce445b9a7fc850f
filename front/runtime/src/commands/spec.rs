//! `spec` and `features`.

use std::fs::File;
use std::io::Write as _;

use atoll_cgroup::{Hierarchies, Layout};
use atoll_spec::{
    CgroupFeatures, Enabled, Features, IntelRdtFeatures, LinuxFeatures, MemoryPolicyFeatures,
    MountExtensions, NamespaceKind, OCI_VERSION, SeccompFeatures,
};

use crate::arguments::SpecArguments;
use crate::commands::print_json;
use crate::report::{Failure, Outcome};

/// The annotation by which runc tells its callers that it has `checkpoint` and `restore`.
const CHECKPOINTS: &str = "org.opencontainers.runc.checkpoint.enabled";

/// Writes an example config.json; never over an existing one.
pub(crate) fn write_example(arguments: &SpecArguments) -> Outcome<()> {
    let path = arguments.bundle.join("config.json");
    let mut example = if arguments.rootless {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        atoll_spec::rootless_example(uid.as_raw(), gid.as_raw())
    } else {
        atoll_spec::example()
    };
    // On cgroup v1 the container's own groups are mounted one by one, so it needs no view of its own.
    let has_v2 = Hierarchies::detect().is_ok_and(|found| found.layout() == Layout::V2);
    if let Some(linux) = example.linux.as_mut().filter(|_| !has_v2) {
        linux
            .namespaces
            .retain(|ns| ns.kind != NamespaceKind::Cgroup);
    }
    let mut text = serde_json::to_string_pretty(&example)
        .map_err(|error| Failure::io("cannot write JSON", &error))?;
    text.push('\n');
    let refused = |error: &std::io::Error| {
        let failure = Failure::io(format!("cannot make {}", path.display()), error);
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return failure.with_hint("remove it first");
        }
        failure
    };
    let mut file = File::create_new(&path).map_err(|error| refused(&error))?;
    file.write_all(text.as_bytes())
        .map_err(|error| refused(&error))
}

/// Prints what this runtime can do.
pub(crate) fn print_features() -> Outcome<()> {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let namespaces = [
        "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
    ];
    let actions = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    ];
    let operators = [
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_LE",
        "SCMP_CMP_LT",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
    ];
    let flag_names = [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    let (modes, flags) = atoll_container::plan::known_memory_policies();
    print_json(&Features {
        oci_version_min: "1.0.0".to_owned(),
        oci_version_max: OCI_VERSION.to_owned(),
        hooks: words(&[
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ]),
        mount_options: atoll_container::plan::known_mount_options(),
        linux: LinuxFeatures {
            namespaces: words(&namespaces),
            capabilities: words(&atoll_sys::capability::NAMES),
            cgroup: CgroupFeatures {
                v1: true,
                v2: true,
                systemd: true,
                systemd_user: true,
                rdma: true,
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdtFeatures {
                enabled: true,
                schemata: true,
                monitoring: true,
            },
            memory_policy: MemoryPolicyFeatures { modes, flags },
            net_devices: Enabled { enabled: true },
            mount_extensions: MountExtensions {
                idmap: Enabled { enabled: true },
            },
            seccomp: SeccompFeatures {
                enabled: true,
                actions: words(&actions),
                operators: words(&operators),
                known_flags: words(&flag_names),
                // All of them are older than the oldest kernel we run on (Linux 5.19 has the last).
                supported_flags: words(&flag_names),
                archs: words(&["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]),
            },
        },
        annotations: [
            (CHECKPOINTS.to_owned(), "true".to_owned()),
            // The specification has no field for the vm object.
            (
                "io.atoll.isolation".to_owned(),
                "process,chroot,system,vm,vm:kvm,vm:soft".to_owned(),
            ),
        ]
        .into(),
        potentially_unsafe_config_annotations: words(&[
            "bundle",
            "io.atoll.isolation",
            "org.criu.config",
        ]),
    })
}
