//! Values of `--publish` and `--expose`. Pure.

use serde_json::{Map, Value, json};

use crate::error::Error;

/// A range of ports, both ends included.
type Range = (u16, u16);

/// One `--publish`.
struct Publish {
    host_ip: String,
    /// None for any.
    host: Option<Range>,
    container: Range,
    protocol: String,
}

/// `PortBindings` of all `--publish`.
///
/// # Errors
/// [`Error::Value`] for one that can't be used.
pub(crate) fn bindings(texts: &[String]) -> Result<Value, Error> {
    let mut all: Map<String, Value> = Map::new();
    for text in texts {
        let publish = parse(text)?;
        let (first, last) = publish.container;
        for port in first..=last {
            let host_port = match publish.host {
                None => String::new(),
                // One port of the container, any of a range of the host.
                Some((from, to)) if first == last && from != to => format!("{from}-{to}"),
                Some((from, _)) => (u32::from(from) + u32::from(port - first)).to_string(),
            };
            let binding = json!({ "HostIp": publish.host_ip, "HostPort": host_port });
            let list = all
                .entry(format!("{port}/{}", publish.protocol))
                .or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(binding);
            }
        }
    }
    Ok(Value::Object(all))
}

/// `ExposedPorts`: those of `--expose`, and of `--publish`.
///
/// # Errors
/// [`Error::Value`] for one that can't be used.
pub(crate) fn exposed(expose: &[String], publish: &[String]) -> Result<Map<String, Value>, Error> {
    let mut all = Map::new();
    let mut add = |(first, last): Range, protocol: &str| {
        for port in first..=last {
            all.insert(format!("{port}/{protocol}"), json!({}));
        }
    };
    for text in expose {
        let (ports, protocol) = with_protocol("--expose", text)?;
        add(range("--expose", text, ports)?, protocol);
    }
    for text in publish {
        let publish = parse(text)?;
        add(publish.container, &publish.protocol);
    }
    Ok(all)
}

fn parse(text: &str) -> Result<Publish, Error> {
    const FLAG: &str = "--publish";
    let (ports, protocol) = with_protocol(FLAG, text)?;
    let (before, container) = match ports.rsplit_once(':') {
        Some((before, container)) => (Some(before), container),
        None => (None, ports),
    };
    let (host_ip, host) = match before.map(|before| before.rsplit_once(':')) {
        None => ("", ""),
        Some(None) => ("", before.unwrap_or_default()),
        Some(Some((ip, host))) => (ip.trim_matches(['[', ']']), host),
    };
    let container = range(FLAG, text, container)?;
    let host = match host {
        "" | "0" => None,
        host => Some(range(FLAG, text, host)?),
    };
    let count = |(first, last): Range| u32::from(last - first);
    if let Some(host) = host
        && count(container) != 0
        && count(host) != count(container)
    {
        return Err(Error::value(FLAG, text, "both ranges have to be as long"));
    }
    Ok(Publish {
        host_ip: host_ip.to_owned(),
        host,
        container,
        protocol: protocol.to_owned(),
    })
}

fn with_protocol<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str), Error> {
    match text.split_once('/') {
        None => Ok((text, "tcp")),
        Some((ports, protocol @ ("tcp" | "udp"))) => Ok((ports, protocol)),
        Some(_) => Err(Error::value(flag, text, "the protocol is tcp or udp")),
    }
}

fn range(flag: &str, whole: &str, text: &str) -> Result<Range, Error> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(Error::value(
            flag,
            whole,
            "expected a port from 1 to 65535, or a range like 8000-8010",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        bindings(&[text.to_owned()]).unwrap()
    }

    #[test]
    fn all_forms_are_understood() {
        let one =
            |port: &str, ip: &str, host: &str| json!({port: [{"HostIp": ip, "HostPort": host}]});
        assert_eq!(of("80"), one("80/tcp", "", ""));
        assert_eq!(of("8080:80"), one("80/tcp", "", "8080"));
        assert_eq!(of("8000-8010:80"), one("80/tcp", "", "8000-8010"));
        assert_eq!(of("127.0.0.1:53:53/udp"), one("53/udp", "127.0.0.1", "53"));
        assert_eq!(of("127.0.0.1::80"), one("80/tcp", "127.0.0.1", ""));
        assert_eq!(of("[::1]:80:80"), one("80/tcp", "::1", "80"));
        assert_eq!(
            of("7000-7001:80-81"),
            json!({
                "80/tcp": [{"HostIp": "", "HostPort": "7000"}],
                "81/tcp": [{"HostIp": "", "HostPort": "7001"}],
            })
        );
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for bad in [
            "", "0", "x", "80/xyz", "70000", "1-2:1-3", "9-8", ":80:", "80:",
        ] {
            assert!(bindings(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(exposed(&["80/x".to_owned()], &[]).is_err());
        let exposed = exposed(&["80-81".to_owned()], &["9:90/udp".to_owned()]).unwrap();
        assert_eq!(
            exposed.keys().collect::<Vec<_>>(),
            ["80/tcp", "81/tcp", "90/udp"]
        );
    }
}
