//! One container behind one wall, from create to removal, with the probe as its first process.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::host::{Memory, Processes};
use crate::client::{Client, Hijacked, Target};
use crate::error::{Error, Message};
use crate::frames::{Frames, Stream};
use crate::verbs::run::Exit;

/// Where the probe is inside.
const INSIDE: &str = "/.atoll-probe";
/// How long the probe may take for what takes it a second.
const PATIENCE: Duration = Duration::from_secs(120);
/// What is kept of the standard error.
const LAST_WORDS_BYTES: usize = 4096;

/// What every trial has in common.
#[derive(Debug)]
pub(super) struct Setting<'a> {
    pub(super) client: &'a Client,
    pub(super) image: &'a str,
    /// `atoll-probe` on the engine's host.
    pub(super) probe: &'a Path,
    /// Program and arguments to time, with the image's entry point; none when it is empty.
    pub(super) command: &'a [String],
}

/// What one container showed.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) start: Start,
    /// From the end of its input to its removal, in seconds.
    pub(super) exit_s: f64,
    /// Release of the kernel it saw.
    pub(super) kernel: String,
    /// Who executes its machine, as the engine says: `soft` or `kvm`; none without a machine.
    pub(super) backend: Option<String>,
    /// What the host saw of it; none when the engine is elsewhere.
    pub(super) seen: Option<Seen>,
    pub(super) costs: Costs,
    pub(super) command: Option<Command>,
}

/// Parts of a start, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Start {
    /// The API's create.
    pub(super) create_s: f64,
    /// The API's start.
    pub(super) start_s: f64,
    /// From start's answer to the first line of output.
    pub(super) output_s: f64,
    /// All three.
    pub(super) total_s: f64,
}

/// What the host saw while it ran.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) memory: Memory,
    pub(super) names: Vec<String>,
    pub(super) confinement: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Greeting {
    kernel: String,
}

/// The probe's answer to `measure`, in nanoseconds.
#[derive(Debug, Deserialize)]
pub(super) struct Costs {
    pub(super) system_call_ns: Option<f64>,
    pub(super) page_fault_ns: Option<f64>,
    pub(super) integer_ns: Option<f64>,
    pub(super) copy_ns: Option<f64>,
}

/// How the user's command ended.
#[derive(Debug, Deserialize)]
pub(super) struct Command {
    pub(super) seconds: f64,
    pub(super) exit_code: i32,
    /// The last line it wrote, output or error.
    #[serde(skip)]
    pub(super) last_words: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ran {
    Ended(Command),
    Failed { error: String },
}

impl Setting<'_> {
    /// Runs the container `name` behind `wall`. It removes itself when its input ends, which it
    /// also does when this process is killed.
    ///
    /// # Errors
    /// Whatever the engine refuses; [`Error::Inside`] when the probe or the command can't run. The
    /// container may be left then.
    pub(super) async fn trial(&self, wall: &str, name: &str) -> Result<Trial, Error> {
        let client = self.client;
        let target = Target::new("/containers/create").with("name", name);
        let began = Instant::now();
        let created = client
            .post("create container", &target, Some(&self.body(wall)))
            .await?;
        let create_s = began.elapsed().as_secs_f64();
        let id = created["Id"].as_str().unwrap_or_default().to_owned();
        let attach = Target::object("containers", &id, "attach")
            .with("stream", 1)
            .with("stdin", 1)
            .with("stdout", 1)
            .with("stderr", 1);
        let connection = client
            .hijack("attach to the container", &attach, None)
            .await?;
        let mut talk = Talk::new(connection);
        let exit = Exit::of(client, &id, true).await?;
        let began = Instant::now();
        let start = Target::object("containers", &id, "start");
        client.post("start container", &start, None).await?;
        let start_s = began.elapsed().as_secs_f64();
        let greeting: Greeting = talk.answer("start the probe").await?;
        let total_s = began.elapsed().as_secs_f64();
        let start = Start {
            create_s,
            start_s,
            output_s: total_s - start_s,
            total_s: create_s + total_s,
        };
        let target = Target::object("containers", &id, "json");
        let inspected: Value = client.get("inspect the container", &target).await?;
        let seen = look(&id, &inspected)?;
        talk.say("measure").await?;
        let costs = talk.answer("measure").await?;
        let command = if self.command.is_empty() {
            None
        } else {
            Some(self.run(&mut talk).await?)
        };
        let began = Instant::now();
        talk.end().await;
        exit.code().await?;
        Ok(Trial {
            start,
            exit_s: began.elapsed().as_secs_f64(),
            kernel: greeting.kernel,
            backend: inspected["Machine"]["Backend"].as_str().map(str::to_owned),
            seen,
            costs,
            command,
        })
    }

