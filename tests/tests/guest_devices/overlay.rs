//! A root as a container's is: layers as the partitions of one disk, an overlay in the guest whose upper directory is on
//! a share. What the guest does there, the host finds.

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use atoll_machine::{Backend, BootSource, Disk, Jail, Share, Source, VmmConfig};
use atoll_tests::programs;
use rustix::fs::{FileType, Mode, XattrFlags, getxattr, makedev, mknodat, setxattr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::guest;
use super::host::image_of;
use super::jailed::Monitor;

const CHECKS: &[&str] = &[
    "mount-layers",
    "mount-layer",
    "mount-share",
    "mount-overlay",
    "hidden",
    "write",
    "remove",
    "move",
    "replace",
    "links",
    "attributes",
    "nodes",
    "many",
    "anew",
    "list",
    "mounts",
];

const MODULES: &[&str] = &["virtio_mmio", "virtio_blk", "virtiofs", "erofs", "overlay"];

/// CAP_NET_RAW, as `setcap` writes it.
const CAPABILITY: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

fn make_layers(below: &Path, above: &Path) {
    let write = |name: &str, text: &str| {
        let path = below.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("kept/file", "below\n");
    write("kept/a", "a");
    write("kept/b", "b");
    write("kept/inner/deep/file", "x");
    write("gone", "x");
    write("hidden", "x");
    write("opaque/old", "x");
    write("replaced/old", "x");
    write("replaced/inner/old", "x");
    write("moved/one", "1");
    write("moved/inner/two", "2");
    write("capable", "program");
    write("given", "program");
    write("one", "two");
    write("large", &"large ".repeat(300_000));
    for number in 0..30 {
        write(&format!("crowd/old-{number}"), "x");
    }
    symlink("kept/file", below.join("link")).unwrap();
    fs::hard_link(below.join("one"), below.join("two")).unwrap();
    let node = |path: &Path, device| {
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o640));
        mknodat(rustix::fs::CWD, path, kind, mode, device).unwrap();
    };
    node(&below.join("dev-null"), makedev(1, 3));
    let set = |path: &Path, name: &str, value: &[u8]| {
        setxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    for name in ["capable", "given"] {
        set(&below.join(name), "security.capability", &CAPABILITY);
    }
    set(&below.join("kept/file"), "user.note", b"a note");
    fs::create_dir_all(above.join("opaque")).unwrap();
    fs::write(above.join("opaque/new"), "above").unwrap();
    set(&above.join("opaque"), "trusted.overlay.opaque", b"y");
    node(&above.join("hidden"), 0);
}

fn config(folder: &Path, initrd: &Path, layers: &[&Path]) -> VmmConfig {
    let text = r#"{"kernel":"","kernel_store":"","command_line":"","memory_bytes":4096,"cpus":1}"#;
    let share = |name: &str, overlay_upper| Share {
        path: folder.join(name),
        tag: name.to_owned(),
        read_only: false,
        overlay_upper,
        follows_mounts: false,
    };
    VmmConfig {
        backend: Backend::Soft,
        source: Source::Boot(BootSource {
            protocol: None,
            kernel: guest::kernel().kernel,
            kernel_store: guest::store(),
            initrd: Some(initrd.to_owned()),
            command_line: guest::command_line(),
            memory_bytes: 192 << 20,
            cpus: 1,
        }),
        disks: vec![Disk::Layers(
            layers.iter().map(|path| path.into()).collect(),
        )],
        shares: vec![share("upper", true), share("mounts", false)],
        jail: Jail::On,
        ..serde_json::from_str(text).unwrap()
    }
}

/// Starts `program` where the directories of the share `mounts` are file systems, which nobody else sees.
fn among_mounts(program: &Command, folder: &Path) -> Child {
    let script = "for name in one two; do mount -t tmpfs $name $name && echo $name >$name/file; done; exec \"$@\"";
    let mut shell = Command::new("/usr/bin/unshare");
    shell.args(["--mount", "sh", "-ec", script, "sh"]);
    shell.arg(program.get_program()).args(program.get_args());
    shell.current_dir(folder.join("mounts"));
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    shell.spawn().unwrap()
}

/// A mount that is in no mount table, and a path to it.
fn mount(kind: &str, flags: &[&str], options: &[(&str, String)]) -> (OwnedFd, String) {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for flag in flags {
        fsconfig_set_flag(&context, *flag).unwrap();
    }
    for (name, value) in options {
        fsconfig_set_string(&context, *name, value).unwrap();
    }
    let made = fsconfig_create(&context);
    let mut why = [0; 1000];
    if made.is_err() {
        let len = fs::File::from(context.try_clone().unwrap()).read(&mut why);
        panic!(
            "{made:?}: {}",
            String::from_utf8_lossy(&why[..len.unwrap_or(0)])
        );
    }
    let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mount = fsmount(&context, flags, attributes).unwrap();
    // Not /proc/self: other processes look there, too.
    let path = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
    (mount, path)
}

/// What a script says to the programs that the guest has.
fn busybox(folder: &Path, script: &str) -> String {
    let programs = folder.join("bin");
    fs::create_dir(&programs).unwrap();
    let path = programs.to_str().unwrap();
    let run = |arguments: [&str; 3]| {
        let mut command = Command::new("/bin/busybox");
        command.args(arguments).env("PATH", path).env("LC_ALL", "C");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(["--install", "-s", path]);
    run(["sh", "-ec", script])
}

#[test]
fn what_a_guest_does_on_its_layers_is_what_the_host_finds() {
    programs::require_root();
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let at = |name: &str| folder.join(name);
    for name in [
        "below",
        "above",
        "upper/files",
        "upper/work",
        "host-work",
        "mounts/one",
        "mounts/two",
    ] {
        fs::create_dir_all(at(name)).unwrap();
    }
    make_layers(&at("below"), &at("above"));
    let images = ["below", "above"].map(|name| at(name).with_extension("erofs"));
    for image in &images {
        image_of(&image.with_extension(""), image);
    }
    let script = concat!(include_str!("start.sh"), include_str!("overlay.sh"));
    let list = include_str!("list.sh");
    let mut archive = guest::ramdisk(folder, script, MODULES);
    archive.file("list.sh", 0o644, list.as_bytes());
    fs::write(at("initrd"), archive.finish()).unwrap();
    let config = config(folder, &at("initrd"), &[&images[0], &images[1]]);
    let monitor = Monitor::start(&config, folder, |program| among_mounts(program, folder));
    let transcript = monitor.transcript.clone();
    super::converse(&transcript, CHECKS, |name| panic!("nobody does {name}"));
    monitor.ends_well();

    // The layers by an overlay of their own: with `userxattr`, opaque directories of theirs would not be.
    let layers =
        images.map(|image| mount("erofs", &["ro"], &[("source", image.display().to_string())]));
    let lowers = format!("{}:{}", layers[1].1, layers[0].1);
    let (_image, image) = mount("overlay", &[], &[("lowerdir", lowers)]);
    let path = |name: &str| at(name).display().to_string();
    let options = [
        ("lowerdir", image),
        ("upperdir", path("upper/files")),
        ("workdir", path("host-work")),
    ];
    let (_root, root) = mount("overlay", &["userxattr"], &options);
    let listed = busybox(folder, &format!("cd {root}/. && {list}"));
    let seen = fs::read_to_string(at("upper/listing")).unwrap();
    assert!(seen.lines().count() > 60, "{seen}");
    assert_eq!(listed, seen);

    let upper = |name: &str| at("upper/files").join(name);
    let attribute = |name: &str, attribute: &str| {
        let mut value = [0; 100];
        let len = getxattr(upper(name), attribute, &mut value[..]);
        len.map(|len| value[..len].to_vec()).ok()
    };
    for whiteout in ["gone", "moved", "two", "kept/a", "kept/b", "kept/inner"] {
        let meta = fs::symlink_metadata(upper(whiteout)).unwrap();
        assert!(
            meta.file_type().is_char_device() && meta.rdev() == 0,
            "{whiteout}"
        );
    }
    for opaque in ["replaced", "crowd", "elsewhere"] {
        let value = attribute(opaque, "user.overlay.opaque");
        let expected = (opaque != "elsewhere").then(|| b"y".to_vec());
        assert_eq!(value, expected, "{opaque}");
    }
    let capability = "user.atoll.security.capability";
    assert_eq!(attribute("capable", capability).unwrap(), CAPABILITY);
    // A new owner makes it void, as on any Linux.
    assert_eq!(attribute("given", capability), None);
    assert_eq!(attribute("kept/file", "user.note").unwrap(), b"a note");
}
