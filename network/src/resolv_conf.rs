//! A container's `/etc/resolv.conf`.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Servers used when the host names none a container can reach; Docker's choice.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// What the user asked for: `--dns`, `--dns-search`, `--dns-option`. Empty lists mean "as the host".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// Name servers instead of the host's.
    pub servers: Vec<IpAddr>,
    /// Search domains instead of the host's; a single `.` means none.
    pub search: Vec<String>,
    /// Resolver options instead of the host's.
    pub options: Vec<String>,
}

/// Writes a container's `resolv.conf` from the host's text and the user's wishes.
///
/// The host's servers on loopback addresses are left out: loopback is another one in there. So are
/// IPv6 servers, as container networks have no IPv6 yet. If none is left, public ones stand in.
///
/// * `host`: the host's `resolv.conf`, any text; unknown lines are dropped.
#[must_use]
pub fn resolv_conf(host: &str, wishes: &DnsOptions) -> String {
    let host = HostFile::parse(host);
    let mut text = String::new();
    let mut line = |keyword: &str, words: &[&str]| {
        if !words.is_empty() {
            // Writing to a String never fails.
            let _ = writeln!(text, "{keyword} {}", words.join(" "));
        }
    };

    if wishes.servers.is_empty() {
        let reachable: Vec<&str> = host
            .servers
            .iter()
            .copied()
            .filter(|s| is_reachable(s))
            .collect();
        let servers = if reachable.is_empty() {
            &FALLBACK[..]
        } else {
            &reachable[..]
        };
        servers
            .iter()
            .for_each(|server| line("nameserver", &[server]));
    } else {
        wishes
            .servers
            .iter()
            .for_each(|server| line("nameserver", &[&server.to_string()]));
    }
    let search = or_host(&wishes.search, host.search);
    line("search", if search == ["."] { &[] } else { &search });
    line("options", &or_host(&wishes.options, host.options));
    text
}

fn or_host<'a>(wished: &'a [String], host: Vec<&'a str>) -> Vec<&'a str> {
    if wished.is_empty() {
        host
    } else {
        wished.iter().map(String::as_str).collect()
    }
}

fn is_reachable(server: &str) -> bool {
    matches!(server.parse(), Ok(IpAddr::V4(v4)) if !v4.is_loopback() && !v4.is_unspecified())
}

#[derive(Default)]
struct HostFile<'a> {
    servers: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
}

impl<'a> HostFile<'a> {
    /// Reads resolv.conf(5): the last `search` or `domain` wins, `options` add up.
    fn parse(text: &'a str) -> Self {
        let mut file = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => file.servers.extend(words.next()),
                Some("search" | "domain") => file.search = words.collect(),
                Some("options") => file.options.extend(words),
                _ => {}
            }
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_servers_are_dropped_and_the_rest_kept() {
        let host = "# c\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\n\
                    nameserver fe80::1%eth0\ndomain old\nsearch a.b c.d\noptions edns0\noptions rotate\n";
        assert_eq!(
            resolv_conf(host, &DnsOptions::default()),
            "nameserver 10.0.0.2\nsearch a.b c.d\noptions edns0 rotate\n"
        );
    }

    #[test]
    fn public_servers_stand_in_when_none_is_left() {
        let expected = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";
        assert_eq!(
            resolv_conf("nameserver 127.0.0.1\n", &DnsOptions::default()),
            expected
        );
        assert_eq!(resolv_conf("", &DnsOptions::default()), expected);
    }

    #[test]
    fn wishes_replace_the_hosts_lines() {
        let wishes = DnsOptions {
            servers: vec!["127.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            search: vec![".".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        assert_eq!(
            resolv_conf("nameserver 10.0.0.2\nsearch a\noptions b\n", &wishes),
            "nameserver 127.0.0.1\nnameserver fd00::1\noptions ndots:2\n"
        );
    }

    proptest! {
        #[test]
        fn any_host_text_gives_a_server_and_no_loopback(host in "(nameserver |search |127\\.0\\.0\\.[0-9]|[ -~]|\n){0,60}") {
            let text = resolv_conf(&host, &DnsOptions::default());
            prop_assert!(text.lines().any(|line| line.starts_with("nameserver ")));
            prop_assert!(!text.lines().any(|line| line.starts_with("nameserver 127.")));
        }
    }
}
