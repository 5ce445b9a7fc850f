//! Layers as the partitions of disks, as the distribution's kernel finds them.

use std::fs;
use std::path::{Path, PathBuf};

use atoll_machine::devices::HostEnds;
use atoll_machine::kernel::Protocol;
use atoll_machine::{Disk, End, VmmConfig};
use atoll_virtio::VirtioDevice;

use super::guest::{self, Shape};
use super::host::image_of;

const CHECKS: &[&str] = &["few", "all", "most", "read-only", "exchange", "other"];

const SHAPE: Shape = Shape {
    cpus: 1,
    bytes: 192 << 20,
    protocol: Protocol::Linux,
};

/// A disk of `count` layers, each with a file that names it.
fn disk(folder: &Path, name: &str, count: usize) -> Disk {
    let layer = folder.join("layer");
    fs::create_dir_all(&layer).unwrap();
    let image = |number: usize| -> PathBuf {
        fs::write(layer.join("name"), format!("{name}-{number}")).unwrap();
        let image = folder.join(format!("{name}-{number}.erofs"));
        image_of(&layer, &image);
        image
    };
    Disk::Layers((1..=count).map(image).collect())
}

fn devices(disks: Vec<Disk>) -> (HostEnds, Vec<Box<dyn VirtioDevice>>) {
    let text = r#"{"kernel":"","kernel_store":"","command_line":"","memory_bytes":4096,"cpus":1}"#;
    let config = VmmConfig {
        disks,
        ..serde_json::from_str(text).unwrap()
    };
    let ends = HostEnds::open(&config).unwrap();
    let devices = ends.devices().unwrap();
    (ends, devices)
}

#[test]
fn as_many_layers_as_an_image_has_are_one_disk() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (few, most) = (disk(at, "few", 40), disk(at, "most", 255));
    let other = disk(at, "other", 17);
    let script = concat!(include_str!("start.sh"), include_str!("layers.sh"));
    let archive = guest::ramdisk(at, script, &["virtio_mmio", "virtio_blk", "erofs"]);
    let (_ends, made) = devices(vec![few, most.clone()]);
    let (machine, transcript) = guest::start(&SHAPE, made, archive);
    let mut machine = Some(machine);
    super::converse(&transcript, CHECKS, |_| {
        let saved = at.join("saved");
        guest::save(machine.take().unwrap(), &saved);
        let (_ends, made) = devices(vec![other.clone(), most.clone()]);
        let restored = guest::restore(&saved, made, &transcript);
        restored.input(b"good\n");
        machine = Some(restored);
    });
    assert_eq!(machine.unwrap().wait().unwrap(), End::PowerOff);
}
