//! `import --change`: Dockerfile instructions applied to a configuration.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{ImageError, config::RunConfig};

/// Applies one instruction, such as `CMD ["sh"]` or `ENV A=b`.
pub(crate) fn apply(config: &mut RunConfig, change: &str) -> Result<(), ImageError> {
    let invalid = |reason: String| ImageError::Change {
        change: change.to_owned(),
        reason,
    };
    let text = change.trim();
    let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let keyword = keyword.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(invalid(format!("{keyword} requires at least one argument")));
    }
    match keyword.as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "USER" => rest.clone_into(&mut config.user),
        "WORKDIR" => config.working_dir = work_dir(&config.working_dir, rest),
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        "ONBUILD" => config
            .on_build
            .get_or_insert_default()
            .push(rest.to_owned()),
        "ENV" => {
            for (key, value) in pairs(rest).map_err(invalid)? {
                set_env(config.env.get_or_insert_default(), &key, &value);
            }
        }
        "LABEL" => config
            .labels
            .get_or_insert_default()
            .extend(pairs(rest).map_err(invalid)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let port =
                    exposed_port(port).ok_or_else(|| invalid(format!("invalid port `{port}`")))?;
                insert_key(&mut config.exposed_ports, port);
            }
        }
        "VOLUME" => {
            let paths = json_words(rest)
                .unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            for path in paths {
                insert_key(&mut config.volumes, path);
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest).map_err(invalid)?),
        _ => return Err(invalid(format!("{keyword} is not a valid change command"))),
    }
    Ok(())
}

fn insert_key(map: &mut Option<BTreeMap<String, Value>>, key: String) {
    map.get_or_insert_default().insert(key, json!({}));
}

/// The exec form, or the shell form given to `/bin/sh -c`.
fn command(text: &str) -> Vec<String> {
    json_words(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

fn json_words(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') {
        serde_json::from_str(text).ok()
    } else {
        None
    }
}

fn work_dir(current: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", current.trim_end_matches('/'))
}

fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    match env
        .iter_mut()
        .find(|old| old.split('=').next() == Some(key))
    {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

fn exposed_port(text: &str) -> Option<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let is_right = match ports.split_once('-') {
        Some((first, last)) => is_port(first) && is_port(last),
        None => is_port(ports),
    };
    let protocol = protocol.to_ascii_lowercase();
    let is_known = matches!(protocol.as_str(), "tcp" | "udp" | "sctp");
    (is_right && is_known).then(|| format!("{ports}/{protocol}"))
}

/// `a=b "c=d e" f="g h"`, or the old form `key the rest is the value`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or("must have two arguments")?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err("a name is blank".to_owned()),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(format!("can't find = in `{word}`")),
        })
        .collect()
}

/// Splits at spaces, minding quotes and backslashes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                word.get_or_insert_default().extend(letters.next());
            }
            (_, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => word.get_or_insert_default().push(letter),
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (_, None) if letter.is_whitespace() => words.extend(word.take()),
            (_, None) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

fn healthcheck(text: &str) -> Result<crate::config::Healthcheck, String> {
    let mut check = crate::config::Healthcheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag
            .split_once(char::is_whitespace)
            .ok_or("missing command")?;
        let (name, value) = flag.split_once('=').ok_or("a flag needs a value")?;
        match name {
            "interval" => check.interval = duration_ns(value)?,
            "timeout" => check.timeout = duration_ns(value)?,
            "start-period" => check.start_period = duration_ns(value)?,
            "start-interval" => check.start_interval = duration_ns(value)?,
            "retries" => check.retries = value.parse().map_err(|_| "invalid retries")?,
            _ => return Err(format!("unknown flag --{name}")),
        }
        rest = after.trim_start();
    }
    let (keyword, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    check.test = match keyword.to_ascii_uppercase().as_str() {
        "NONE" => vec!["NONE".to_owned()],
        "CMD" => match json_words(command.trim()) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None if command.trim().is_empty() => return Err("missing command".to_owned()),
            None => vec!["CMD-SHELL".to_owned(), command.trim().to_owned()],
        },
        other => return Err(format!("unknown type `{other}`, try CMD or NONE")),
    };
    Ok(check)
}

/// Go's durations, such as `1m30s` or `500ms`.
fn duration_ns(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration `{text}`");
    let mut total = 0i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit())
            .ok_or_else(invalid)?;
        let number: i64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit_len = rest[digits..]
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len() - digits);
        let unit = match &rest[digits..digits + unit_len] {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(invalid()),
        };
        let part = number.checked_mul(unit).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = &rest[digits + unit_len..];
    }
    if total == 0 {
        Err(invalid())
    } else {
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        for change in changes {
            apply(&mut config, change).unwrap();
        }
        config
    }

    #[test]
    fn commands_have_two_forms() {
        let config = changed(&[r#"CMD ["sh","-l"]"#, "entrypoint echo hi"]);
        assert_eq!(config.cmd.unwrap(), ["sh", "-l"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "echo hi"]);
    }

    #[test]
    fn names_take_quotes_and_replace_earlier_ones() {
        let config = changed(&["ENV A=1 B=\"two words\"", "ENV A the rest", "LABEL x='y z'"]);
        assert_eq!(config.env.unwrap(), ["A=the rest", "B=two words"]);
        assert_eq!(config.labels.unwrap()["x"], "y z");
    }

    #[test]
    fn ports_volumes_and_directories() {
        let config = changed(&[
            "EXPOSE 80 53/UDP",
            "VOLUME [\"/a\"]",
            "WORKDIR /x",
            "WORKDIR y",
        ]);
        assert_eq!(
            config
                .exposed_ports
                .unwrap()
                .into_keys()
                .collect::<Vec<_>>(),
            ["53/udp", "80/tcp"]
        );
        assert!(config.volumes.unwrap().contains_key("/a"));
        assert_eq!(config.working_dir, "/x/y");
    }

    #[test]
    fn health_checks_have_go_durations() {
        let check = changed(&["HEALTHCHECK --interval=1m30s --retries=3 CMD true"]).healthcheck;
        let check = check.unwrap();
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
        assert_eq!(check.test, ["CMD-SHELL", "true"]);
    }

    #[test]
    fn other_instructions_are_refused() {
        let mut config = RunConfig::default();
        for change in [
            "RUN true",
            "CMD",
            "",
            "ENV A",
            "EXPOSE x",
            "LABEL =x",
            "ENV A=\"b",
        ] {
            assert!(apply(&mut config, change).is_err(), "{change}");
        }
    }
}
