//! Coverage-guided fuzzing on the stable toolchain: LLVM's counters by compiler flags, libFuzzer by its crate.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::linker::TARGET;
use crate::shell;

/// What cargo-fuzz sets, but for the sanitizers, which need another toolchain.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// How long a target runs when nobody says.
const SECONDS: &str = "60";

/// Builds fuzz target `name` and runs it for `seconds`.
pub(crate) fn run(name: &str, seconds: Option<&str>) -> Result<()> {
    let source = shell::root().join(format!("fuzz/src/bin/{name}.rs"));
    ensure!(
        source.is_file(),
        "there is no target {name}: see fuzz/README.md"
    );
    let seconds = seconds.unwrap_or(SECONDS);
    ensure!(
        seconds.parse::<u32>().is_ok(),
        "{seconds} is no number of seconds"
    );
    let folder = shell::root().join("target/fuzz");
    let corpus = folder.join("corpus").join(name);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let mut build = shell::command("cargo", &["build", "--release", "--target", TARGET]);
    build
        .arg("--manifest-path")
        .arg(shell::root().join("fuzz/Cargo.toml"))
        .args(["--bin", name])
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", FLAGS);
    shell::run(&mut build)?;
    let program = folder.join(TARGET).join("release").join(name);
    let mut run = shell::command(&program.to_string_lossy(), &[]);
    run.arg(format!("-max_total_time={seconds}"))
        .args([
            "-rss_limit_mb=1024",
            "-timeout=20",
            "-max_len=4096",
            "-print_final_stats=1",
        ])
        .arg(format!("-artifact_prefix={}/{name}-", folder.display()))
        .arg(&corpus);
    shell::run(&mut run)
}
