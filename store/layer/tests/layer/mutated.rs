//! Archives changed at random: never a panic, never a file outside, nothing left of a bad one.

use std::fs;

use crate::support::{
    Item, Sandbox, archive, directory, entry, file, hard_link, pax_record, symlink,
};
use proptest::prelude::*;
use tar::EntryType;

/// An archive that uses most of the parser.
fn seed() -> Vec<u8> {
    let pax = [
        pax_record("path", b"pax/name"),
        pax_record("SCHILY.xattr.user.a", b"b\nc"),
        pax_record("mtime", b"1700000000.123456789"),
    ]
    .concat();
    let helper = |kind, data| {
        entry(&Item {
            kind,
            path: "././@LongLink",
            link: "",
            data,
        })
    };
    let mut bytes = entry(&directory("d/"));
    bytes.extend(entry(&file("d/a", &[5; 700])));
    bytes.extend(entry(&symlink("l", "d")));
    bytes.extend(entry(&file("l/b", b"through")));
    bytes.extend(entry(&hard_link("h", "d/a")));
    bytes.extend(helper(EntryType::XHeader, &pax));
    bytes.extend(entry(&file("x", b"x")));
    bytes.extend(helper(EntryType::GNULongName, b"long/name\0"));
    bytes.extend(helper(EntryType::GNULongLink, b"../long/target\0"));
    bytes.extend(entry(&symlink("s", "s")));
    bytes.extend(entry(&file("d/.wh.gone", b"")));
    bytes.extend(entry(&file("d/.wh..wh..opq", b"")));
    bytes.extend(archive(&[]));
    bytes
}

#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Cut(usize),
    Swap(usize, usize),
    Text(usize, &'static [u8]),
}

fn change() -> impl Strategy<Value = Change> {
    let texts: [&[u8]; 8] = [
        b"../",
        b"/",
        b"/etc",
        b"..",
        b"\0",
        b"SCHILY.xattr.",
        b"99999999999",
        b".wh.",
    ];
    prop_oneof![
        8 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Change::Set(at.index(usize::MAX), to)),
        1 => any::<prop::sample::Index>().prop_map(|at| Change::Cut(at.index(usize::MAX))),
        3 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Change::Swap(a, b)),
        4 => (any::<usize>(), prop::sample::select(texts.to_vec())).prop_map(|(at, text)| Change::Text(at, text)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let len = bytes.len().max(1);
    let blocks = len / 512;
    match change {
        Change::Set(at, to) => {
            if let Some(byte) = bytes.get_mut(at % len) {
                *byte = *to;
            }
        }
        Change::Cut(at) => bytes.truncate(at % len),
        Change::Swap(a, b) if blocks > 0 => {
            for index in 0..512 {
                bytes.swap(a % blocks * 512 + index, b % blocks * 512 + index);
            }
        }
        Change::Swap(..) => {}
        Change::Text(at, text) => {
            let start = at % len;
            let end = (start + text.len()).min(bytes.len());
            if start < end {
                bytes[start..end].copy_from_slice(&text[..end - start]);
            }
        }
    }
}

/// Makes every block that could be a header a valid one, or the checksum stops all mutants.
fn fix_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutants_never_escape(changes in prop::collection::vec(change(), 1..6), is_fixed in any::<bool>()) {
        let mut bytes = seed();
        for change in &changes {
            apply(&mut bytes, change);
        }
        if is_fixed {
            fix_checksums(&mut bytes);
        }
        let sandbox = Sandbox::new();
        let result = sandbox.unpack(&bytes);
        let dir = sandbox.dir.path();
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        prop_assert_eq!(names, ["layers", "outside", "tmp"]);
        prop_assert_eq!(fs::read_to_string(dir.join("outside")).unwrap(), "untouched");
        prop_assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
        prop_assert_eq!(fs::read_dir(dir.join("layers")).unwrap().count(), usize::from(result.is_ok()));
    }
}

#[test]
fn the_seed_itself_is_right() {
    let sandbox = Sandbox::new();
    let layer = sandbox.unpack(&seed()).unwrap();
    let root = sandbox.root_of(&layer);
    assert!(root.join("d/b").is_file());
    assert!(root.join("pax/name").is_file());
    assert!(root.join("long/name").is_symlink());
}
