//! Holds `atoll-runtime run` against what it may cost, in system calls, pages, memory and instructions: none depends on how busy a
//! host is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// What `run` of the default configuration may cost: a tenth above what it took when this was written (209 and 425
/// calls, 239 pages, 3,544 kB; runc 566, 974 and 1,663; crun 560, 423 and 427).
const LIMITS: [(&str, u64); 4] = [
    ("system calls of the runtime", 260),
    ("system calls of the container's first process", 474),
    ("pages touched", 260),
    ("kB of memory at its peak", 3_300),
];

/// Its instructions: a tenth above what libc's preparations make of them on Intel's processors (1.35 million and 0.28; 1.23
/// on AMD's, which are asked for their caches by fewer CPUIDs).
const INSTRUCTIONS: [(&str, u64); 2] = [
    ("instructions of the runtime", 1_480_000),
    ("instructions of the container's first process", 308_000),
];

/// Counts with `bench/counts.c`, three times and the instructions once (a minute where a machine is in another), and fails
/// when the least is above a limit.
pub(crate) fn check() -> Result<()> {
    shell::require_root("counting what a container costs makes one, which")?;
    let work = shell::root().join("target/atoll/counts");
    let counter = work.join("counts");
    bundle(&work)?;
    shell::run(
        shell::command("cc", &["-O2", "-Wall", "-Werror", "-o"])
            .arg(&counter)
            .arg("bench/counts.c"),
    )?;
    let mut least = [u64::MAX; LIMITS.len()];
    for _ in 0..3 {
        let counted = count("calls", &counter, &work)?;
        least = std::array::from_fn(|idx| least[idx].min(counted[idx]));
    }
    let instructions = count("instructions", &counter, &work)?;
    let limited = LIMITS.into_iter().zip(least);
    let mut faults = Vec::new();
    for ((what, limit), count) in limited.chain(INSTRUCTIONS.into_iter().zip(instructions)) {
        println!("counts: {what}: {count}, at most {limit}");
        if count > limit {
            faults.push(what);
        }
    }
    ensure!(
        faults.is_empty(),
        "`atoll-runtime run` costs more than it may: {}\nhint: strace -f shows the calls, \
         valgrind --tool=callgrind the instructions of commands that make no namespace, \
         perf record -e page-faults the pages; bench/symbol-order.py finds anew which functions are to be neighbours; \
         raise LIMITS of xtask/src/counts.rs for what is worth it",
        faults.join(", ")
    );
    Ok(())
}

/// A bundle with the default configuration that runs `/bin/true`.
fn bundle(work: &Path) -> Result<()> {
    let programs = work.join("rootfs/bin");
    fs::create_dir_all(&programs)
        .with_context(|| format!("cannot create {}", programs.display()))?;
    fs::copy("/bin/busybox", programs.join("true"))
        .context("cannot copy busybox\nhint: cargo xtask setup")?;
    let place = work.join("config.json");
    let _ = fs::remove_file(&place);
    shell::run(runtime().arg("spec").current_dir(work))?;
    let text = fs::read_to_string(&place).context("cannot read the configuration")?;
    let text = text
        .replace("\"terminal\": true", "\"terminal\": false")
        .replace("\"sh\"", "\"/bin/true\"");
    fs::write(&place, text).context("cannot write the configuration")
}

/// Own calls or instructions, those of what was made, pages and peak memory of one `run`.
fn count(what: &str, counter: &Path, work: &Path) -> Result<[u64; LIMITS.len()]> {
    let output = Command::new(counter)
        .arg(what)
        .arg(runtime().get_program())
        .args(["--root", "state", "run", "counted"])
        .current_dir(work)
        .output()
        .context("cannot start the counter")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "the counted container failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let numbers: Vec<u64> = text
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers
        .try_into()
        .map_err(|_| anyhow::anyhow!("the counter said {text:?}"))
}

fn runtime() -> Command {
    Command::new(shell::root().join("target/atoll/bin/atoll-runtime"))
}
