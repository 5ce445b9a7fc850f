//! Ports of the host that lead into containers: what is asked for, and taking them.
//!
//! A port is held by a socket that is bound to it and serves nobody: packets are led away before they reach it
//! (docs/firewall.md). So no other program gets the port unnoticed. The container's shim keeps the socket, hence the port
//! is held as long as the container runs, also while no engine does.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use atoll_network::Protocol;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::{
    error::{Error, ErrorKind, Result},
    types::{ContainerConfig, HostConfig, host_config::PortBinding},
};

/// One port of a container that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// The container's port.
    pub(crate) port: u16,
    /// Where on the host; `None` is the default.
    host_address: Option<Ipv4Addr>,
    /// Any of these, the first that is free; none for any at all.
    host_ports: Option<RangeInclusive<u16>>,
}

/// A port that is taken.
#[derive(Debug)]
pub(crate) struct Taken {
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// The container's port.
    pub(crate) port: u16,
    /// Where on the host.
    pub(crate) host_address: Ipv4Addr,
    /// The host's port.
    pub(crate) host_port: u16,
    /// Holds it.
    pub(crate) socket: OwnedFd,
}

/// All ports this engine's containers have taken: protocol, port, address → container.
#[derive(Default)]
pub(crate) struct Ports(Mutex<BTreeMap<(Protocol, u16, Ipv4Addr), String>>);

/// Reads what a container publishes: `--publish`, and of `--publish-all` every exposed port.
///
/// # Errors
/// 400 for what is no port, 501 for protocols and addresses that can't be published.
pub(crate) fn wishes(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<Wish>> {
    let mut wishes = Vec::new();
    for (key, bindings) in &host.port_bindings {
        let (port, protocol) = container_port(key)?;
        let any = [PortBinding::default()];
        let bindings = match bindings.as_deref() {
            None | Some([]) => &any[..],
            Some(bindings) => bindings,
        };
        for binding in bindings {
            wishes.push(Wish {
                protocol,
                port,
                host_address: host_address(&binding.host_ip)?,
                host_ports: host_ports(&binding.host_port)?,
            });
        }
    }
    if host.publish_all_ports {
        for key in config.exposed_ports.keys() {
            let (port, protocol) = container_port(key)?;
            if !wishes
                .iter()
                .any(|wish| (wish.port, wish.protocol) == (port, protocol))
            {
                wishes.push(Wish {
                    protocol,
                    port,
                    host_address: None,
                    host_ports: None,
                });
            }
        }
    }
    Ok(wishes)
}

/// Reads `80/tcp`.
pub(crate) fn container_port(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = number
        .parse::<u16>()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Error::invalid(format!("invalid port specification: {text:?}")))?;
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((port, Protocol::Tcp)),
        "udp" => Ok((port, Protocol::Udp)),
        "sctp" => Err(Error::not_implemented(format!(
            "publishing {text} is not available: tcp and udp are"
        ))),
        _ => Err(Error::invalid(format!("invalid proto in port {text:?}"))),
    }
}

fn host_address(text: &str) -> Result<Option<Ipv4Addr>> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => Ok(Some(address)),
        Ok(IpAddr::V6(address)) => Err(Error::not_implemented(format!(
            "publishing on {address} is not available: containers have no IPv6 address to lead to"
        ))
        .with_hint(Some(
            "publish on an IPv4 address, or leave the address out for all of them".to_owned(),
        ))),
        Err(_) => Err(Error::invalid(format!("invalid IP address: {text}"))),
    }
}

fn host_ports(text: &str) -> Result<Option<RangeInclusive<u16>>> {
    let invalid = || Error::invalid(format!("invalid port range value {text:?}"));
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Some(first..=last)),
        _ => Err(invalid()),
    }
}

impl Ports {
    /// Takes a port of the host for `container`.
    ///
    /// * `default`: where, when the wish doesn't say.
    ///
    /// # Errors
    /// 500 in dockerd's words when another container of this engine, or another program, has it.
    pub(crate) fn take(&self, container: &str, wish: &Wish, default: Ipv4Addr) -> Result<Taken> {
        let address = wish.host_address.unwrap_or(default);
        let mut all = self.lock();
        let Some(range) = wish.host_ports.clone() else {
            let socket = bind(wish.protocol, address, 0)
                .map_err(|error| refused(wish.protocol, address, 0, &error))?;
            let port =
                bound_port(&socket).map_err(|error| refused(wish.protocol, address, 0, &error))?;
            all.insert((wish.protocol, port, address), container.to_owned());
            return Ok(wish.taken(address, port, socket));
        };
        let (first, is_range) = (*range.start(), range.start() != range.end());
        let mut failure = None;
        for port in range {
            if let Some(held) = conflict(&all, wish.protocol, address, port) {
                failure.get_or_insert_with(|| {
                    let hint = format!("container {} publishes it", held.get(..12).unwrap_or(held));
                    Error::internal(format!(
                        "Bind for {address}:{port} failed: port is already allocated"
                    ))
                    .with_hint(Some(hint))
                });
                continue;
            }
            match bind(wish.protocol, address, port) {
                Ok(socket) => {
                    all.insert((wish.protocol, port, address), container.to_owned());
                    return Ok(wish.taken(address, port, socket));
                }
                Err(error) => {
                    failure = Some(refused(wish.protocol, address, port, &error));
                }
            }
        }
        Err(match failure {
            Some(_) if is_range => Error::internal(format!(
                "Bind for {address}:{first} failed: all ports of the range are allocated"
            )),
            Some(failure) => failure,
            None => Error::internal(format!("no port of the host is left at {address}")),
        })
    }

