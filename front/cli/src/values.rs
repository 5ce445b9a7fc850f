//! Values of Docker's flags, checked.

use std::env;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Error;

/// Reads a number of bytes: `512m`, `1.5g`, `64K`, `1024`, `10MiB`.
///
/// # Errors
/// [`Error::Value`] naming `flag` when the text is no such number.
pub(crate) fn bytes(flag: &str, text: &str) -> Result<i64, Error> {
    let invalid = || Error::value(flag, text, "expected a number of bytes, like 512m or 1.5g");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.is_empty() || unit == "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(invalid()),
    };
    let factor = 1i64 << shift;
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor).ok_or_else(invalid);
    }
    scaled(number, factor).ok_or_else(invalid)
}

/// Reads a number of processors, `0.5`, as billionths.
///
/// # Errors
/// [`Error::Value`] when the text is no such number.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, Error> {
    scaled(text, 1_000_000_000)
        .ok_or_else(|| Error::value("--cpus", text, "expected a number of processors, like 1.5"))
}

/// `text` as a decimal number times `factor`, without floating point.
fn scaled(text: &str, factor: i64) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = whole
        .bytes()
        .chain(fraction.bytes())
        .all(|byte| byte.is_ascii_digit());
    if !all_digits || (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let numerator: i64 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let denominator = 10i64.pow(u32::try_from(fraction.len()).ok()?);
    let part = i128::from(numerator) * i128::from(factor) / i128::from(denominator);
    whole
        .checked_mul(factor)?
        .checked_add(i64::try_from(part).ok()?)
}

/// Expands `-e`: `NAME=value` stays, `NAME` takes its value from our environment or is left out.
pub(crate) fn environment(variables: &[String]) -> Vec<String> {
    variables
        .iter()
        .filter_map(|text| match text.split_once('=') {
            Some(_) => Some(text.clone()),
            None => env::var(text).ok().map(|value| format!("{text}={value}")),
        })
        .collect()
}

/// Reads `--env-file` lines: comments and empty lines are skipped, the rest is as `-e`.
///
/// # Errors
/// [`Error::Io`] when a file can't be read, [`Error::Value`] when a name has white space.
pub(crate) fn environment_files(paths: &[PathBuf]) -> Result<Vec<String>, Error> {
    let mut variables = Vec::new();
    for path in paths {
        let text =
            std::fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))?;
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split_once('=').map_or(line, |(name, _)| name);
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(Error::value("--env-file line", line, "expected NAME=value"));
            }
            variables.push(line.to_owned());
        }
    }
    Ok(environment(&variables))
}

/// Reads `KEY=value` pairs; a key alone has an empty value.
pub(crate) fn pairs(texts: &[String]) -> Value {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Value::from(value)),
        None => (text.clone(), Value::from("")),
    };
    Value::Object(texts.iter().map(pair).collect())
}

/// What `-v` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// `source:target[:options]`: a bind mount or named volume, as `HostConfig.Binds` has it.
    Bind(String),
    /// `target`: an anonymous volume.
    Anonymous(String),
}

/// Reads `-v`; a source that starts with `.` or `~/` is a path below `directory` or the home.
///
/// # Errors
/// [`Error::Value`] when a target is no absolute path.
pub(crate) fn volume(text: &str, directory: &Path) -> Result<Volume, Error> {
    let invalid = |expected| Error::value("--volume", text, expected);
    let Some((source, rest)) = text.split_once(':') else {
        return if text.starts_with('/') {
            Ok(Volume::Anonymous(text.to_owned()))
        } else {
            Err(invalid("expected source:target or an absolute target"))
        };
    };
    let target = rest.split(':').next().unwrap_or_default();
    if source.is_empty() || !target.starts_with('/') {
        return Err(invalid("expected source:target with an absolute target"));
    }
    Ok(Volume::Bind(format!(
        "{}:{rest}",
        absolute(source, directory)
    )))
}

/// Reads `--mount type=bind,source=…,target=…[,readonly]` into an entry of `HostConfig.Mounts`.
///
/// # Errors
/// [`Error::Value`] for unknown keys and missing parts.
pub(crate) fn mount(text: &str, directory: &Path) -> Result<Value, Error> {
    let invalid = |expected: &str| Error::value("--mount", text, expected);
    let (mut kind, mut source, mut target) = ("volume", String::new(), "");
    let mut is_read_only = false;
    let mut propagation = None;
    let mut tmpfs_size = None;
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        match key {
            "type" => kind = value,
            "source" | "src" => value.clone_into(&mut source),
            "target" | "dst" | "destination" => target = value,
            "readonly" | "ro" => is_read_only = matches!(value, "true" | "1"),
            "bind-propagation" => propagation = Some(value),
            "tmpfs-size" => tmpfs_size = Some(bytes("tmpfs-size", value)?),
            _ => {
                return Err(invalid(&format!(
                    "unknown key {key:?}; known are type, source, target, readonly, \
                     bind-propagation, tmpfs-size"
                )));
            }
        }
    }
    if !target.starts_with('/') {
        return Err(invalid("target must be an absolute path"));
    }
    if kind == "bind" {
        if source.is_empty() {
            return Err(invalid("a bind mount needs a source"));
        }
        source = absolute(&source, directory);
    }
    let mut entry = json!({ "Type": kind, "Target": target });
    if !source.is_empty() {
        entry["Source"] = source.into();
    }
    if is_read_only {
        entry["ReadOnly"] = true.into();
    }
    if let Some(propagation) = propagation {
        entry["BindOptions"] = json!({ "Propagation": propagation });
    }
    if let Some(size) = tmpfs_size {
        entry["TmpfsOptions"] = json!({ "SizeBytes": size });
    }
    Ok(entry)
}

