//! Machines with guests of a few instructions, on the CPU in software.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use atoll_interpreter::Soft;
use atoll_memory::{LOW_LIMIT, PAGE};

use super::*;
use crate::kernel::{KernelStore, tests_elf, tests_elf_with_notes};

const MEMORY: u64 = 32 << 20;

#[derive(Clone, Default)]
pub(super) struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn machine(memory: GuestMemory, output: &Output) -> Machine {
    machine_on(&Soft, memory, output)
}

fn machine_on(backend: &dyn Hypervisor, memory: GuestMemory, output: &Output) -> Machine {
    let config = MachineConfig {
        cpus: 1,
        tsc_khz: None,
        spare_cards: 0,
    };
    Machine::new(
        config,
        backend,
        memory,
        Vec::new(),
        Box::new(output.clone()),
    )
    .unwrap()
}

fn loaded(code: &[u8], output: &Output) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vmlinux");
    fs::write(&path, tests_elf(code)).unwrap();
    let mut kernel = KernelStore::new(folder.path()).open(&path).unwrap();
    let machine = machine(GuestMemory::new(MEMORY).unwrap(), output);
    machine.load(&mut kernel, None, "").unwrap();
    machine
}

pub(super) fn save(machine: &Machine, folder: &Path) {
    machine
        .save(fs::File::open(folder).unwrap().as_fd())
        .unwrap();
}

fn run(code: &[u8]) -> (Result<End, MachineError>, String) {
    let output = Output::default();
    let machine = loaded(code, &output);
    machine.start().unwrap();
    (machine.wait(), output.text())
}

/// `mov dx, 0x3F8`, and for each byte `mov al, …; out dx, al`.
fn say(text: &str) -> Vec<u8> {
    let bytes = text.bytes().flat_map(|byte| [0xB0, byte, 0xEE]);
    [0x66, 0xBA, 0xF8, 0x03].into_iter().chain(bytes).collect()
}

/// `mov dx, 0x600; mov al, 0x34; out dx, al; hlt`.
const POWER_OFF: [u8; 8] = [0x66, 0xBA, 0x00, 0x06, 0xB0, 0x34, 0xEE, 0xF4];
/// `ud2` without an interrupt table: a triple fault.
const TRIPLE_FAULT: [u8; 2] = [0x0F, 0x0B];

#[test]
fn a_guest_speaks_and_powers_off() {
    let (end, text) = run(&[say("hi\n"), POWER_OFF.to_vec()].concat());
    assert_eq!((end.unwrap(), &text[..]), (End::PowerOff, "hi\n"));
}

#[test]
fn a_kernel_with_a_pvh_note_is_entered_in_protected_mode() {
    // `dec eax` in 32 bits, a prefix in 64; then EBX must point to the start info.
    let check = [0x48, 0x81, 0x3B, 0x78, 0xC5, 0x6E, 0x33, 0x75, 0xFE];
    let code = [
        &check[..],
        &[0x85, 0xC0, 0x74, 0xFE],
        &say("pvh\n"),
        &POWER_OFF,
    ]
    .concat();
    let entry = (&b"Xen\0"[..], 18, &[0, 0, 0, 1][..]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    fs::write(&path, tests_elf_with_notes(&code, &[entry])).unwrap();
    for backend in device_tests::backends() {
        let mut kernel = KernelStore::new(folder.path()).open(&path).unwrap();
        let output = Output::default();
        let memory = GuestMemory::new(MEMORY).unwrap();
        let machine = machine_on(&*backend, memory, &output);
        machine.load(&mut kernel, Some(b"disk"), "words").unwrap();
        machine.start().unwrap();
        let name = backend.name();
        assert_eq!(machine.wait().unwrap(), End::PowerOff, "{name}");
        assert_eq!(output.text(), "pvh\n", "{name}");
    }
}

#[test]
fn a_triple_fault_is_a_reset_unless_the_kernel_panicked() {
    assert_eq!(run(&TRIPLE_FAULT).0.unwrap(), End::Reset);
    let panic = say("[1.0] before\n[1.1] Kernel panic - not syncing: x\n");
    let (end, _) = run(&[panic, TRIPLE_FAULT.to_vec()].concat());
    let Err(MachineError::Dead { reason, console }) = end else {
        panic!("{end:?}");
    };
    assert_eq!(reason, "Kernel panic - not syncing: x");
    assert_eq!(console[0], "[1.0] before");
}

#[test]
fn a_guest_that_halts_for_ever_is_dead() {
    let (end, _) = run(&[0xFA, 0xF4]);
    assert!(matches!(end, Err(MachineError::Dead { reason, .. }) if reason.contains("halted")));
}

#[test]
fn a_machine_is_stopped_and_dropped_in_the_middle_of_an_endless_loop() {
    let output = Output::default();
    let machine = loaded(&[&say("a")[..], &[0xEB, 0xFE]].concat(), &output);
    machine.start().unwrap();
    while output.text().is_empty() {
        thread::yield_now();
    }
    assert!(machine.pause());
    machine.resume();
    machine.stop();
    assert_eq!(machine.wait().unwrap(), End::Stopped);
    assert!(!machine.pause());
    assert!(machine.instructions().unwrap() > 0);
}

/// Says `a`, waits for input, echoes a byte, powers off.
fn echo() -> Vec<u8> {
    let wait = [0x66, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x01, 0x74, 0xFB];
    let copy = [0x66, 0xBA, 0xF8, 0x03, 0xEC, 0xEE];
    [&say("a")[..], &wait, &copy, &POWER_OFF].concat()
}

#[test]
fn a_saved_machine_goes_on_elsewhere_and_its_file_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::default();
    let first = loaded(&echo(), &output);
    first.start().unwrap();
    while output.text().is_empty() {
        thread::yield_now();
    }
    assert!(first.pause());
    save(&first, folder.path());
    let saved = fs::read(folder.path().join("memory")).unwrap();
    drop(first);
    for key in ["x", "y"] {
        let (snapshot, memory) = Snapshot::open(folder.path()).unwrap();
        let output = Output::default();
        let second = machine(memory, &output);
        second.restore(&snapshot).unwrap();
        second.start().unwrap();
        second.input(key.as_bytes());
        assert_eq!(second.wait().unwrap(), End::PowerOff);
        assert_eq!(output.text(), key);
    }
    assert!(saved == fs::read(folder.path().join("memory")).unwrap());
}

