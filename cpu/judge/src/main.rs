//! Runs generated cases on a backend and on the real processor; prints a line per mnemonic, and what differs.
//!
//! Exit code 0 when all agree, 1 when some differ, 2 when nothing could be run.

#![expect(
    clippy::print_stdout,
    reason = "a command-line tool: its report is its output"
)]
#![expect(
    clippy::print_stderr,
    reason = "a command-line tool: errors and progress"
)]

use std::process::ExitCode;
use std::time::Instant;

use atoll_cpu_api::Hypervisor;
use atoll_interpreter::Soft;
use atoll_judge::judge::JudgeError;
use atoll_judge::{Case, Generator, Judge, Tally, text};
use atoll_kvm::Kvm;
use clap::Parser;

/// Judge a CPU backend by the real processor.
#[derive(Parser)]
struct Arguments {
    /// How many cases
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// The same seed gives the same cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only mnemonics that begin with this; several separated by commas
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    /// Take mnemonics only as they are given, not as beginnings
    #[arg(long)]
    exact: bool,
    /// Sequences of several instructions instead of single ones
    #[arg(long)]
    sequences: bool,
    /// The CPU to judge
    #[arg(long, default_value = "soft", value_parser = ["soft", "kvm"])]
    backend: String,
    /// Mismatches shown of each kind
    #[arg(long, default_value_t = 3)]
    show: u64,
    /// Replay a file of cases instead of generating some
    #[arg(long)]
    replay: Option<std::path::PathBuf>,
    /// No line for mnemonics that agree and are supported
    #[arg(long)]
    brief: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(because) = cause {
                eprintln!("  because: {because}");
                cause = because.source();
            }
            ExitCode::from(2)
        }
    }
}

/// Judges as asked; says whether all agree.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let backend: Box<dyn Hypervisor> = match arguments.backend.as_str() {
        "kvm" => Box::new(Kvm::open()?),
        _ => Box::new(Soft),
    };
    let mut judge = Judge::new(&*backend)?;
    let mut tally = Tally::default();
    let start = Instant::now();
    if let Some(path) = &arguments.replay {
        let file = std::fs::read_to_string(path)?;
        let cases = text::parse_file(&file)
            .map_err(|(line, error)| format!("{}:{line}: {error}", path.display()))?;
        judge_batch(&mut judge, cases, arguments.show, &mut tally)?;
    } else {
        generate(&mut judge, arguments, &mut tally)?;
    }
    print_table(&tally, arguments.brief);
    let total = tally.total();
    println!(
        "{} cases in {:.1} s: {} differ, {} unsupported, {} undefined, {:.0} % ran to their end",
        total.cases,
        start.elapsed().as_secs_f64(),
        total.mismatches,
        total.unsupported,
        total.skipped,
        100.0 * total.completed as f64 / total.cases.max(1) as f64
    );
    Ok(total.mismatches == 0)
}

/// Judges generated cases.
fn generate(
    judge: &mut Judge,
    arguments: &Arguments,
    tally: &mut Tally,
) -> Result<(), Box<dyn std::error::Error>> {
    const BATCH: u64 = 1024;
    let filter: Vec<String> = arguments
        .filter
        .iter()
        .map(|one| one.to_lowercase())
        .collect();
    let mut generator = Generator::new(arguments.seed, |code| {
        let name = format!("{:?}", code.mnemonic()).to_lowercase();
        filter.is_empty()
            || filter
                .iter()
                .any(|one| name == *one || !arguments.exact && name.starts_with(one))
    });
    if generator.codes().is_empty() {
        return Err("no instruction of the CPU model has such a mnemonic".into());
    }
    let mut left = arguments.cases;
    while left > 0 {
        let count = left.min(BATCH);
        let cases: Vec<Case> = (0..count)
            .filter_map(|_| {
                if arguments.sequences {
                    generator.sequence(8)
                } else {
                    generator.single()
                }
            })
            .collect();
        judge_batch(judge, cases, arguments.show, tally)?;
        left -= count;
    }
    Ok(())
}

/// Judges `cases` and prints the first that differ, or are unsupported, of each kind.
fn judge_batch(
    judge: &mut Judge,
    cases: Vec<Case>,
    show: u64,
    tally: &mut Tally,
) -> Result<(), JudgeError> {
    for judgement in judge.judge(cases)? {
        let seen = tally.add(&judgement);
        if (1..=show).contains(&seen) {
            println!("## {} ({seen})\n{}\n", judgement.kind(), judgement.report());
        }
    }
    Ok(())
}

fn print_table(tally: &Tally, brief: bool) {
    println!("kinds of mismatch, by mnemonic and what differs");
    for (kind, count) in &tally.kinds {
        println!("{count:>10} {kind}");
    }
    println!(
        "{:<14}{:>10}{:>12}{:>10}{:>13}{:>11}",
        "mnemonic", "cases", "to the end", "differ", "unsupported", "undefined"
    );
    for (name, count) in &tally.counts {
        if brief && count.mismatches + count.unsupported == 0 {
            continue;
        }
        println!(
            "{name:<14}{:>10}{:>12}{:>10}{:>13}{:>11}",
            count.cases, count.completed, count.mismatches, count.unsupported, count.skipped
        );
    }
}
