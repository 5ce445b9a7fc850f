//! `attach`, and `start` with or without attaching.

use serde_json::Value;

use crate::arguments::{AttachArgs, StartArgs};
use crate::client::{Client, Target};
use crate::detach_keys::DetachKeys;
use crate::error::{Error, Message};
use crate::session::{self, Ended, Streams};
use crate::terminal::{self, RawMode};

use super::lifecycle::each;
use super::run::Exit;

/// How to attach to a container that exists.
struct Wish<'a> {
    name: &'a str,
    stdin: bool,
    passes_signals: bool,
    is_to_be_started: bool,
    detach_keys: DetachKeys,
}

/// `atoll attach`.
pub(super) async fn attach(client: &Client, args: &AttachArgs) -> Result<u8, Error> {
    let wish = Wish {
        name: &args.name,
        stdin: !args.no_stdin,
        passes_signals: !args.no_sig_proxy,
        is_to_be_started: false,
        detach_keys: DetachKeys::parse(&args.detach_keys)?,
    };
    connect(client, wish).await
}

/// `atoll start`.
pub(super) async fn start(client: &Client, args: &StartArgs) -> Result<u8, Error> {
    if !(args.attach || args.interactive) {
        each(&args.names, async |name| {
            let target = Target::object("containers", name, "start");
            client
                .post(&format!("start container {name}"), &target, None)
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
    let wish = Wish {
        name,
        stdin: args.interactive,
        passes_signals: true,
        is_to_be_started: true,
        detach_keys: DetachKeys::parse(&args.detach_keys)?,
    };
    connect(client, wish).await
}

async fn connect(client: &Client, wish: Wish<'_>) -> Result<u8, Error> {
    let name = wish.name;
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
    if !wish.is_to_be_started && !flag("/State/Running") {
        let message = Message("it is not running".to_owned());
        let action = format!("attach to container {name}");
        return Err(Error::Api {
            action,
            status: 409,
            message,
        });
    }
    let is_tty = flag("/Config/Tty");
    let stdin = wish.stdin && flag("/Config/OpenStdin");
    let attach = Target::object("containers", name, "attach")
        .with("stream", 1)
        .with("stdout", 1)
        .with("stderr", 1)
        .with_flag("stdin", stdin);
    let connection = client
        .hijack(&format!("attach to container {name}"), &attach, None)
        .await?;
    let exit = Exit::of(client, name, flag("/HostConfig/AutoRemove")).await?;
    let _signals = if wish.passes_signals {
        session::pass_signals(client, name)?
    } else {
        Vec::new()
    };
    let is_raw = is_tty && stdin && terminal::is_input();
    let raw = if is_raw {
        Some(RawMode::enter()?)
    } else {
        None
    };
    if wish.is_to_be_started {
        let target = Target::object("containers", name, "start");
        client
            .post(&format!("start container {name}"), &target, None)
            .await?;
    }
    let _size = if is_tty && terminal::size().is_some() {
        Some(session::follow_size(
            client,
            Target::object("containers", name, "resize"),
        )?)
    } else {
        None
    };
    let streams = Streams {
        stdin,
        is_tty,
        detach_keys: wish.detach_keys,
    };
    let ended = session::copy(connection, streams).await;
    drop(raw);
    if ended? == Ended::Detached {
        Ok(0)
    } else {
        exit.code().await
    }
}
