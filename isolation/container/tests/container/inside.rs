//! What a container sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use atoll_spec::{Device, Mount, NamespaceKind, Rlimit};
use atoll_sys::process::Exit;

use crate::support::Bundle;

#[test]
fn a_container_runs_and_leaves_nothing() {
    let mut bundle = Bundle::new();
    let text = bundle.output_of("echo hi; hostname; pwd; echo $HOME $$");
    assert_eq!(text, "hi\natoll\n/\n/root 1\n");
    bundle.assert_clean();
}

#[test]
fn namespaces_are_its_own() {
    let mut bundle = Bundle::new();
    let text =
        bundle.output_of("for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done");
    let inside: Vec<&str> = text.lines().collect();
    assert_eq!(inside.len(), 6);
    for (name, inside) in ["pid", "net", "ipc", "uts", "mnt", "cgroup"]
        .iter()
        .zip(inside)
    {
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(outside.to_str(), Some(inside), "{name}");
    }
}

#[test]
fn it_is_in_every_hierarchy_of_control_groups_and_finds_itself() {
    let mut bundle = Bundle::new();
    bundle
        .linux()
        .namespaces
        .retain(|ns| ns.kind != NamespaceKind::Cgroup);
    let text = bundle.output_of("cat /proc/self/cgroup");
    let id = format!("/{}", bundle.request().id.as_str());
    for line in text.lines() {
        assert!(line.ends_with(&id), "{text}");
        // On cgroup v2, and in the one beside v1, only what is v1 has a folder of its own.
        let names = line.split(':').nth(1).unwrap_or_default();
        let name = names.strip_prefix("name=").unwrap_or(names);
        if !name.is_empty() {
            let tasks = bundle.output_of(&format!("cat /sys/fs/cgroup/{name}/tasks"));
            assert!(!tasks.is_empty(), "{name}");
        }
    }
    if text.contains(":cpuset:") {
        let cpus = bundle.output_of("cat /sys/fs/cgroup/cpuset/cpuset.cpus");
        assert!(!cpus.trim().is_empty());
    }
    bundle.assert_clean();
}

#[test]
fn host_namespaces_are_shared_and_others_joined() {
    let mut bundle = Bundle::new();
    let linux = bundle.linux();
    linux
        .namespaces
        .retain(|ns| ns.kind != NamespaceKind::Network);
    for namespace in &mut linux.namespaces {
        if namespace.kind == NamespaceKind::Pid {
            namespace.path = Some("/proc/self/ns/pid".into());
        }
        if namespace.kind == NamespaceKind::Ipc {
            namespace.path = Some("/proc/self/ns/ipc".into());
        }
    }
    let text = bundle.output_of("for n in net pid ipc; do readlink /proc/self/ns/$n; done");
    for (name, inside) in ["net", "pid", "ipc"].iter().zip(text.lines()) {
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(outside.to_str(), Some(inside), "{name}");
    }
    bundle.assert_clean();
}

#[test]
fn capabilities_are_those_asked_for_and_available() {
    let mut bundle = Bundle::new();
    let capabilities = bundle.process().capabilities.as_mut().unwrap();
    // This machine's root may lack CAP_SYS_RESOURCE: then it is left out and nothing fails.
    for set in [
        &mut capabilities.bounding,
        &mut capabilities.permitted,
        &mut capabilities.effective,
    ] {
        *set = ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_FUTURE"]
            .map(str::to_owned)
            .into();
    }
    let host = atoll_sys::capability::current().unwrap().permitted;
    let expected = host.within(atoll_sys::capability::Set(1 | 1 << 24)).0;
    let text = bundle.output_of("grep -E 'Cap(Eff|Prm|Bnd|Amb)' /proc/self/status");
    let line = |name: &str, bits: u64| format!("{name}:\t{bits:016x}\n");
    let all = ["CapPrm", "CapEff", "CapBnd"]
        .map(|name| line(name, expected))
        .concat();
    assert_eq!(text, all + &line("CapAmb", 0));
}

#[test]
fn user_groups_umask_and_home_are_set() {
    let mut bundle = Bundle::new();
    let user = &mut bundle.process().user;
    user.uid = 33;
    user.gid = 44;
    user.additional_gids = vec![55, 66];
    user.umask = Some(0o077);
    let text = bundle.output_of(
        "id -u; id -g; grep Groups /proc/self/status; umask; echo $HOME; echo x > /dev/stdout",
    );
    assert_eq!(text, "33\n44\nGroups:\t55 66 \n0077\n/home/web\nx\n");
}

