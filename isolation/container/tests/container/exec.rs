//! Processes run later: where they are put, and what they get.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use atoll_container::{Container, ExecRequest};
use atoll_spec::Process;
use atoll_sys::process;

use crate::support::{Bundle, exec, piped};

fn shown(container: &Container, process: &Process, cgroups: &[&str]) -> Result<String, String> {
    let mut process = process.clone();
    process.args = ["cat", "/proc/self/cgroup"].map(str::to_owned).into();
    let mut request = ExecRequest::new(process);
    request.cgroups = cgroups.iter().map(|&text| text.to_owned()).collect();
    let (stdio, reader) = piped();
    request.stdio = stdio;
    let executed = container.exec(request).map_err(|error| error.to_string())?;
    let (text, _) = reader.read();
    process::wait(executed.pidfd.as_fd()).unwrap();
    Ok(text)
}

#[test]
fn a_process_runs_in_the_folders_named() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "60"]);
    bundle
        .linux()
        .namespaces
        .retain(|ns| ns.kind != atoll_spec::NamespaceKind::Cgroup);
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let cgroup = created.container.cgroup().unwrap();
    for name in ["pids", "memory"] {
        fs::create_dir(cgroup.paths()[name].join("sub")).unwrap();
    }
    let process = bundle.process().clone();
    let show = |cgroups: &[&str]| shown(&created.container, &process, cgroups);
    let id = bundle.id.as_str();
    let text = show(&["pids:sub"]).unwrap();
    let of = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.contains(&format!(":{name}:")));
        line.unwrap().to_owned()
    };
    assert!(of(&text, "pids").ends_with(&format!("/{id}/sub")), "{text}");
    assert!(of(&text, "memory").ends_with(id), "{text}");
    let text = show(&["pids,memory:/sub"]).unwrap();
    assert!(of(&text, "memory").ends_with("/sub"), "{text}");
    for (wrong, reason) in [
        (&["pids:sub", "pids:sub"][..], "a second time"),
        (&["pids:sub", "sub"], "no controller in front"),
        (&["pids:../.."], "bad sub cgroup path"),
        (&[":sub"], "unknown controller"),
        (&["nosuch:sub"], "unknown controller"),
    ] {
        let error = show(wrong).unwrap_err();
        assert!(error.contains(reason), "{wrong:?}: {error}");
    }
    assert!(show(&["pids:absent"]).is_err());
    created.container.delete(true).unwrap();
    bundle.assert_clean();
}

#[test]
fn of_several_values_the_last_counts_and_an_empty_home_is_filled() {
    let mut bundle = Bundle::new();
    bundle.process().env = ["ONE=1", "HOME=", "PATH=/bin", "ONE=2"]
        .map(str::to_owned)
        .into();
    assert_eq!(
        bundle.output_of("env | busybox sort | grep -E 'ONE|HOME'"),
        "HOME=/root\nONE=2\n"
    );
}

#[test]
fn the_runtimes_own_cpus_are_no_limit() {
    let mut bundle = Bundle::new();
    // This thread's, which children are made by.
    let first = atoll_sys::scheduling::NumberSet::parse("0").unwrap();
    atoll_sys::scheduling::set_affinity(&first).unwrap();
    let text = bundle.output_of("grep Cpus_allowed_list /proc/self/status");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let all = own
        .lines()
        .find(|line| line.starts_with("Cpus_allowed_list"));
    assert_eq!(text.trim_end(), all.unwrap());
    assert_ne!(text.trim_end(), "Cpus_allowed_list:\t0");
}

#[test]
fn a_label_is_refused_where_there_is_no_selinux() {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.script("sleep 100");
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let mut process = bundle.spec.process.clone().unwrap();
    process.selinux_label = Some("system_u:system_r:container_t:s0".to_owned());
    let error = exec(&created.container, &process, "true").unwrap_err();
    assert_eq!(
        error.to_string(),
        "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported"
    );
    created.container.delete(true).unwrap();
    bundle.assert_clean();
}
