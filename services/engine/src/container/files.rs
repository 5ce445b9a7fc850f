//! The three files every container gets: hosts, hostname, resolv.conf.

use std::{fs, io, net::IpAddr, path::Path};

use atoll_network::{DnsOptions, hosts_file, resolv_conf};

use super::{ends::Ends, record::Record};
use crate::{
    engine::EngineRef,
    error::{Error, ErrorKind, Result},
    settings::Settings,
};

/// Names of the three files.
const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Writes the files into the container's directory.
///
/// * `ends`: what it has of networks.
///
/// # Errors
/// 500 when the disk is full or broken; 404 when the container whose network it shares is gone.
pub(crate) fn write(
    engine: &EngineRef,
    directory: &Path,
    record: &Record,
    ends: &Ends,
) -> Result<()> {
    let written = match record.network_mode().strip_prefix("container:") {
        // One network, one set of names.
        Some(other) => {
            let other = engine.paths.container(engine.containers.find(other)?.id());
            let copy = |name: &&str| fs::copy(other.join(name), directory.join(name)).map(drop);
            NAMES.iter().try_for_each(copy)
        }
        None => {
            let links = linked(engine, record);
            write_all(directory, record, &engine.settings, ends, links)
        }
    };
    written.map_err(|error| {
        let context = format!("cannot write the files of container {}", record.id);
        Error::caused(ErrorKind::Internal, context, &error)
    })
}

fn write_all(
    directory: &Path,
    record: &Record,
    settings: &Settings,
    ends: &Ends,
    links: Vec<(String, IpAddr)>,
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
        let gateway = ends.gateway().map(IpAddr::V4);
        let mut extra = extra_hosts(host.extra_hosts.as_deref().unwrap_or_default(), gateway);
        extra.extend(links);
        hosts_file(
            &config.hostname,
            Some(&config.domainname),
            &ends.addresses(),
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
    let mut wishes = DnsOptions {
        servers: servers(&or(&host.dns, &settings.dns)),
        search: or(&host.dns_search, &settings.dns_search),
        options: or(&host.dns_options, &settings.dns_opts),
    };
    if let Some(server) = ends.name_server() {
        // The engine asks those the user named, and answers for the network's own names, which have no dots.
        wishes.servers = vec![IpAddr::V4(server)];
        if !wishes
            .options
            .iter()
            .any(|option| option.starts_with("ndots:"))
        {
            wishes.options.push("ndots:0".to_owned());
        }
    }
    let host_file = atoll_network::host_resolv_conf().unwrap_or_default();
    let resolv = if is_host && wishes == DnsOptions::default() {
        host_file
    } else {
        resolv_conf(&host_file, &wishes)
    };
    fs::write(directory.join("resolv.conf"), resolv)
}

/// What `--link` names in the default bridge, which has no names of its own: alias, name and short id of each.
fn linked(engine: &EngineRef, record: &Record) -> Vec<(String, IpAddr)> {
    let mut pairs = Vec::new();
    if record.network_mode() != "bridge" {
        return pairs;
    }
    for link in record.host_config.links.iter().flatten() {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let Ok(other) = engine.containers.find(name) else {
            continue;
        };
        let other = other.record();
        let end = other
            .networks
            .get("bridge")
            .filter(|_| other.state.is_running());
        let Some(address) = end.and_then(|end| end.ip_address.parse().ok()) else {
            continue;
        };
        let mut names = vec![alias.rsplit('/').next().unwrap_or(alias)];
        for name in [other.short_id(), other.name.as_str()] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        pairs.push((names.join(" "), address));
    }
    pairs
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