#[test]
fn limits_and_no_new_privs_are_set() {
    let mut bundle = Bundle::new();
    bundle.process().rlimits = vec![
        Rlimit {
            kind: "RLIMIT_NOFILE".to_owned(),
            soft: 123,
            hard: 456,
        },
        Rlimit {
            kind: "RLIMIT_CORE".to_owned(),
            soft: 0,
            hard: 0,
        },
    ];
    bundle.process().oom_score_adj = Some(321);
    let text = bundle.output_of(
        "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status",
    );
    assert_eq!(text, "123\n456\n0\n321\nNoNewPrivs:\t1\n");
}

#[test]
fn limits_beyond_the_hosts_are_capped_not_refused() {
    let mut bundle = Bundle::new();
    bundle.process().rlimits = vec![Rlimit {
        kind: "RLIMIT_NPROC".to_owned(),
        soft: u64::MAX,
        hard: u64::MAX,
    }];
    bundle.process().oom_score_adj = Some(-999);
    bundle.script("true");
    assert_eq!(bundle.run().unwrap().exit, Exit::Code(0));
}

#[test]
fn masked_and_read_only_paths_are() {
    let mut bundle = Bundle::new();
    let text = bundle.output_of(
        "ls /proc/acpi /sys/firmware; cat /proc/keys /proc/timer_list | wc -c; \
         (echo 1 > /proc/sys/kernel/panic) 2>&1 | grep -c Read-only",
    );
    assert_eq!(text, "/proc/acpi:\n\n/sys/firmware:\n0\n1\n");
}

#[test]
fn a_read_only_root_is_with_writable_mounts_below() {
    let mut bundle = Bundle::new();
    bundle.spec.root.as_mut().unwrap().readonly = true;
    let text = bundle.output_of("touch /x 2>&1; touch /dev/shm/y && echo ok");
    assert_eq!(text, "touch: /x: Read-only file system\nok\n");
}

#[test]
fn bind_mounts_have_their_options() {
    let mut bundle = Bundle::new();
    let source = bundle.path().join("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    for (destination, source, options) in [
        ("/mnt/rw", "data", &["bind"][..]),
        ("/mnt/ro", "data", &["rbind", "ro", "rprivate", "nosuid"]),
        ("/etc/one", "data/file", &["bind"]),
    ] {
        bundle.spec.mounts.push(Mount {
            destination: destination.into(),
            kind: Some("bind".to_owned()),
            source: Some(source.into()),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Mount::default()
        });
    }
    let text = bundle.output_of(
        "cat /mnt/ro/file /etc/one; echo; echo new > /mnt/rw/new; touch /mnt/ro/no 2>&1; \
         grep -o ' /mnt/ro ro,nosuid' /proc/self/mounts /proc/self/mountinfo",
    );
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "new\n");
    assert!(
        text.starts_with("contentcontent\ntouch: /mnt/ro/no: Read-only file system\n"),
        "{text}"
    );
    assert!(
        text.contains("/proc/self/mountinfo: /mnt/ro ro,nosuid"),
        "{text}"
    );
    bundle.assert_clean();
}

#[test]
fn devices_are_made_and_usable() {
    let mut bundle = Bundle::new();
    bundle.linux().devices.push(Device {
        path: "/dev/extra/mine".into(),
        kind: "c".to_owned(),
        major: 1,
        minor: 5,
        file_mode: Some(0o640),
        uid: Some(7),
        gid: Some(8),
    });
    let text = bundle.output_of(
        "stat -c '%t:%T %a %u:%g' /dev/extra/mine /dev/null /dev/tty; head -c 3 /dev/zero | wc -c; readlink /dev/ptmx",
    );
    assert_eq!(text, "1:5 640 7:8\n1:3 666 0:0\n5:0 666 0:0\n3\npts/ptmx\n");
}

#[test]
fn a_file_in_a_devices_place_is_mounted_over() {
    let mut bundle = Bundle::new();
    bundle
        .spec
        .mounts
        .retain(|mount| !mount.destination.starts_with("/dev"));
    let folder = bundle.rootfs().join("dev");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("null"), "").unwrap();
    let text = bundle.output_of("echo x > /dev/null; stat -c '%t:%T' /dev/null /dev/zero");
    assert_eq!(text, "1:3\n1:5\n");
    assert_eq!(fs::read(folder.join("null")).unwrap(), b"");
    // A link in its place leads nowhere.
    fs::remove_file(folder.join("null")).unwrap();
    std::os::unix::fs::symlink("zero", folder.join("null")).unwrap();
    let error = bundle.create().unwrap_err();
    assert!(
        atoll_sys::with_causes(&error).contains("make device /dev/null"),
        "{error}"
    );
}

