//! `compare`: the same image behind each wall that works here.
//!
//! A container for each wall that is told apart (it may have to make what later ones find), then
//! rounds of one container for each wall, so that what else the host does meets all walls alike.

mod host;
mod report;
mod statistics;
mod trial;

use std::cell::RefCell;
use std::fs;
use std::time::Duration;

use atoll_machine::host as machine_host;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::CompareArgs;
use crate::client::{Client, Target};
use crate::doctor::{self, Finding, State};
use crate::error::{self, Error};
use crate::print;
use report::{Measured, Report, Wall};
use trial::{Setting, Trial};

/// How often a container is looked for that may be about to be created, and how long between.
const REMOVAL_ATTEMPTS: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// A wall under comparison.
struct Contender {
    finding: Finding,
    trials: Vec<Trial>,
    made_template: Option<bool>,
    /// Whether a container failed behind it, although the wall had been found to work.
    broke: bool,
}

/// `atoll compare`: 0; 1 when a container failed behind a wall that should work; 128 and its number after a signal.
///
/// # Errors
/// Whatever keeps all walls from being compared. No container is left.
pub(super) async fn compare(client: &Client, args: &CompareArgs) -> Result<u8, Error> {
    let mut signals = Signals::catch()?;
    // The container there is now: one at a time.
    let current = RefCell::new(None::<String>);
    let outcome = tokio::select! {
        outcome = compared(client, args, &current) => outcome,
        code = signals.next() => {
            if let Some(name) = current.take() {
                remove_even_if_late(client, &name).await;
            }
            anstream::eprintln!("interrupted: nothing is left of the comparison");
            return Ok(code);
        }
    };
    let (report, broke) = outcome?;
    if args.json {
        print::line(&serde_json::to_string(&report).unwrap_or_default())?;
    } else {
        print::text(&report.text())?;
    }
    Ok(u8::from(broke))
}

/// Compares, and says whether a container failed.
async fn compared(
    client: &Client,
    args: &CompareArgs,
    current: &RefCell<Option<String>>,
) -> Result<(Report, bool), Error> {
    let command = whole_command(client, args).await?;
    let probe = machine_host::program("atoll-probe")?;
    let setting = Setting {
        client,
        image: &args.image,
        probe: &probe,
        command: &command,
    };
    let mut contenders: Vec<Contender> = doctor::walls()
        .into_iter()
        .map(|finding| Contender {
            finding,
            trials: Vec::new(),
            made_template: None,
            broke: false,
        })
        .collect();
    announce(&contenders, args);
    for round in 0..=args.rounds {
        for contender in &mut contenders {
            if contender.finding.state == State::Works {
                contender.meet(&setting, round, current).await?;
            }
        }
    }
    let broke = contenders.iter().any(|contender| contender.broke);
    let mut report = Report {
        version: 1,
        image: args.image.clone(),
        command: (!command.is_empty()).then_some(command),
        rounds: args.rounds,
        walls: contenders.into_iter().map(Contender::reported).collect(),
    };
    report.relate();
    Ok((report, broke))
}

/// The command as `run` would execute it: the image's entry point comes first.
async fn whole_command(client: &Client, args: &CompareArgs) -> Result<Vec<String>, Error> {
    let target = Target::object("images", &args.image, "json");
    let action = format!("compare walls by image {}", args.image);
    let image: Value = client.get(&action, &target).await?;
    if args.command.is_empty() {
        return Ok(Vec::new());
    }
    let entry_point = image["Config"]["Entrypoint"].as_array();
    let words = entry_point.into_iter().flatten().filter_map(Value::as_str);
    Ok(words
        .map(str::to_owned)
        .chain(args.command.iter().cloned())
        .collect())
}

/// Says what is going to take time.
fn announce(contenders: &[Contender], args: &CompareArgs) {
    let working = contenders
        .iter()
        .filter(|contender| contender.finding.state == State::Works);
    let names: Vec<&str> = working.map(|contender| contender.finding.name).collect();
    let boots = if names.iter().any(|name| name.starts_with("vm")) {
        "; the first machine of a size boots for some seconds"
    } else {
        ""
    };
    let containers = args.rounds + 1;
    anstream::eprintln!(
        "comparing {}: {containers} containers each{boots}",
        names.join(", ")
    );
}

impl Contender {
    /// Runs one container. What goes wrong with the wall is its own loss; with the command, the
    /// comparison's.
    async fn meet(
        &mut self,
        setting: &Setting<'_>,
        round: u32,
        current: &RefCell<Option<String>>,
    ) -> Result<(), Error> {
        let wall = self.finding.name;
        let name = format!(
            "atoll-compare-{}-{}-{round}",
            std::process::id(),
            wall.replace(':', "-")
        );
        *current.borrow_mut() = Some(name.clone());
        let before = templates();
        let outcome = setting.trial(wall, &name).await;
        if outcome.is_err() {
            // It may never have been there, or be gone already.
            let _ = remove(setting.client, &name).await;
        }
        *current.borrow_mut() = None;
        match outcome {
            Ok(trial) => {
                if round == 0 && wall.starts_with("vm") {
                    self.made_template = Some(templates().iter().any(|one| !before.contains(one)));
                }
                self.trials.push(trial);
                Ok(())
            }
            Err(error @ (Error::Connect { .. } | Error::Http { .. })) => Err(error),
            Err(error @ Error::Inside { .. }) if !setting.command.is_empty() => Err(error),
            Err(error) => {
                self.broke = true;
                let (because, hints) = error::reasons(&error);
                self.finding.fails_with(because, hints.into_iter().next());
                Ok(())
            }
        }
    }

    fn reported(self) -> Wall {
        let measured = self
            .trials
            .split_first()
            .map(|(first, rounds)| Measured::of(first, rounds, self.made_template));
        Wall {
            measured,
            ..Wall::unmeasured(self.finding)
        }
    }
}

/// Names of the templates there are, as far as this process's cache is the engine's.
fn templates() -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(machine_host::cache().join("templates"));
    let names = entries.into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name());
    names
        .filter(|name| !name.as_encoded_bytes().starts_with(b"half-"))
        .collect()
}

async fn remove(client: &Client, name: &str) -> Result<Value, Error> {
    let target = Target::object("containers", name, "")
        .with("force", 1)
        .with("v", 1);
    client.delete("remove container", &target).await
}

/// Removes a container that the engine may only be about to create.
async fn remove_even_if_late(client: &Client, name: &str) {
    for _ in 0..REMOVAL_ATTEMPTS {
        match remove(client, name).await {
            Err(error) if error.status() == Some(404) => {
                tokio::time::sleep(REMOVAL_PAUSE).await;
            }
            Ok(_) => return,
            // Its own end removes it at the same time; look again.
            Err(error) if error.status() == Some(409) => {
                tokio::time::sleep(REMOVAL_PAUSE).await;
            }
            Err(error) => {
                error::report(&error);
                return;
            }
        }
    }
}

/// Signals that end a comparison.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Error> {
        let catch = |kind| signal(kind).map_err(Error::io("catch signals"));
        Ok(Self {
            hangup: catch(SignalKind::hangup())?,
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    /// Waits for one, and gives the exit code it means.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.hangup.recv() => 129,
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}
