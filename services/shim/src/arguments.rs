//! The command line containerd uses: Go's flags with one dash, then a command.

use std::path::PathBuf;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Starts a server and prints its address.
    Start,
    /// Removes what a dead shim left.
    Delete,
    /// Serves.
    Serve,
    /// Serves a command line, with one machine.
    Keep,
}

/// Flags and command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) command: Command,
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// Where containerd listens (gRPC).
    pub(crate) address: String,
    /// The working directory when absent.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) prints_version: bool,
}

/// Reads the command line without the program's name.
///
/// # Errors
/// One line for the user.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        command: Command::Serve,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        bundle: None,
        prints_version: false,
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-') else {
            arguments.command = match word.as_str() {
                "start" => Command::Start,
                "delete" => Command::Delete,
                "keep" => Command::Keep,
                other => return Err(format!("unknown command `{other}`")),
            };
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || {
            value
                .clone()
                .or_else(|| words.next())
                .ok_or_else(|| format!("flag `-{name}` needs a value"))
        };
        match name {
            "namespace" => arguments.namespace = value()?,
            "id" => arguments.id = value()?,
            "address" => arguments.address = value()?,
            "bundle" => arguments.bundle = Some(value()?.into()),
            "publish-binary" | "socket" => drop(value()?),
            "debug" | "info" => {}
            "v" | "version" => arguments.prints_version = true,
            _ => return Err(format!("unknown flag `-{name}`")),
        }
    }
    if arguments.id.is_empty() && !arguments.prints_version {
        return Err("flag `-id` is missing".into());
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn containerds_command_lines() {
        let parsed = parse(words(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd \
             -id web -debug start",
        ))
        .unwrap();
        assert_eq!(parsed.command, Command::Start);
        assert_eq!(
            (parsed.namespace.as_str(), parsed.id.as_str()),
            ("default", "web")
        );
        let parsed = parse(words("--id=a -bundle /b delete")).unwrap();
        assert_eq!(parsed.command, Command::Delete);
        assert_eq!(parsed.bundle, Some("/b".into()));
        assert_eq!(parse(words("-id a")).unwrap().command, Command::Serve);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse(words("start")).unwrap_err(), "flag `-id` is missing");
        assert_eq!(
            parse(words("-id a stop")).unwrap_err(),
            "unknown command `stop`"
        );
        assert_eq!(parse(words("-id")).unwrap_err(), "flag `-id` needs a value");
        assert_eq!(parse(words("-x")).unwrap_err(), "unknown flag `-x`");
    }
}
