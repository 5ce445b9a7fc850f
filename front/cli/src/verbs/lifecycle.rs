//! `stop`, `kill`, `wait`, `rm`.

use futures_util::future::join_all;
use serde_json::Value;

use crate::arguments::{KillArgs, NamesArgs, RmArgs, StopArgs};
use crate::client::{Client, Target};
use crate::error::{self, Error};
use crate::print;

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
pub(super) async fn each(
    names: &[String],
    act: impl AsyncFn(&str) -> Result<Value, Error>,
) -> Result<(), Error> {
    let act = async |name: &String| act(name).await.map(|_| name.clone());
    report_all(join_all(names.iter().map(act)).await)
}

fn report_all(outcomes: Vec<Result<String, Error>>) -> Result<(), Error> {
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