#[test]
fn kernel_parameters_are_the_containers_own() {
    let mut bundle = Bundle::new();
    let sysctl = &mut bundle.linux().sysctl;
    sysctl.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
    sysctl.insert("kernel.shmmax".to_owned(), "12345".to_owned());
    let text = bundle.output_of("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax");
    assert_eq!(text, "1\n12345\n");
    assert_ne!(
        fs::read_to_string("/proc/sys/kernel/shmmax").unwrap(),
        "12345\n"
    );
}

#[test]
fn only_streams_and_preserved_descriptors_are_open() {
    let mut bundle = Bundle::new();
    let text = bundle.output_of("ls /proc/$$/fd; true");
    assert_eq!(text, "0\n1\n2\n");
}

#[test]
fn the_seccomp_filter_works_with_and_without_no_new_privs() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new();
        bundle.process().no_new_privileges = no_new_privileges;
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":30}]}"#;
        bundle.linux().seccomp = Some(serde_json::from_str(profile).unwrap());
        let text = bundle.output_of(
            "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status; grep CapEff /proc/self/status",
        );
        let expected = "mkdir: can't create directory '/tmp/x': Read-only file system\nSeccomp:\t2\nCapEff:\t0000000020000420\n";
        assert_eq!(text, expected, "no_new_privileges {no_new_privileges}");
    }
}

#[test]
fn signals_have_their_default_effect() {
    let mut bundle = Bundle::new();
    // Test programs ignore SIGPIPE; a container's must not.
    bundle.args(&["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]);
    let text = bundle.run().unwrap().stdout;
    assert_eq!(
        text,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

#[test]
fn a_user_namespace_maps_ids() {
    let mut bundle = Bundle::new();
    bundle.linux().namespaces.push(atoll_spec::Namespace {
        kind: NamespaceKind::User,
        path: None,
    });
    let map = vec![atoll_spec::IdMapping {
        container_id: 0,
        host_id: 100_000,
        size: 65_536,
    }];
    bundle.linux().uid_mappings.clone_from(&map);
    bundle.linux().gid_mappings = map;
    // The root file system must be reachable for the mapped root.
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let text = bundle.output_of("id -u; head -c 3 /dev/zero | wc -c; cat /proc/self/uid_map");
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "3", "0", "100000", "65536"]);
    bundle.assert_clean();
}

#[test]
fn every_root_propagation_starts_and_leaves_the_hosts_mounts_alone() {
    for (propagation, shown) in [
        ("shared", "shared:"),
        ("rslave", ""),
        ("private", ""),
        ("unbindable", "unbindable"),
    ] {
        let mut bundle = Bundle::new();
        bundle.linux().rootfs_propagation = Some(propagation.to_owned());
        let text =
            bundle.output_of("grep ' / / ' /proc/self/mountinfo || head -1 /proc/self/mountinfo");
        assert!(text.contains(shown), "{propagation}: {text}");
        bundle.assert_clean();
    }
}

#[test]
fn the_root_can_be_moved_instead_of_pivoted() {
    let mut bundle = Bundle::new();
    bundle.script("ls -d /bin /work 2>&1");
    let mut request = bundle.request();
    request.no_pivot = true;
    let outcome = bundle.run_request(request).unwrap();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(
        lines.contains(&"/bin") && !lines.contains(&"/work"),
        "{outcome:?}"
    );
    bundle.assert_clean();
}

#[test]
fn an_apparmor_profile_that_can_not_be_entered_is_refused() {
    let mut bundle = Bundle::new();
    bundle.script("true");
    bundle.process().apparmor_profile = Some("atoll-no-such-profile".to_owned());
    let error = bundle.run().unwrap_err();
    let has_apparmor = std::path::Path::new("/sys/module/apparmor").exists();
    let words = match has_apparmor {
        true => "set the AppArmor profile",
        false => "apparmor: config provided but apparmor not supported",
    };
    assert!(error.to_string().contains(words), "{error}");
    bundle.assert_clean();
    bundle.process().apparmor_profile = Some("unconfined".to_owned());
    bundle.run().unwrap();
    bundle.assert_clean();
}
