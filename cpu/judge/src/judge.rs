//! Cases on both sides, and the count of what came of them.

use std::collections::BTreeMap;

use atoll_cpu_api::{CpuError, Hypervisor};
use thiserror::Error;

use crate::case::{Case, End, Outcome};
use crate::compare::{self, Verdict, compare};
use crate::guest::Guest;
use crate::native::{Native, NativeError};
use crate::text;

/// Why no judgement can be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// The real processor could not be asked.
    #[error("cannot ask the real processor")]
    Native(#[from] NativeError),
    /// The backend could not make its machine.
    #[error("cannot make a machine to judge")]
    Backend(#[from] CpuError),
}

/// A case with what came of it on both sides.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The case.
    pub case: Case,
    /// On the real processor.
    pub native: Outcome,
    /// On the backend.
    pub other: Outcome,
    /// Whether they agree.
    pub verdict: Verdict,
}

/// The real processor beside a backend.
pub struct Judge {
    native: Native,
    guest: Guest,
}

impl Judge {
    /// Starts both sides.
    ///
    /// # Errors
    /// [`JudgeError`] when one can't be had.
    pub fn new(backend: &dyn Hypervisor) -> Result<Self, JudgeError> {
        Ok(Self {
            native: Native::new()?,
            guest: Guest::new(backend)?,
        })
    }

    /// Executes `cases` on both sides; gives the judgements in order.
    ///
    /// # Errors
    /// [`NativeError`] when the real processor could not be asked.
    pub fn judge(&mut self, cases: Vec<Case>) -> Result<Vec<Judgement>, JudgeError> {
        let native = self.native.run(&cases)?;
        let pairs = cases.into_iter().zip(native);
        Ok(pairs.map(|(case, native)| self.one(case, native)).collect())
    }

    fn one(&mut self, case: Case, native: Outcome) -> Judgement {
        if native.end == End::Endless {
            return Judgement {
                case,
                other: native.clone(),
                native,
                verdict: Verdict::Skipped,
            };
        }
        let mut other = self.guest.run(&case);
        if other.end == End::Endless {
            // The watchdog may have come between the end of one case and the start of the next.
            other = self.guest.run(&case);
        }
        let verdict = compare(&case, &native, &other);
        Judgement {
            case,
            native,
            other,
            verdict,
        }
    }
}

impl Judgement {
    /// The name of what is judged: the first instruction's mnemonic.
    pub fn name(&self) -> String {
        match compare::instructions(&self.case).first() {
            Some(one) => format!("{:?}", one.mnemonic()).to_lowercase(),
            None => "nothing".to_owned(),
        }
    }

    /// What kind of mismatch this is, for counting: the mnemonic and what differs, or why it is unsupported.
    pub fn kind(&self) -> String {
        let mut what: Vec<&str> = match &self.verdict {
            Verdict::Same => vec!["same"],
            Verdict::Skipped => vec!["skipped"],
            Verdict::Unsupported(_) => vec!["unsupported"],
            Verdict::Different(found) => found
                .iter()
                .map(
                    |one| match one.what.trim_end_matches(|c: char| c.is_ascii_digit()) {
                        what if what.starts_with("0x") => "memory",
                        "r" => "register",
                        name if name.starts_with('r') && name.len() == 3 => match name {
                            "rip" => "rip",
                            _ => "register",
                        },
                        name => name,
                    },
                )
                .collect(),
        };
        what.sort_unstable();
        what.dedup();
        format!("{} {}", self.name(), what.join("+"))
    }

    /// All there is to know about a case that differs: assembly, the case's line for `cases/`, what differs.
    pub fn report(&self) -> String {
        let mut lines = text::assembly(&self.case);
        lines.push(text::print(&self.case));
        match &self.verdict {
            Verdict::Different(found) => {
                let shown = found.iter().take(12);
                lines.extend(shown.map(|one| {
                    format!("  {}: native {}, here {}", one.what, one.native, one.other)
                }));
                if found.len() > 12 {
                    lines.push(format!("  and {} more", found.len() - 12));
                }
            }
            verdict => lines.push(format!("  {verdict:?}")),
        }
        lines.join("\n")
    }
}

/// Counts for one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Cases executed.
    pub cases: u64,
    /// Those that ran to their end on the real processor.
    pub completed: u64,
    /// Those that differ.
    pub mismatches: u64,
    /// Those that the backend does not claim to execute.
    pub unsupported: u64,
    /// Those about which nothing can be said.
    pub skipped: u64,
}

/// What came of many cases, by name.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Per name.
    pub counts: BTreeMap<String, Count>,
    /// Mismatches and unsupported cases, per kind.
    pub kinds: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds one judgement; gives how many of its kind there were, 0 for one that is all right.
    pub fn add(&mut self, judgement: &Judgement) -> u64 {
        let count = self.counts.entry(judgement.name()).or_default();
        count.cases += 1;
        count.completed += u64::from(matches!(
            judgement.native.end,
            End::Exception { vector: 3, .. }
        ));
        match judgement.verdict {
            Verdict::Same => {}
            Verdict::Skipped => count.skipped += 1,
            Verdict::Unsupported(_) => count.unsupported += 1,
            Verdict::Different(_) => count.mismatches += 1,
        }
        if matches!(judgement.verdict, Verdict::Same | Verdict::Skipped) {
            return 0;
        }
        let seen = self.kinds.entry(judgement.kind()).or_default();
        *seen += 1;
        *seen
    }

    /// The sum over all names.
    pub fn total(&self) -> Count {
        self.counts
            .values()
            .fold(Count::default(), |sum, count| Count {
                cases: sum.cases + count.cases,
                completed: sum.completed + count.completed,
                mismatches: sum.mismatches + count.mismatches,
                unsupported: sum.unsupported + count.unsupported,
                skipped: sum.skipped + count.skipped,
            })
    }
}
