//! Containers that are made and removed again and again, the runtime killed at any moment, leave nothing.
//!
//! 500 cycles, which take half a minute; `ATOLL_CYCLES=2000` or 20000 makes it the proof of bench/README.md.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use atoll_tests::bundle::Bundle;
use atoll_tests::{leaks, waiting};

/// Cycles at once.
const WORKERS: u32 = 2;
/// One command in so many is killed.
const KILLED: u64 = 3;
/// A command that is killed has run for less than so many microseconds: all take longer.
const LONGEST: u64 = 9_000;

/// Numbers without a pattern. Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (number ^ (number >> 31)) % limit
    }
}

/// Runs a command to its end or kills it before; whether it was killed.
fn maybe_killed(mut command: Command, random: &mut Random) -> bool {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if random.below(KILLED) == 0 {
        std::thread::sleep(Duration::from_micros(random.below(LONGEST)));
        // One that has ended is not reaped yet.
        child.kill().unwrap();
    }
    child.wait().unwrap().signal().is_some()
}

/// One container's life, with commands that may be killed; how many were.
fn cycle(bundle: &Bundle, id: &str, random: &mut Random) -> u32 {
    let mut killed = 0;
    for words in [
        &["create", id][..],
        &["start", id],
        &["exec", id, "true"],
        &["kill", id, "KILL"],
        &["delete", id],
    ] {
        killed += u32::from(maybe_killed(bundle.command(words), random));
    }
    // Whatever there is of it now.
    bundle.runtime(&["delete", "--force", id]).ok();
    killed
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn nothing_is_left_of_containers_whose_runtime_is_killed() {
    let cycles: u32 = std::env::var("ATOLL_CYCLES").map_or(500, |text| text.parse().unwrap());
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    eprintln!("seed {seed}");
    let bundle = Bundle::new(&["true"]);
    let folder = bundle.folder.path().to_string_lossy().into_owned();
    let name = bundle.folder.path().file_name().unwrap();
    let name = name.to_string_lossy().into_owned();
    bundle.change(|spec| {
        // Each its own, below the bundle's: two at once must not share one.
        spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        spec["process"]["args"] = serde_json::json!(["sh", "-c", "sleep 1000; :", &name]);
    });
    let files = || fs::read_dir(bundle.folder.path()).unwrap().count();
    let (files_before, descriptors_before) = (files() + 1, open_descriptors());
    let killed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (bundle, killed, name) = (&bundle, &killed, &name);
            scope.spawn(move || {
                let mut random = Random(u64::from(seed) << 32 | u64::from(worker));
                for number in (0..cycles).filter(|number| number % WORKERS == worker) {
                    let id = format!("{name}-{number}");
                    let count = cycle(bundle, &id, &mut random);
                    killed.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
    });
    let killed = killed.into_inner();
    eprintln!("{cycles} cycles, {killed} commands killed");
    assert!(killed > cycles / 4, "{killed}");
    assert_eq!(bundle.runtime(&["list", "-q"]).ok(), "");
    let state = bundle.folder.path().join("state");
    assert_eq!(fs::read_dir(state).unwrap().count(), 0);
    assert_eq!(
        (files(), open_descriptors()),
        (files_before, descriptors_before)
    );
    // A first process whose maker was killed ends by itself.
    waiting::until("no process is left", || {
        leaks::processes_naming(&folder).is_empty() && leaks::processes_naming(&name).is_empty()
    });
    assert_eq!(
        leaks::cgroups_named(&name),
        Vec::<std::path::PathBuf>::new()
    );
    assert_eq!(
        leaks::mounts_below(bundle.folder.path()),
        Vec::<String>::new()
    );
}
