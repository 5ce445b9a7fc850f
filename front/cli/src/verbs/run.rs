//! `run` and `create`.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use atoll_machine::host;
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::arguments::container::{ContainerArgs, RunArgs};
use crate::client::{self, Client, Target};
use crate::container_config::{Surroundings, create_body};
use crate::detach_keys::DetachKeys;
use crate::error::{self, Error};
use crate::session::{self, Ended, Streams};
use crate::terminal::{self, RawMode};
use crate::{print, verbs};

/// Exit code of failures that are not the container's.
const OURS: u8 = 125;
/// How long a container that did not start may take to be removed (`--rm`).
const REMOVAL_DEADLINE: Duration = Duration::from_secs(10);

/// `atoll create`.
pub(super) async fn create(client: &Client, args: &ContainerArgs) -> Result<(), Error> {
    let id = create_container(client, args, true).await?;
    print::line(&id)
}

/// `atoll run`: create; attach and wait before start, so that nothing is missed; start; copy.
pub(super) async fn run(client: &Client, args: &RunArgs) -> Result<u8, Error> {
    match run_or_fail(client, args).await {
        Ok(code) => Ok(code),
        Err(Failed { error, code }) => {
            error::report(&error);
            Ok(code)
        }
    }
}

/// A failure and the exit code it means.
struct Failed {
    error: Error,
    code: u8,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, code: OURS }
    }
}

/// Says why the first machine takes longer, to a person who waits for it.
fn tell_first_machine(args: &ContainerArgs) {
    let isolation = args.isolation.as_deref().unwrap_or_default();
    let is_machine = isolation == "vm" || isolation.starts_with("vm:");
    let has_template = || {
        let folder = std::fs::read_dir(host::cache().join("templates"));
        folder.is_ok_and(|mut entries| entries.next().is_some())
    };
    if is_machine && std::io::stderr().is_terminal() && !has_template() {
        let text = "atoll: the first machine boots, which takes some seconds; later ones are copies of it\n";
        // Nobody left to tell is no reason to fail.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

async fn run_or_fail(client: &Client, args: &RunArgs) -> Result<u8, Failed> {
    let create = &args.create;
    let has_terminal = create.tty && create.interactive && !args.detach;
    if has_terminal && !terminal::is_input() {
        return Err(Error::NotATerminal.into());
    }
    let detach_keys = DetachKeys::parse(&args.detach_keys)?;
    let id = create_container(client, create, !args.detach).await?;
    tell_first_machine(create);
    if args.detach {
        start(client, &id).await?;
        print::line(&id)?;
        return Ok(0);
    }

    let attach = Target::object("containers", &id, "attach")
        .with("stream", 1)
        .with("stdout", 1)
        .with("stderr", 1)
        .with_flag("stdin", create.interactive);
    let connection = client
        .hijack("attach to the container", &attach, None)
        .await?;
    let exit = Exit::of(client, &id, create.rm).await?;
    let _signals = if args.no_sig_proxy {
        Vec::new()
    } else {
        session::pass_signals(client, &id)?
    };
    let raw = if has_terminal {
        Some(RawMode::enter()?)
    } else {
        None
    };
    if let Err(failed) = start(client, &id).await {
        drop(raw);
        if create.rm {
            // The engine removes it; the name is free again when we return.
            let _ = tokio::time::timeout(REMOVAL_DEADLINE, exit.code()).await;
        }
        return Err(failed);
    }
    let _size = if create.tty && terminal::size().is_some() {
        Some(session::follow_size(
            client,
            Target::object("containers", &id, "resize"),
        )?)
    } else {
        None
    };
    let streams = Streams {
        stdin: create.interactive,
        is_tty: create.tty,
        detach_keys,
    };
    let ended = session::copy(connection, streams).await;
    drop(raw);
    match ended {
        Ok(Ended::Detached) => return Ok(0),
        Ok(Ended::Output) => {}
        // Our reader has gone; the container runs on to its end.
        Err(error) if error.is_closed_output() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(exit.code().await?)
}

async fn start(client: &Client, id: &str) -> Result<(), Failed> {
    let target = Target::object("containers", id, "start");
    match client.post("start container", &target, None).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let code = verbs::start_failure_code(&error);
            Err(Failed { error, code })
        }
    }
}

/// Creates the container, fetching its image first when that is missing; gives its id.
async fn create_container(
    client: &Client,
    args: &ContainerArgs,
    is_attached: bool,
) -> Result<String, Error> {
    let directory = std::env::current_dir().map_err(Error::io("find the working directory"))?;
    let console = terminal::size();
    let around = Surroundings {
        is_attached,
        console,
        directory: &directory,
    };
    let body = create_body(args, &around)?;
    if args.pull == "always" {
        fetch(client, args).await?;
    }
    let target = Target::new("/containers/create")
        .with_some("name", args.name.as_ref())
        .with_some("platform", args.platform.as_ref());
    let created = match client.post("create container", &target, Some(&body)).await {
        Err(error) if args.pull == "missing" && is_missing_image(&error) => {
            anstream::eprintln!("image {} is not here: fetching it", args.image());
            fetch(client, args).await?;
            client
                .post("create container", &target, Some(&body))
                .await?
        }
        other => other?,
    };
    let warnings = created.get("Warnings").and_then(Value::as_array);
    for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
        anstream::eprintln!("warning: {warning}");
    }
    let id = created
        .get("Id")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if let Some(path) = &args.cidfile {
        std::fs::write(path, &id).map_err(Error::io(format!("write {}", path.display())))?;
    }
    Ok(id)
}

fn is_missing_image(error: &Error) -> bool {
    error.status() == Some(404)
        && error
            .api_message()
            .is_some_and(|message| message.contains("No such image"))
}

async fn fetch(client: &Client, args: &ContainerArgs) -> Result<(), Error> {
    super::images::fetch(client, args.image(), args.platform.as_deref(), false).await
}

/// The answer to a wait that was asked for before the container started.
pub(super) struct Exit(hyper::Response<hyper::body::Incoming>);

#[derive(Deserialize)]
struct WaitAnswer {
    #[serde(rename = "StatusCode")]
    status_code: i64,
}

impl Exit {
    /// Asks to be told when the container exits next, or is removed.
    pub(super) async fn of(client: &Client, id: &str, is_removed: bool) -> Result<Self, Error> {
        let condition = if is_removed { "removed" } else { "next-exit" };
        let target = Target::object("containers", id, "wait").with("condition", condition);
        let answer = client
            .request(
                "wait for the container",
                Method::POST,
                &target,
                client::empty(),
            )
            .await?;
        Ok(Self(answer))
    }

    /// Waits, and gives the exit code.
    pub(super) async fn code(self) -> Result<u8, Error> {
        let answer: WaitAnswer = client::read_json("wait for the container", self.0).await?;
        // An exit code is one byte; anything else is a failure all the same.
        Ok(u8::try_from(answer.status_code).unwrap_or(OURS))
    }
}
