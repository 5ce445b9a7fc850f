//! Shares of caches and memory bandwidth, in a made-up tree: no machine of ours has the hardware. What is written there
//! is looked at; what only a kernel does is in `cargo xtask nested-resctrl`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use atoll_container::create;
use atoll_spec::IntelRdt;

use super::support::{Bundle, exec};

/// A group with its files, as the kernel makes them.
fn fill(group: &Path) {
    fs::create_dir_all(group.join("mon_groups")).unwrap();
    fs::write(group.join("schemata"), "    L3:0=fffff;1=fffff\n").unwrap();
    fs::write(group.join("tasks"), "").unwrap();
}

/// A tree with a group, `gold`.
fn tree(bundle: &Bundle) -> PathBuf {
    let root = bundle.path().join("resctrl");
    fs::create_dir_all(root.join("info/L3")).unwrap();
    fs::write(root.join("info/last_cmd_status"), "ok\n").unwrap();
    fill(&root);
    fill(&root.join("gold"));
    root
}

fn bundle(asked: IntelRdt) -> (Bundle, PathBuf) {
    let mut bundle = Bundle::new();
    bundle.script("true");
    bundle.linux().intel_rdt = Some(asked);
    let root = tree(&bundle);
    (bundle, root)
}

fn gold() -> IntelRdt {
    IntelRdt {
        clos_id: Some("gold".to_owned()),
        ..IntelRdt::default()
    }
}

#[test]
fn a_host_without_the_hardware_refuses_a_share_by_name() {
    // Where a host has it, this is not its root.
    let (bundle, _) = bundle(gold());
    if fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(" - resctrl ")
    {
        return;
    }
    assert_eq!(
        bundle.run().unwrap_err().to_string(),
        "linux.intelRdt: intelRdt is specified in config, but Intel RDT is not supported or enabled"
    );
    bundle.assert_clean();
}

#[test]
fn the_first_process_and_later_ones_join_the_group_before_their_program() {
    let (mut bundle, root) = bundle(IntelRdt {
        schemata: vec!["L3:0=f".to_owned()],
        ..gold()
    });
    fs::write(root.join("gold/schemata"), "").unwrap();
    bundle.script("sleep 100");
    let mut request = bundle.request();
    request.resctrl = Some(root.clone());
    let mut created = create(request, &bundle.spec).unwrap();
    assert_eq!(
        fs::read_to_string(root.join("gold/schemata")).unwrap(),
        "L3:0=f\n"
    );
    created.init.start().unwrap();
    // To the kernel 0 is who writes it.
    let tasks = root.join("gold/tasks");
    assert_eq!(fs::read_to_string(&tasks).unwrap(), "0");
    fs::write(&tasks, "").unwrap();
    let process = bundle.spec.process.clone().unwrap();
    exec(&created.container, &process, "true").unwrap();
    assert_eq!(fs::read_to_string(&tasks).unwrap(), "0");
    created
        .container
        .update_share(Some("L3:1=ff"), None)
        .unwrap();
    let share = created.container.share().unwrap().unwrap();
    assert_eq!(share.l3_cache_schema, "L3:1=ff");
    let refused = created.container.update_share(None, Some("MB:0=50"));
    let text = refused.unwrap_err().to_string();
    assert!(
        text.ends_with("memory bandwidth schema is not enabled"),
        "{text}"
    );
    created.container.delete(true).unwrap();
    assert!(tasks.exists(), "a named group stays");
    bundle.assert_clean();
}

#[test]
fn a_container_without_a_share_cannot_change_one() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 100");
    let created = bundle.create().unwrap();
    let text = created
        .container
        .update_share(Some("L3:0=1"), None)
        .unwrap_err()
        .to_string();
    assert!(
        text.ends_with("updating a non-existent Intel RDT configuration is not supported"),
        "{text}"
    );
    assert_eq!(created.container.share().unwrap(), None);
    created.container.delete(true).unwrap();
}

#[test]
fn a_group_made_for_a_container_that_fails_is_removed() {
    // Nobody fills the folder, so the share can't be written, or the process can't join.
    for schemata in [vec!["L3:0=f".to_owned()], Vec::new()] {
        let (bundle, root) = bundle(IntelRdt {
            schemata,
            enable_monitoring: true,
            ..IntelRdt::default()
        });
        let mut request = bundle.request();
        request.resctrl = Some(root.clone());
        let error = create(request, &bundle.spec).unwrap_err();
        assert!(error.to_string().starts_with("cannot "), "{error}");
        assert!(
            !root.join(bundle.id.as_str()).exists(),
            "the group is still there"
        );
        assert!(root.join("gold/tasks").exists());
        bundle.assert_clean();
    }
}

#[test]
fn a_failing_container_leaves_a_group_that_was_there() {
    let (mut bundle, root) = bundle(gold());
    bundle.process().cwd = "/etc/passwd".into();
    let mut request = bundle.request();
    request.resctrl = Some(root.clone());
    create(request, &bundle.spec).unwrap_err();
    assert!(root.join("gold/tasks").exists());
    bundle.assert_clean();
}

#[test]
fn a_process_that_can_not_join_is_told_why() {
    let (bundle, root) = bundle(gold());
    let words = "Can't move task to different control group\n";
    fs::write(root.join("info/last_cmd_status"), words).unwrap();
    // Every write to it fails, as those of a task that the kernel doesn't move.
    fs::remove_file(root.join("gold/tasks")).unwrap();
    std::os::unix::fs::symlink("/dev/full", root.join("gold/tasks")).unwrap();
    let mut request = bundle.request();
    request.resctrl = Some(root.clone());
    let text = create(request, &bundle.spec).unwrap_err().to_string();
    assert!(
        text.starts_with("add the process to the resctrl group "),
        "{text}"
    );
    assert!(
        text.contains("(last_cmd_status: Can't move task to different control group)"),
        "{text}"
    );
    bundle.assert_clean();
}

#[test]
fn other_schemata_than_the_groups_are_refused() {
    let (bundle, root) = bundle(IntelRdt {
        l3_cache_schema: Some("L3:0=1".to_owned()),
        ..gold()
    });
    let mut request = bundle.request();
    request.resctrl = Some(root);
    let error = create(request, &bundle.spec).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has other schemata than the L3:0=1"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("another closID"));
    bundle.assert_clean();
}