    /// The request for a container.
    fn body(&self, wall: &str) -> Value {
        json!({
            "Image": self.image,
            "Entrypoint": [INSIDE],
            "Cmd": self.command,
            "OpenStdin": true, "StdinOnce": true,
            "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
            "HostConfig": {
                "AutoRemove": true,
                "Isolation": wall,
                "Mounts": [{
                    "Type": "bind", "Source": self.probe, "Target": INSIDE, "ReadOnly": true,
                }],
            },
        })
    }

    /// Has the command run, for as long as it likes.
    async fn run(&self, talk: &mut Talk) -> Result<Command, Error> {
        let program = self.command.first().map_or("", String::as_str);
        let action = format!("run {program} in {}", self.image);
        talk.say("run").await?;
        match parsed(&action, &talk.line(&action).await?)? {
            Ran::Ended(mut command) => {
                command.last_words = talk.last_words();
                Ok(command)
            }
            Ran::Failed { error } => Err(inside(&action, &error)),
        }
    }
}

/// What the host sees of a running container.
fn look(id: &str, inspected: &Value) -> Result<Option<Seen>, Error> {
    let pid = inspected["State"]["Pid"].as_u64().unwrap_or(0);
    let Some(processes) = u32::try_from(pid)
        .ok()
        .and_then(|pid| Processes::of(id, pid))
    else {
        return Ok(None);
    };
    Ok(Some(Seen {
        memory: processes.memory()?,
        names: processes.names(),
        confinement: processes.confinement(),
    }))
}

fn inside(action: &str, message: &str) -> Error {
    Error::Inside {
        action: action.to_owned(),
        message: Message(message.to_owned()),
    }
}

fn parsed<T: serde::de::DeserializeOwned>(action: &str, line: &str) -> Result<T, Error> {
    serde_json::from_str(line).map_err(|_| inside(action, &format!("the container said {line:?}")))
}

/// The conversation with the probe.
struct Talk {
    reader: ReadHalf<Hijacked>,
    writer: WriteHalf<Hijacked>,
    frames: Frames,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Talk {
    fn new(connection: Hijacked) -> Self {
        let (reader, writer) = tokio::io::split(connection);
        Self {
            reader,
            writer,
            frames: Frames::new(false),
            output: Vec::new(),
            errors: Vec::new(),
        }
    }

    async fn say(&mut self, word: &str) -> Result<(), Error> {
        let line = format!("{word}\n");
        let written = self.writer.write_all(line.as_bytes()).await;
        written.map_err(Error::io("speak with the container"))
    }

    /// The end of its input.
    async fn end(&mut self) {
        // One that has gone already has no input to end.
        let _ = self.writer.shutdown().await;
    }

    /// The answer to what takes the probe no longer than a second.
    async fn answer<T: serde::de::DeserializeOwned>(&mut self, action: &str) -> Result<T, Error> {
        let line = tokio::time::timeout(PATIENCE, self.line(action)).await;
        let line = line.map_err(|_| {
            let seconds = PATIENCE.as_secs();
            inside(
                action,
                &format!("the probe did not answer within {seconds} s"),
            )
        })??;
        parsed(action, &line)
    }

    /// The next line of output.
    async fn line(&mut self, action: &str) -> Result<String, Error> {
        loop {
            if let Some(end) = self.output.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.output.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.frames.buffer().reserve(16 << 10);
            let length = self.reader.read_buf(self.frames.buffer()).await;
            if length.map_err(Error::io("hear the container"))? == 0 {
                let last = self.last_words();
                let why = if last.is_empty() {
                    "the container ended before it answered".to_owned()
                } else {
                    format!("the container ended before it answered: {last}")
                };
                return Err(inside(action, &why));
            }
            self.sort(action)?;
        }
    }

    /// Takes the frames that have come apart.
    fn sort(&mut self, action: &str) -> Result<(), Error> {
        while let Some((stream, bytes)) = self
            .frames
            .next()
            .map_err(|bad| inside(action, &bad.to_string()))?
        {
            match stream {
                Stream::Out => self.output.extend_from_slice(&bytes),
                Stream::Err => {
                    self.errors.extend_from_slice(&bytes);
                    let excess = self.errors.len().saturating_sub(LAST_WORDS_BYTES);
                    self.errors.drain(..excess);
                }
            }
        }
        Ok(())
    }

    /// The last line of the standard error that says something.
    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.errors);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        last.unwrap_or_default().trim().to_owned()
    }
}
