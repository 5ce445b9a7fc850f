//! `exec`.

use serde_json::{Value, json};

use crate::arguments::ExecArgs;
use crate::client::{Client, Target};
use crate::detach_keys::DetachKeys;
use crate::error::{self, Error};
use crate::session::{self, Ended, Streams};
use crate::terminal::{self, RawMode};
use crate::values;

/// `atoll exec`.
pub(super) async fn exec(client: &Client, args: &ExecArgs) -> Result<u8, Error> {
    let [container, rest @ ..] = args.words.as_slice() else {
        return Err(Error::value(
            "arguments",
            "",
            "expected a container and a command",
        ));
    };
    let command = match rest {
        [dash, command @ ..] if dash == "--" => command,
        command => command,
    };
    if command.is_empty() {
        return Err(Error::value(
            "command",
            "",
            "expected a command after the container",
        ));
    }
    let has_terminal = args.tty && args.interactive && !args.detach;
    if has_terminal && !terminal::is_input() {
        return Err(Error::NotATerminal);
    }
    let detach_keys = DetachKeys::parse(&args.detach_keys)?;
    let console = terminal::size().filter(|_| args.tty);
    let body = create_body(args, command, console)?;
    let target = Target::object("containers", container, "exec");
    let created = client.post("create exec", &target, Some(&body)).await?;
    let id = created
        .get("Id")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();

    let mut start = json!({ "Detach": args.detach, "Tty": args.tty });
    if let Some((rows, columns)) = console {
        start["ConsoleSize"] = json!([rows, columns]);
    }
    let target = Target::object("exec", &id, "start");
    if args.detach {
        client.post("start exec", &target, Some(&start)).await?;
        return Ok(0);
    }
    let raw = if has_terminal {
        Some(RawMode::enter()?)
    } else {
        None
    };
    let connection = match client.hijack("start exec", &target, Some(&start)).await {
        Ok(connection) => connection,
        Err(error) => {
            drop(raw);
            error::report(&error);
            let code = super::start_failure_code(&error);
            return Ok(if code == 125 { 1 } else { code });
        }
    };
    let _size = if args.tty && console.is_some() {
        Some(session::follow_size(
            client,
            Target::object("exec", &id, "resize"),
        )?)
    } else {
        None
    };
    let streams = Streams {
        stdin: args.interactive,
        is_tty: args.tty,
        detach_keys,
    };
    let ended = session::copy(connection, streams).await;
    drop(raw);
    if ended? == Ended::Detached {
        return Ok(0);
    }
    let state: Value = client
        .get("look at exec", &Target::object("exec", &id, "json"))
        .await?;
    let code = state.get("ExitCode").and_then(Value::as_u64).unwrap_or(125);
    Ok(u8::try_from(code).unwrap_or(125))
}

fn create_body(
    args: &ExecArgs,
    command: &[String],
    console: Option<(u16, u16)>,
) -> Result<Value, Error> {
    let mut env = values::environment_files(&args.env_file)?;
    env.extend(values::environment(&args.env));
    let mut body = json!({
        "AttachStdin": args.interactive && !args.detach,
        "AttachStdout": !args.detach,
        "AttachStderr": !args.detach,
        "Tty": args.tty,
        "Detach": args.detach,
        "Cmd": command,
        "Env": env,
        "Privileged": args.privileged,
    });
    if let Some(user) = &args.user {
        body["User"] = user.as_str().into();
    }
    if let Some(directory) = &args.workdir {
        body["WorkingDir"] = directory.as_str().into();
    }
    if let Some((rows, columns)) = console {
        body["ConsoleSize"] = json!([rows, columns]);
    }
    Ok(body)
}