/// Reads `--restart`: `no`, `always`, `unless-stopped`, `on-failure[:count]`.
///
/// # Errors
/// [`Error::Value`] for anything else.
pub(crate) fn restart_policy(text: &str) -> Result<Value, Error> {
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    match (name, count.parse::<u32>()) {
        ("no" | "always" | "unless-stopped", _) if text == name => Ok(json!({ "Name": name })),
        ("on-failure", Ok(count)) => Ok(json!({ "Name": name, "MaximumRetryCount": count })),
        _ => Err(Error::value(
            "--restart",
            text,
            "expected no, always, unless-stopped or on-failure[:count]",
        )),
    }
}

fn absolute(source: &str, directory: &Path) -> String {
    if source == "." || source == ".." || source.starts_with("./") || source.starts_with("../") {
        let joined = directory.join(source);
        // Only the lexical form: the engine decides what exists.
        let mut clean = PathBuf::new();
        for part in joined.components() {
            match part {
                std::path::Component::ParentDir => {
                    clean.pop();
                }
                std::path::Component::CurDir => {}
                part => clean.push(part),
            }
        }
        return clean.display().to_string();
    }
    source.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        let read = |text| bytes("--memory", text).ok();
        assert_eq!(read("512m"), Some(512 << 20));
        assert_eq!(read("1.5G"), Some(3 << 29));
        assert_eq!(read("64KiB"), Some(64 << 10));
        assert_eq!(read("10b"), Some(10));
        assert_eq!(read("1024"), Some(1024));
        for bad in ["", "m", "-1", "1x", "1.2.3m", "9999999999999g", "1i"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn processors_are_billionths() {
        assert_eq!(nano_cpus("1.5").unwrap(), 1_500_000_000);
        assert_eq!(nano_cpus(".25").unwrap(), 250_000_000);
        assert!(nano_cpus("many").is_err() && nano_cpus("").is_err() && nano_cpus("-1").is_err());
    }

    #[test]
    fn volumes_are_made_absolute() {
        let here = Path::new("/home/me");
        let bind = |text: &str| volume(text, here).unwrap();
        assert_eq!(bind("/a:/b:ro"), Volume::Bind("/a:/b:ro".to_owned()));
        assert_eq!(bind("./x:/b"), Volume::Bind("/home/me/x:/b".to_owned()));
        assert_eq!(bind("..:/b"), Volume::Bind("/home:/b".to_owned()));
        assert_eq!(bind("name:/b"), Volume::Bind("name:/b".to_owned()));
        assert_eq!(bind("/data"), Volume::Anonymous("/data".to_owned()));
        assert!(volume("name", here).is_err() && volume("/a:b", here).is_err());
    }

    #[test]
    fn mounts_become_entries() {
        let here = Path::new("/w");
        let entry = mount("type=bind,src=./a,dst=/b,readonly", here).unwrap();
        let expected = json!({"Type": "bind", "Source": "/w/a", "Target": "/b", "ReadOnly": true});
        assert_eq!(entry, expected);
        for bad in [
            "type=bind,dst=/b",
            "type=bind,src=/a,dst=b",
            "what=1,dst=/b",
        ] {
            assert!(mount(bad, here).is_err(), "{bad}");
        }
    }

    #[test]
    fn restart_policies_are_dockers() {
        assert_eq!(
            restart_policy("always").unwrap(),
            json!({ "Name": "always" })
        );
        let expected = json!({ "Name": "on-failure", "MaximumRetryCount": 3 });
        assert_eq!(restart_policy("on-failure:3").unwrap(), expected);
        assert!(restart_policy("always:3").is_err() && restart_policy("sometimes").is_err());
    }

    #[test]
    fn variables_without_value_come_from_our_environment() {
        let read = environment(&["A=b=c".to_owned(), "NO_SUCH_VARIABLE_HERE".to_owned()]);
        assert_eq!(read, ["A=b=c"]);
    }
}
