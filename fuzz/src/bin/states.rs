//! What is read as JSON: a machine's configuration from the input itself, and a snapshot, a true one with bytes changed
//! as the input says, which is restored and let go for a moment.
#![no_main]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use atoll_interpreter::Soft;
use atoll_machine::{Machine, MachineConfig, Snapshot, VmmConfig};
use atoll_memory::GuestMemory;
use atoll_virtio::{BalloonDevice, RngDevice, VirtioDevice};
use libfuzzer_sys::fuzz_target;

const MEMORY: u64 = 1 << 20;

fn machine() -> Option<Machine> {
    let devices: Vec<Box<dyn VirtioDevice>> =
        vec![Box::new(RngDevice::new()), Box::new(BalloonDevice::new())];
    let config = MachineConfig {
        cpus: 1,
        tsc_khz: Some(1_000_000),
        spare_cards: 0,
    };
    let memory = GuestMemory::new(MEMORY).ok()?;
    Machine::new(config, &Soft, memory, devices, Box::new(std::io::sink())).ok()
}

/// The state of a machine that has not begun.
fn state() -> &'static [u8] {
    static STATE: OnceLock<Vec<u8>> = OnceLock::new();
    STATE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = machine().expect("a machine");
        let open = File::open(folder.path()).expect("the folder");
        machine.save(open.as_fd()).expect("a snapshot");
        std::fs::read(folder.path().join("state.json")).expect("its state")
    })
}

fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<VmmConfig>(bytes);
    let mut text = state().to_vec();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % text.len();
        text[at] = change[2];
    }
    let Ok(snapshot) = serde_json::from_slice::<Snapshot>(&text) else {
        return;
    };
    let Some(machine) = machine() else {
        return;
    };
    if machine.restore(&snapshot).is_ok() && machine.start().is_ok() {
        machine.stop();
    }
});