#[test]
fn a_snapshot_of_another_version_or_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let machine = loaded(&echo(), &Output::default());
    save(&machine, folder.path());
    let state = folder.path().join("state.json");
    let text = fs::read_to_string(&state).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        fs::write(&state, text.replacen(from, to, 1)).unwrap();
        Snapshot::open(folder.path()).unwrap_err().to_string()
    };
    assert!(changed("\"version\":1", "\"version\":2").contains("version 2"));
    assert!(changed("\"memory_bytes\":33554432", "\"memory_bytes\":4096").contains("4096"));
    assert!(changed("{", "[").contains("cannot save or restore"));
    fs::remove_file(&state).unwrap();
    let gone = Snapshot::open(folder.path());
    assert!(matches!(gone, Err(MachineError::Io { .. })));
}

#[test]
fn a_guest_of_another_processor_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let first = loaded(&echo(), &Output::default());
    save(&first, folder.path());
    let (mut snapshot, memory) = Snapshot::open(folder.path()).unwrap();
    let second = machine(memory, &Output::default());
    second.restore(&snapshot).unwrap();
    for leaf in &mut snapshot.processor.0 {
        if leaf.function == 7 && leaf.index == 0 {
            leaf.registers[1] |= 1 << 5;
        }
    }
    let error = second.restore(&snapshot).unwrap_err();
    let reason = error.source().unwrap().to_string();
    assert_eq!(reason, "its processor is another: it has AVX2");
    assert!(error.hint().unwrap().contains("backend"));
    // Earlier programs did not write it.
    snapshot.processor.0.clear();
    second.restore(&snapshot).unwrap();
}

#[test]
fn memory_above_the_hole_for_devices_is_saved_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let memory = GuestMemory::new(LOW_LIMIT + MEMORY).unwrap();
    let places = [PAGE, LOW_LIMIT - 8, LOW_LIMIT, LOW_LIMIT + MEMORY - 8];
    for (value, place) in (1u64..).zip(places) {
        memory.ram().store(place, value);
    }
    save(&machine(memory, &Output::default()), folder.path());
    let (_, memory) = Snapshot::open(folder.path()).unwrap();
    for (value, place) in (1u64..).zip(places) {
        assert_eq!(memory.ram().load::<u64>(place), value);
    }
    let file = fs::metadata(folder.path().join("memory")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&file) < 2048);
}

#[test]
fn more_devices_than_pins_are_refused() {
    let devices = (0..=MAX_DEVICES).map(|_| Box::new(atoll_virtio::RngDevice::new()) as _);
    let config = MachineConfig {
        cpus: 1,
        tsc_khz: None,
        spare_cards: 0,
    };
    let memory = GuestMemory::new(MEMORY).unwrap();
    let output = Box::new(io::sink());
    let made = Machine::new(config, &Soft, memory, devices.collect(), output);
    assert!(matches!(
        made,
        Err(MachineError::TooManyDevices {
            count: 20,
            limit: 19
        })
    ));
}