    /// Notes a port that a running container has.
    pub(crate) fn adopt(&self, container: &str, protocol: Protocol, address: Ipv4Addr, port: u16) {
        self.lock()
            .insert((protocol, port, address), container.to_owned());
    }

    /// Forgets what `container` has; the sockets that hold it are its shim's.
    pub(crate) fn release(&self, container: &str) {
        self.lock().retain(|_, holder| holder != container);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Protocol, u16, Ipv4Addr), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wish {
    fn taken(&self, host_address: Ipv4Addr, host_port: u16, socket: OwnedFd) -> Taken {
        Taken {
            protocol: self.protocol,
            port: self.port,
            host_address,
            host_port,
            socket,
        }
    }
}

/// Who has the port at an address that meets `address`.
fn conflict(
    all: &BTreeMap<(Protocol, u16, Ipv4Addr), String>,
    protocol: Protocol,
    address: Ipv4Addr,
    port: u16,
) -> Option<&String> {
    let at = (protocol, port, Ipv4Addr::UNSPECIFIED)..=(protocol, port, Ipv4Addr::BROADCAST);
    all.range(at)
        .find(|((_, _, other), _)| {
            *other == address || other.is_unspecified() || address.is_unspecified()
        })
        .map(|(_, container)| container)
}

/// Binds a socket that holds a port; it takes no connections.
fn bind(protocol: Protocol, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let at = SocketAddrV4::new(address, port);
    let open = || rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None);
    let socket = open()?;
    match rustix::net::bind(&socket, &at) {
        Ok(()) => return Ok(socket),
        Err(rustix::io::Errno::ADDRINUSE) if protocol == Protocol::Tcp && port != 0 => {}
        Err(error) => return Err(error.into()),
    }
    // Connections of a program that ended may linger. Only a listener may have their port, and only if no other listens.
    let socket = open()?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, 0)?;
    Ok(socket)
}

fn bound_port(socket: &OwnedFd) -> io::Result<u16> {
    let address: SocketAddr = rustix::net::getsockname(socket)?
        .try_into()
        .map_err(|_| io::Error::other("the socket has no address"))?;
    Ok(address.port())
}

fn refused(protocol: Protocol, address: Ipv4Addr, port: u16, error: &io::Error) -> Error {
    let words = match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::ADDRINUSE.raw_os_error() => {
            "address already in use".to_owned()
        }
        Some(code) if code == rustix::io::Errno::ADDRNOTAVAIL.raw_os_error() => {
            "cannot assign requested address".to_owned()
        }
        _ => error.to_string(),
    };
    let hint = match words.as_str() {
        "address already in use" => Some(
            "another program of the host has the port: end it, or publish on another port"
                .to_owned(),
        ),
        "cannot assign requested address" => Some(format!("{address} is no address of this host")),
        _ => None,
    };
    Error::new(
        ErrorKind::Internal,
        format!("failed to bind host port {address}:{port}/{protocol}: {words}"),
    )
    .with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(bindings: &[(&str, &str, &str)]) -> HostConfig {
        let mut host = HostConfig::default();
        for (port, ip, host_port) in bindings {
            let binding = PortBinding {
                host_ip: (*ip).to_owned(),
                host_port: (*host_port).to_owned(),
            };
            let list = host.port_bindings.entry((*port).to_owned()).or_default();
            list.get_or_insert_default().push(binding);
        }
        host
    }

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let config = ContainerConfig::default();
        let read = wishes(
            &config,
            &host(&[("80/tcp", "", ""), ("53/UDP", "127.0.0.1", "5-7")]),
        )
        .unwrap();
        assert_eq!(read[0].protocol, Protocol::Udp);
        assert_eq!(read[0].host_ports, Some(5..=7));
        assert_eq!((read[1].port, read[1].host_address), (80, None));
        for bad in [
            ("0/tcp", "", ""),
            ("70000", "", ""),
            ("80/xyz", "", ""),
            ("80/sctp", "", ""),
            ("80", "::1", ""),
            ("80", "nowhere", ""),
            ("80", "", "9-8"),
            ("80", "", "0-8"),
            ("80", "", "x"),
        ] {
            assert!(wishes(&config, &host(&[bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn all_exposed_ports_are_published_once() {
        let mut config = ContainerConfig::default();
        for port in ["80/tcp", "81/tcp"] {
            config
                .exposed_ports
                .insert(port.to_owned(), crate::types::Empty {});
        }
        let mut host = host(&[("80/tcp", "", "8080")]);
        host.publish_all_ports = true;
        assert_eq!(wishes(&config, &host).unwrap().len(), 2);
    }

    #[test]
    fn a_port_is_taken_once() {
        let ports = Ports::default();
        let any = Wish {
            protocol: Protocol::Tcp,
            port: 80,
            host_address: None,
            host_ports: None,
        };
        let first = ports.take("one", &any, Ipv4Addr::LOCALHOST).unwrap();
        assert_ne!(first.host_port, 0);
        let same = Wish {
            host_ports: Some(first.host_port..=first.host_port),
            ..any
        };
        let said = ports.take("two", &same, Ipv4Addr::UNSPECIFIED).unwrap_err();
        assert!(
            said.to_string().ends_with("port is already allocated"),
            "{said}"
        );
        // Another program's word for it.
        ports.release("one");
        let said = ports.take("two", &same, Ipv4Addr::LOCALHOST).unwrap_err();
        assert!(
            said.to_string().ends_with("address already in use"),
            "{said}"
        );
        let theft = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, first.host_port));
        assert!(theft.is_err(), "somebody else got a held port");
        drop(first);
        assert!(ports.take("two", &same, Ipv4Addr::LOCALHOST).is_ok());
    }
}
