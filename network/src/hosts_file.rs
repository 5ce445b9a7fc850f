//! A container's `/etc/hosts`.

use std::fmt::Write as _;
use std::net::IpAddr;

const HEAD: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Writes a container's `hosts` file: the loopback names, then `extra`, then the container itself.
///
/// * `addresses`: the container's own; empty for `--network none`.
/// * `hostname`, `domain`: its name, listed as `hostname.domain hostname` when it has a domain.
/// * `extra`: `--add-host`, in the user's order, before the container's own name as Docker has it.
#[must_use]
pub fn hosts_file(
    hostname: &str,
    domain: Option<&str>,
    addresses: &[IpAddr],
    extra: &[(String, IpAddr)],
) -> String {
    let mut text = HEAD.to_owned();
    for (name, address) in extra {
        // Writing to a String never fails.
        let _ = writeln!(text, "{address}\t{name}");
    }
    for address in addresses {
        let _ = match domain.filter(|domain| !domain.is_empty()) {
            Some(domain) => writeln!(text, "{address}\t{hostname}.{domain} {hostname}"),
            None => writeln!(text, "{address}\t{hostname}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_name_comes_last_with_its_domain() {
        let own = ["172.17.0.2".parse().unwrap()];
        let extra = [("db".to_owned(), "10.0.0.9".parse().unwrap())];
        let text = hosts_file("web", Some("example.org"), &own, &extra);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\tdb\n172.17.0.2\tweb.example.org web\n"));
        assert_eq!(hosts_file("web", None, &[], &[]), HEAD);
    }
}
