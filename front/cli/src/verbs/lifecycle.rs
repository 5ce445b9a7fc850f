//! `start`, `stop`, `kill`, `wait`, `rm`.

use futures_util::future::join_all;
use serde_json::Value;

use crate::arguments::{KillArgs, NamesArgs, RmArgs, StartArgs, StopArgs};
use crate::client::{Client, Target};
use crate::detach_keys::DetachKeys;
use crate::error::{self, Error};
use crate::print;
use crate::session::{self, Ended, Streams};
use crate::terminal::{self, RawMode};

use super::run::Exit;

/// `atoll start`.
pub(super) async fn start(client: &Client, args: &StartArgs) -> Result<u8, Error> {
    if !(args.attach || args.interactive) {
        let target = |name: &str| Target::object("containers", name, "start");
        each(&args.names, async |name| {
            client
                .post(&format!("start container {name}"), &target(name), None)
                .await
        })
        .await?;
        return Ok(0);
    }
    let [name] = args.names.as_slice() else {
        let names = args.names.join(" ");
        return Err(Error::value(
            "containers",
            &names,
            "only one can be attached to",
        ));
    };
    start_attached(client, name, args).await
}

async fn start_attached(client: &Client, name: &str, args: &StartArgs) -> Result<u8, Error> {
    let detach_keys = DetachKeys::parse(&args.detach_keys)?;
    let target = Target::object("containers", name, "json");
    let details: Value = client
        .get(&format!("look at container {name}"), &target)
        .await?;
    let flag = |path: &str| {
        details
            .pointer(path)
            .and_then(Value::as_bool)
            .unwrap_or(false)
    };
    let is_tty = flag("/Config/Tty");
    let stdin = args.interactive && flag("/Config/OpenStdin");
    let attach = Target::object("containers", name, "attach")
        .with("stream", 1)
        .with("stdout", 1)
        .with("stderr", 1)
        .with_flag("stdin", stdin);
    let connection = client
        .hijack("attach to the container", &attach, None)
        .await?;
    let exit = Exit::of(client, name, flag("/HostConfig/AutoRemove")).await?;
    let _signals = session::pass_signals(client, name)?;
    let is_raw = is_tty && stdin && terminal::is_input();
    let raw = if is_raw {
        Some(RawMode::enter()?)
    } else {
        None
    };
    let target = Target::object("containers", name, "start");
    client
        .post(&format!("start container {name}"), &target, None)
        .await?;
    let _size = if is_tty && terminal::size().is_some() {
        Some(session::follow_size(
            client,
            Target::object("containers", name, "resize"),
        )?)
    } else {
        None
    };
    let ended = session::copy(
        connection,
        Streams {
            stdin,
            is_tty,
            detach_keys,
        },
    )
    .await;
    drop(raw);
    if ended? == Ended::Detached {
        Ok(0)
    } else {
        exit.code().await
    }
}

/// `atoll stop`.
pub(super) async fn stop(client: &Client, args: &StopArgs) -> Result<(), Error> {
    each(&args.names, async |name| {
        let target = Target::object("containers", name, "stop")
            .with_some("t", args.timeout)
            .with_some("signal", args.signal.as_ref());
        client
            .post(&format!("stop container {name}"), &target, None)
            .await
    })
    .await
}

/// `atoll kill`.
pub(super) async fn kill(client: &Client, args: &KillArgs) -> Result<(), Error> {
    let signal = args.signal.as_deref().unwrap_or("KILL");
    each(&args.names, async |name| {
        let target = Target::object("containers", name, "kill").with("signal", signal);
        client
            .post(&format!("kill container {name}"), &target, None)
            .await
    })
    .await
}

/// `atoll rm`.
pub(super) async fn rm(client: &Client, args: &RmArgs) -> Result<(), Error> {
    each(&args.names, async |name| {
        let target = Target::object("containers", name, "")
            .with_flag("force", args.force)
            .with_flag("v", args.volumes);
        client
            .delete(&format!("remove container {name}"), &target)
            .await
    })
    .await
}

/// `atoll wait`.
pub(super) async fn wait(client: &Client, args: &NamesArgs) -> Result<(), Error> {
    let wait = async |name: &String| {
        let target = Target::object("containers", name, "wait");
        let answer = client
            .post(&format!("wait for container {name}"), &target, None)
            .await?;
        Ok(answer
            .get("StatusCode")
            .and_then(Value::as_i64)
            .unwrap_or(-1)
            .to_string())
    };
    report_all(join_all(args.names.iter().map(wait)).await)
}

/// Does the same to all names at once; prints those it worked for, in order, and reports the rest.
async fn each(
    names: &[String],
    act: impl AsyncFn(&str) -> Result<Value, Error>,
) -> Result<(), Error> {
    let act = async |name: &String| act(name).await.map(|_| name.clone());
    report_all(join_all(names.iter().map(act)).await)
}

pub(super) fn report_all(outcomes: Vec<Result<String, Error>>) -> Result<(), Error> {
    let mut is_whole = true;
    for outcome in outcomes {
        match outcome {
            Ok(line) => print::line(&line)?,
            Err(error) => {
                error::report(&error);
                is_whole = false;
            }
        }
    }
    if is_whole {
        Ok(())
    } else {
        Err(Error::Partial)
    }
}
