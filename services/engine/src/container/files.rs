//! The three files every container gets: hosts, hostname, resolv.conf.

use std::{fs, io, net::IpAddr, path::Path};

use atoll_network::{DnsOptions, hosts_file, resolv_conf};

use super::record::Record;
use crate::{
    error::{Error, ErrorKind, Result},
    settings::Settings,
};

/// Writes the files into the container's directory.
///
/// * `addresses`: the container's own, for its hosts file.
///
/// # Errors
/// 500 when the disk is full or broken.
pub(crate) fn write(
    directory: &Path,
    record: &Record,
    settings: &Settings,
    addresses: &[IpAddr],
) -> Result<()> {
    write_all(directory, record, settings, addresses).map_err(|error| {
        let context = format!("cannot write the files of container {}", record.id);
        Error::caused(ErrorKind::Internal, context, &error)
    })
}

fn write_all(
    directory: &Path,
    record: &Record,
    settings: &Settings,
    addresses: &[IpAddr],
) -> io::Result<()> {
    let config = &record.config;
    let host = &record.host_config;
    let is_host = record.is_host_network();
    let hosts = if is_host {
        let mut text = fs::read_to_string("/etc/hosts").unwrap_or_default();
        for (name, address) in extra_hosts(host.extra_hosts.as_deref().unwrap_or_default(), None) {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        text
    } else {
        let gateway = record
            .networks
            .get("bridge")
            .and_then(|end| end.gateway.parse().ok());
        let extra = extra_hosts(host.extra_hosts.as_deref().unwrap_or_default(), gateway);
        hosts_file(
            &config.hostname,
            Some(&config.domainname),
            addresses,
            &extra,
        )
    };
    fs::write(directory.join("hosts"), hosts)?;
    let name = match config.domainname.as_str() {
        "" => config.hostname.clone(),
        domain => format!("{}.{domain}", config.hostname),
    };
    fs::write(directory.join("hostname"), name + "\n")?;
    let servers = |list: &[String]| list.iter().filter_map(|text| text.parse().ok()).collect();
    let or = |own: &[String], default: &[String]| {
        if own.is_empty() {
            default.to_vec()
        } else {
            own.to_vec()
        }
    };
    let wishes = DnsOptions {
        servers: servers(&or(&host.dns, &settings.dns)),
        search: or(&host.dns_search, &settings.dns_search),
        options: or(&host.dns_options, &settings.dns_opts),
    };
    let host_file = atoll_network::host_resolv_conf().unwrap_or_default();
    let resolv = if is_host && wishes == DnsOptions::default() {
        host_file
    } else {
        resolv_conf(&host_file, &wishes)
    };
    fs::write(directory.join("resolv.conf"), resolv)
}

/// `name:address` pairs; `host-gateway` is the bridge's address.
fn extra_hosts(list: &[String], gateway: Option<IpAddr>) -> Vec<(String, IpAddr)> {
    list.iter()
        .filter_map(|text| {
            let (name, address) = text.split_once([':', '='])?;
            let address = match address.trim_matches(['[', ']']) {
                "host-gateway" => gateway?,
                address => address.parse().ok()?,
            };
            Some((name.to_owned(), address))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts_are_read() {
        let list = [
            "a:1.2.3.4".to_owned(),
            "b:::1".to_owned(),
            "gw:host-gateway".to_owned(),
        ];
        let gateway: IpAddr = "10.0.0.1".parse().unwrap();
        let found = extra_hosts(&list, Some(gateway));
        assert_eq!(found.len(), 3);
        assert_eq!(found[1], ("b".to_owned(), "::1".parse().unwrap()));
        assert_eq!(found[2].1, gateway);
    }
}
