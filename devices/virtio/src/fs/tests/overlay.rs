//! What an overlay in the guest needs of its upper directory.

use rustix::fs::{RenameFlags, XattrFlags};

use super::*;

fn upper() -> Guest {
    Guest::with(FsOptions {
        overlay_upper: true,
        ..FsOptions::new("upper")
    })
}

impl Guest {
    fn set(&mut self, node: u64, name: &str, value: &[u8]) -> Result<(), Errno> {
        let mut body = named(&[pair(value.len() as u32, 0)], &[name]);
        body.extend(value);
        self.ask(opcode::SETXATTR, node, &body, 1).map(|_| ())
    }

    fn get(&mut self, node: u64, name: &str) -> Result<Vec<u8>, Errno> {
        self.ask(opcode::GETXATTR, node, &named(&[300], &[name]), 300)
    }

    fn attributes(&mut self, node: u64) -> Vec<String> {
        let names = self.ask(opcode::LISTXATTR, node, &args(&[9000]), 9000);
        let names = String::from_utf8(names.unwrap()).unwrap();
        let mut names: Vec<String> = names.split_terminator('\0').map(str::to_owned).collect();
        names.sort();
        names
    }

    fn rename(&mut self, flags: RenameFlags, names: [&str; 2]) -> Result<(), Errno> {
        let body = named(&[ROOT, u64::from(flags.bits())], &names);
        self.ask(opcode::RENAME2, ROOT, &body, 1).map(|_| ())
    }
}

