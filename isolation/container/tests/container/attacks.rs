//! Published attacks against container runtimes, tried on ours.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use atoll_spec::Mount;
use atoll_sys::process;

use crate::support::{Bundle, exec};

fn bind(destination: &str, source: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some("bind".to_owned()),
        source: Some(source.into()),
        options: vec!["bind".to_owned()],
        ..Mount::default()
    }
}

/// CVE-2021-30465, CVE-2019-16884: mount targets that are symlinks.
#[test]
fn mount_targets_can_not_lead_outside() {
    let mut bundle = Bundle::new();
    let outside = bundle.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink("../../../../../../../..", bundle.rootfs().join("up")).unwrap();
    symlink(&outside, bundle.rootfs().join("absolute")).unwrap();
    fs::create_dir(bundle.path().join("data")).unwrap();
    bundle.spec.mounts.push(bind("/up/one", "data"));
    bundle.spec.mounts.push(bind("/absolute/two", "data"));
    bundle.spec.mounts.push(bind("/../../three", "data"));
    bundle.output_of("ls -d /one /three");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let inside = bundle
        .rootfs()
        .join(outside.strip_prefix("/").unwrap())
        .join("two");
    assert!(inside.is_dir());
    assert!(!fs::exists("/three").unwrap() && !fs::exists("/one").unwrap());
}

/// CVE-2019-19921: /proc replaced by a symlink to files of the image.
#[test]
fn proc_is_never_mounted_through_a_symlink() {
    let mut bundle = Bundle::new();
    fs::remove_dir(bundle.rootfs().join("proc")).unwrap();
    fs::create_dir(bundle.rootfs().join("evil")).unwrap();
    symlink("evil", bundle.rootfs().join("proc")).unwrap();
    bundle.script("true");
    let error = bundle.run().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("mount proc to /proc, which must be mounted on ordinary directory: ELOOP"),
        "{error}"
    );
    bundle.assert_clean();
}

/// CVE-2024-21626: a working directory or program through a leaked descriptor.
#[test]
fn descriptors_of_the_host_are_out_of_reach() {
    let _leak = File::open("/").unwrap();
    for number in 3..20 {
        let mut bundle = Bundle::new();
        bundle.script("true");
        bundle.process().cwd = format!("/proc/self/fd/{number}").into();
        assert!(bundle.run().is_err(), "cwd by descriptor {number}");
        bundle.process().cwd = "/".into();
        bundle.args(&[&format!("/proc/self/fd/{number}/bin/busybox"), "true"]);
        assert!(bundle.run().is_err(), "program by descriptor {number}");
        bundle.assert_clean();
    }
}

/// CVE-2025-31133: /dev/null of the image used to mask.
#[test]
fn masks_are_the_hosts_null_device() {
    let mut bundle = Bundle::new();
    fs::write(bundle.rootfs().join("dev/null"), "evil").unwrap();
    let text = bundle.output_of("cat /proc/keys | wc -c; stat -c %t:%T /proc/keys");
    assert_eq!(text, "0\n1:3\n");
}

/// CVE-2025-52881: writes to /proc/sys redirected by a mount of the configuration.
#[test]
fn kernel_parameters_are_written_to_a_real_procfs() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.path().join("fake")).unwrap();
    fs::write(bundle.path().join("fake/ip_forward"), "untouched").unwrap();
    bundle.spec.mounts.push(bind("/proc/sys/net/ipv4", "fake"));
    bundle
        .linux()
        .sysctl
        .insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
    bundle.script("true");
    let _ = bundle.run();
    assert_eq!(
        fs::read(bundle.path().join("fake/ip_forward")).unwrap(),
        b"untouched"
    );
    bundle.assert_clean();
}

/// A passwd file that would block or fill whoever reads it.
#[test]
fn a_strange_passwd_file_does_no_harm() {
    let mut bundle = Bundle::new();
    let passwd = bundle.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(&passwd)
        .status()
        .unwrap();
    assert!(fifo.success());
    assert_eq!(bundle.output_of("echo $HOME"), "/\n");
    fs::remove_file(&passwd).unwrap();
    symlink("/dev/zero", &passwd).unwrap();
    assert_eq!(bundle.output_of("echo $HOME"), "/\n");
}

/// CVE-2016-9962: a process being joined to a container is opened by those inside.
#[test]
fn a_joining_process_shows_the_container_nothing() {
    let mut bundle = Bundle::new();
    bundle.script("while true; do ls -l /proc/[2-9]*/fd /proc/[2-9]*/exe | grep -E 'deps|host' && touch /seen; done");
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    for _ in 0..50 {
        let outcome = exec(&created.container, bundle.process(), "ls /proc/$$/fd; true").unwrap();
        assert_eq!(outcome.stdout, "0\n1\n2\n");
    }
    assert!(!bundle.rootfs().join("seen").exists());
    created.container.delete(true).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
}
