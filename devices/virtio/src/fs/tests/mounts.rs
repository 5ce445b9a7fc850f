//! Other mounts in a share.

use super::*;

#[test]
fn directories_of_other_mounts_are_announced() {
    let options = FsOptions {
        read_only: true,
        ..FsOptions::new("root")
    };
    let device = FsDevice::new(open(std::path::Path::new("/")), options).unwrap();
    let mut guest = Guest {
        driver: Driver::start(Box::new(device)),
        folder: tempfile::tempdir().unwrap(),
    };
    let mut flags = |parent: u64, name: &str| {
        let entry = guest
            .ask(opcode::LOOKUP, parent, &named(&[], &[name]), 128)
            .unwrap();
        (le64(&entry, 0), le32(&entry, 124))
    };
    let (proc, announced) = flags(ROOT, "proc");
    assert_eq!(announced, 1);
    assert_eq!(flags(ROOT, "etc").1, 0);
    // Inside, it is the file system's own; and of files, only directories are mounts.
    assert_eq!(flags(proc, "sys").1, 0);
    assert_eq!(flags(proc, "version").1, 0);
}