fn on_host(guest: &Guest, file: &str) -> Vec<String> {
    let mut list = vec![0; 9000];
    let len = rustix::fs::llistxattr(guest.path(file), &mut list[..]).unwrap();
    let names = String::from_utf8(list[..len].to_vec()).unwrap();
    let mut names: Vec<String> = names.split_terminator('\0').map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn attributes_of_kernels_have_other_names_on_the_host() {
    let mut guest = upper();
    fs::create_dir(guest.path("d")).unwrap();
    let node = guest.look_up(ROOT, "d").unwrap();
    let names = [
        ("security.capability", "user.atoll.security.capability"),
        (
            "system.posix_acl_access",
            "user.atoll.system.posix_acl_access",
        ),
        ("trusted.atoll", "user.atoll.trusted.atoll"),
        ("trusted.overlay.opaque", "user.overlay.opaque"),
        ("user.colour", "user.colour"),
    ];
    for (name, _) in names {
        guest.set(node, name, name.as_bytes()).unwrap();
    }
    let mut expected = names.map(|(_, host)| host.to_owned());
    expected.sort();
    assert_eq!(on_host(&guest, "d"), expected);
    assert_eq!(guest.attributes(node), names.map(|(name, _)| name));
    for (name, _) in names {
        assert_eq!(guest.get(node, name).unwrap(), name.as_bytes());
        let remove = named(&[], &[name]);
        guest.ask(opcode::REMOVEXATTR, node, &remove, 1).unwrap();
        assert_eq!(guest.get(node, name), Err(Errno::NODATA));
    }
    assert!(on_host(&guest, "d").is_empty());
}

#[test]
fn a_user_of_the_guest_cannot_set_what_only_its_kernel_may() {
    let mut guest = upper();
    let (node, _) = guest.create(ROOT, "f", 0o100_600).unwrap();
    guest
        .set(node, "trusted.overlay.origin", b"kernel")
        .unwrap();
    guest.set(node, "security.capability", b"kernel").unwrap();
    for name in ["user.overlay.origin", "user.atoll.security.capability"] {
        assert_eq!(guest.set(node, name, b"user"), Err(Errno::OPNOTSUPP));
        assert_eq!(guest.get(node, name), Err(Errno::OPNOTSUPP));
        let remove = named(&[], &[name]);
        let removed = guest.ask(opcode::REMOVEXATTR, node, &remove, 1);
        assert_eq!(removed, Err(Errno::OPNOTSUPP));
    }
    assert_eq!(
        guest.get(node, "trusted.overlay.origin").unwrap(),
        b"kernel"
    );
    // Nor does a name of the host's hide or double another.
    let path = guest.path("f");
    for name in [
        "user.atoll.trusted.overlay.origin",
        "user.atoll.user.x",
        "user.atoll.x",
    ] {
        rustix::fs::lsetxattr(&path, name, b"host", XattrFlags::empty()).unwrap();
    }
    let shown = ["security.capability", "trusted.overlay.origin"];
    assert_eq!(guest.attributes(node), shown);
}

#[test]
fn names_that_cannot_be_kept_are_refused() {
    let mut guest = upper();
    let (node, _) = guest.create(ROOT, "f", 0o100_600).unwrap();
    assert_eq!(guest.set(node, "other.name", b"x"), Err(Errno::OPNOTSUPP));
    // One byte more than `user.atoll.` leaves room for.
    let longest = format!("trusted.{}", "n".repeat(255 - 11 - 8));
    guest.set(node, &longest, b"x").unwrap();
    assert_eq!(guest.attributes(node), std::slice::from_ref(&longest));
    assert_eq!(
        guest.set(node, &format!("{longest}n"), b"x"),
        Err(Errno::RANGE)
    );
}

#[test]
fn links_and_devices_have_no_attributes_but_the_share_does() {
    for mut guest in [upper(), Guest::new()] {
        symlink("f", guest.path("link")).unwrap();
        let link = guest.look_up(ROOT, "link").unwrap();
        let mknod = named(&[pair(0o010_600, 0), 0], &["pipe"]);
        let pipe = guest.ask(opcode::MKNOD, ROOT, &mknod, 128).unwrap();
        for node in [link, le64(&pipe, 0)] {
            // As the kernel answers for its own file systems: EOPNOTSUPP would make an overlay do without any.
            assert_eq!(guest.set(node, "user.x", b"x"), Err(Errno::PERM));
            assert_eq!(guest.get(node, "user.x"), Err(Errno::NODATA));
            assert!(guest.attributes(node).is_empty());
        }
    }
}

#[test]
fn whiteouts_are_made_and_no_other_device_is() {
    let mut guest = upper();
    let is_whiteout = |guest: &Guest, name: &str| {
        let meta = fs::symlink_metadata(guest.path(name)).unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    };
    let mknod = |mode: u32, device: u32| named(&[pair(mode, device), 0], &["w"]);
    for (mode, device) in [
        (0o020_000, 1),
        (0o020_000, 0x100),
        (0o060_000, 0),
        (0o060_000, 0x801),
    ] {
        let made = guest.ask(opcode::MKNOD, ROOT, &mknod(mode, device), 128);
        assert_eq!(made, Err(Errno::PERM), "{mode:o} {device:#x}");
    }
    guest
        .ask(opcode::MKNOD, ROOT, &mknod(0o020_000, 0), 128)
        .unwrap();
    assert!(is_whiteout(&guest, "w"));
    // One more name for it, as an overlay gives it for each file that goes.
    let node = guest.look_up(ROOT, "w").unwrap();
    guest
        .ask(opcode::LINK, ROOT, &named(&[node], &["v"]), 128)
        .unwrap();
    assert!(is_whiteout(&guest, "v"));
    assert_eq!(guest.open(node, OFlags::RDONLY), Err(Errno::OPNOTSUPP));

    fs::write(guest.path("f"), "file").unwrap();
    guest.rename(RenameFlags::WHITEOUT, ["f", "g"]).unwrap();
    assert!(is_whiteout(&guest, "f"));
    assert_eq!(fs::read_to_string(guest.path("g")).unwrap(), "file");
    let both = RenameFlags::WHITEOUT | RenameFlags::NOREPLACE;
    assert_eq!(guest.rename(both, ["g", "f"]), Err(Errno::EXIST));
    guest.rename(RenameFlags::EXCHANGE, ["f", "g"]).unwrap();
    assert!(is_whiteout(&guest, "g"));
    let unknown = RenameFlags::from_bits_retain(8);
    assert_eq!(guest.rename(unknown, ["f", "h"]), Err(Errno::INVAL));
    let both = RenameFlags::WHITEOUT | RenameFlags::EXCHANGE;
    assert_eq!(guest.rename(both, ["f", "g"]), Err(Errno::INVAL));
}
