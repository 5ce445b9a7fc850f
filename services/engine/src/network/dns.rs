//! The name server of each user's network, at its gateway's address.
//!
//! ```text
//! container ─ UDP, TCP ─► gateway:53 ─► names of the containers in the asker's networks
//!                                    └► else: the host's name servers (or the container's `--dns`), bytes passed on
//! ```
//!
//! Nothing is cached: names are looked up in the records, so they are never stale, and programs cache by themselves. What an
//! asker can make us keep is bounded: [`QUERIES`] under way and [`CONNECTIONS`] open for each network.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use atoll_network::{
    Protocol, Published,
    dns::{self, Kind, Outcome, Query},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::NetRef;
use crate::{
    container::{Record, ends::dns_names},
    engine::{Engine, EngineRef},
    error::{Error, ErrorKind, Result},
    types::EndpointConfig,
};

const PORT: u16 = 53;
/// Questions to other servers under way at once for a network; more are answered with a failure.
const QUERIES: usize = 256;
/// TCP connections open at once for a network; more wait.
const CONNECTIONS: usize = 64;
/// How long one name server may take, and a TCP client between two questions.
const UPSTREAM_TIMEOUT: Duration = Duration::from_millis(1500);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// As many of the host's servers as resolv.conf(5) heeds.
const UPSTREAMS: usize = 3;

/// The servers that run: a network's id → its tasks, which end when they are dropped.
#[derive(Default)]
pub(crate) struct Servers(Mutex<BTreeMap<String, JoinSet<()>>>);

impl Servers {
    /// Ends the server of a network that is removed.
    pub(crate) fn stop(&self, id: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(id);
    }

    fn keep(&self, id: &str, tasks: JoinSet<()>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned(), tasks);
    }
}

/// Starts the name servers of all networks that have names.
pub(crate) async fn serve_all(engine: &EngineRef) {
    for net in engine.network.all() {
        if let Err(error) = serve(engine, &net).await {
            tracing::warn!(network = net.record.name, %error, "no name server; names don't resolve there");
        }
    }
}

/// Starts the name server of a network whose bridge is up. The default bridge has none, as with Docker.
///
/// # Errors
/// When no socket can be had at the gateway's address.
pub(crate) async fn serve(engine: &EngineRef, net: &NetRef) -> Result<()> {
    let Some(bridge) = net.bridge().filter(|_| !net.is_builtin()) else {
        return Ok(());
    };
    let gateway = bridge.config().gateway();
    let failed = |error: io::Error| {
        let context = format!("cannot serve names at {gateway}");
        Error::caused(ErrorKind::Internal, context, &error)
    };
    let (udp, tcp) = match bind(gateway, PORT).await {
        Ok(sockets) => sockets,
        // A name server of the host has the port on every address: questions are led past it.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let sockets = bind(gateway, 0).await.map_err(failed)?;
            let ports = [
                (Protocol::Udp, sockets.0.local_addr()),
                (Protocol::Tcp, sockets.1.local_addr()),
            ];
            let mut rules = Vec::new();
            for (protocol, address) in ports {
                rules.push(Published {
                    protocol,
                    host_address: gateway,
                    host_port: PORT,
                    address: gateway,
                    port: address.map_err(failed)?.port(),
                });
            }
            let owner = NetRef::clone(net);
            crate::engine::blocking(move || {
                let bridge = owner.bridge();
                bridge.map_or(Ok(()), |bridge| bridge.publish("names", rules))
            })
            .await?;
            sockets
        }
        Err(error) => return Err(failed(error)),
    };
    let mut tasks = JoinSet::new();
    let server = Arc::new(Server {
        engine: Arc::downgrade(engine),
        net: NetRef::clone(net),
        queries: Arc::new(Semaphore::new(QUERIES)),
    });
    tasks.spawn(serve_udp(Arc::clone(&server), Arc::new(udp)));
    tasks.spawn(serve_tcp(server, tcp));
    engine.network.servers.keep(&net.record.id, tasks);
    Ok(())
}

async fn bind(address: Ipv4Addr, port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind((address, port)).await?;
    let udp = UdpSocket::bind((address, tcp.local_addr()?.port())).await?;
    Ok((udp, tcp))
}

struct Server {
    engine: Weak<Engine>,
    net: NetRef,
    queries: Arc<Semaphore>,
}

/// What is to be done for a question.
enum Plan {
    Answer(Vec<u8>),
    Ask(Vec<SocketAddr>),
    Ignore,
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // An error of an earlier answer, told late.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(answer) => {
                if let Some(answer) = answer.filter(|_| server.is_known(from.ip())) {
                    let _ = socket.send_to(&answer, from).await;
                }
                continue;
            }
        };
        match server.plan(&query, from.ip()) {
            Plan::Ignore => {}
            Plan::Answer(answer) => {
                let _ = socket.send_to(&query.for_udp(answer), from).await;
            }
            Plan::Ask(upstreams) => match Arc::clone(&server.queries).try_acquire_owned() {
                Err(_) => {
                    let answer = query.without_data(Outcome::Failed);
                    let _ = socket.send_to(&answer, from).await;
                }
                Ok(permit) => {
                    let socket = Arc::clone(&socket);
                    tokio::spawn(async move {
                        let answer = ask(&query, &upstreams, false).await;
                        let _ = socket.send_to(&query.for_udp(answer), from).await;
                        drop(permit);
                    });
                }
            },
        }
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if !server.is_known(from.ip()) {
            continue;
        }
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let _ = converse(&server, stream, from.ip()).await;
            drop(permit);
        });
    }
}

/// Answers the questions of one connection, one after the other.
async fn converse(server: &Server, mut stream: TcpStream, from: IpAddr) -> io::Result<()> {
    loop {
        let bytes = timeout(CLIENT_TIMEOUT, read_message(&mut stream)).await??;
        let answer = match Query::parse(&bytes) {
            Err(None) => return Ok(()),
            Err(Some(answer)) => answer,
            Ok(query) => match server.plan(&query, from) {
                Plan::Ignore => return Ok(()),
                Plan::Answer(answer) => answer,
                Plan::Ask(upstreams) => match server.queries.try_acquire() {
                    Ok(_permit) => ask(&query, &upstreams, true).await,
                    Err(_) => query.without_data(Outcome::Failed),
                },
            },
        };
        timeout(CLIENT_TIMEOUT, write_message(&mut stream, &answer)).await??;
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(message.len() + 2);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

/// Asks one server after the other; the first answer that is no failure counts, else the last failure.
async fn ask(query: &Query, upstreams: &[SocketAddr], by_tcp: bool) -> Vec<u8> {
    let mut failure = None;
    for upstream in upstreams {
        let asked = timeout(UPSTREAM_TIMEOUT, async {
            match by_tcp {
                true => ask_by_tcp(query, *upstream).await,
                false => ask_by_udp(query, *upstream).await,
            }
        });
        match asked.await {
            Ok(Ok(answer)) if dns::is_failure(&answer) => failure = Some(answer),
            Ok(Ok(answer)) => return query.passed_on(answer),
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "a name server fails"),
            Err(_) => tracing::debug!(%upstream, "a name server does not answer"),
        }
    }
    match failure {
        Some(answer) => query.passed_on(answer),
        None => query.without_data(Outcome::Failed),
    }
}

/// Asks from a port and with a number nobody can guess.
async fn ask_by_udp(query: &Query, upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    let id = random_id();
    socket.send(&query.with_id(id)).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        // Others may have guessed after all.
        if query.is_answered_by(answer, id) {
            return Ok(answer.to_vec());
        }
    }
}

async fn ask_by_tcp(query: &Query, upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let id = random_id();
    write_message(&mut stream, &query.with_id(id)).await?;
    let answer = read_message(&mut stream).await?;
    match query.is_answered_by(&answer, id) {
        true => Ok(answer),
        false => Err(io::Error::other("it answers something else")),
    }
}

fn random_id() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness the port is still not to be guessed.
    let _ = getrandom::fill(&mut bytes);
    u16::from_ne_bytes(bytes)
}

impl Server {
    /// Whether an asker is of this network; others could learn its names.
    fn is_known(&self, from: IpAddr) -> bool {
        let pool = self.net.record.pool.as_ref();
        match from {
            IpAddr::V4(from) => pool.is_some_and(|pool| pool.subnet.contains(from)),
            IpAddr::V6(_) => false,
        }
    }

    fn plan(&self, query: &Query, from: IpAddr) -> Plan {
        let (Some(engine), true) = (self.engine.upgrade(), self.is_known(from)) else {
            return Plan::Ignore;
        };
        let records = running(&engine);
        let asker = records.iter().find(|record| {
            record
                .networks
                .values()
                .any(|end| end.network_id == self.net.record.id && has_address(end, from))
        });
        let networks: Vec<&str> = match asker {
            Some(asker) => asker
                .networks
                .values()
                .map(|end| end.network_id.as_str())
                .collect(),
            None => vec![&self.net.record.id],
        };
        let names = Names {
            engine: &engine,
            records: &records,
            networks: &networks,
            asker: asker.map(AsRef::as_ref),
        };
        if let Some(answer) = names.answer(query) {
            return Plan::Answer(answer);
        }
        let is_shut_in = networks.iter().all(|id| {
            let net = engine.network.by_id(id);
            net.is_none_or(|net| net.record.is_internal)
        });
        if is_shut_in {
            // Questions are messages, too: nothing leaves an internal network.
            return Plan::Answer(query.without_data(Outcome::NoSuchName));
        }
        let upstreams = upstreams(&engine, asker.map(AsRef::as_ref));
        match upstreams.is_empty() {
            true => Plan::Answer(query.without_data(Outcome::Failed)),
            false => Plan::Ask(upstreams),
        }
    }
}

fn running(engine: &Engine) -> Vec<Arc<Record>> {
    let all = engine.containers.all();
    let records = all.iter().map(|container| container.record());
    records
        .filter(|record| record.state.is_running() || record.state.is_starting)
        .collect()
}

/// Whether a container has an address now; the address of an earlier run may be somebody else's.
fn has_address(end: &EndpointConfig, address: IpAddr) -> bool {
    !end.endpoint_id.is_empty() && end.ip_address.parse() == Ok(address)
}

/// The names an asker knows.
struct Names<'a> {
    engine: &'a Engine,
    records: &'a [Arc<Record>],
    networks: &'a [&'a str],
    asker: Option<&'a Record>,
}

impl Names<'_> {
    /// The answer, when the question is about a container.
    fn answer(&self, query: &Query) -> Option<Vec<u8>> {
        if let Some(address) = query.reverse_address() {
            return self.reverse(query, address);
        }
        let name = query.name()?;
        let found = self.addresses(name);
        if found.is_empty() {
            return None;
        }
        Some(match query.kind() {
            Kind::A => query.addresses(&found),
            _ => query.without_data(Outcome::NoData),
        })
    }

    fn reverse(&self, query: &Query, address: Ipv4Addr) -> Option<Vec<u8>> {
        let nets = self
            .networks
            .iter()
            .filter_map(|id| self.engine.network.by_id(id));
        let net = nets.filter(|net| !net.is_builtin()).find(|net| {
            net.record
                .pool
                .as_ref()
                .is_some_and(|pool| pool.subnet.contains(address))
        })?;
        let holder = self.records.iter().find(|record| {
            record
                .networks
                .values()
                .any(|end| end.network_id == net.record.id && has_address(end, address.into()))
        });
        Some(match (holder, query.kind()) {
            (Some(holder), Kind::Ptr) => {
                query.pointer(&format!("{}.{}", holder.name, net.record.name))
            }
            (Some(_), _) => query.without_data(Outcome::NoData),
            // Nobody outside knows either.
            (None, _) => query.without_data(Outcome::NoSuchName),
        })
    }

    /// The addresses of all who are called `name`, or `name.network`.
    fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let linked = self.linked(name);
        let wanted = linked.as_deref().unwrap_or(name);
        let mut found = Vec::new();
        for record in self.records {
            for (network, end) in &record.networks {
                let is_shared = self.networks.contains(&end.network_id.as_str());
                if !is_shared
                    || end.endpoint_id.is_empty()
                    || matches!(network.as_str(), "bridge" | "host" | "none")
                {
                    continue;
                }
                let is_meant = dns_names(record, network).iter().any(|own| {
                    own.eq_ignore_ascii_case(wanted) || is_in_network(wanted, own, network)
                });
                if is_meant && let Ok(address) = end.ip_address.parse() {
                    found.push(address);
                }
            }
        }
        found
    }

    /// The container behind a name that only the asker has: `--link name:alias`.
    fn linked(&self, name: &str) -> Option<String> {
        let asker = self.asker?;
        let of_ends = asker
            .networks
            .values()
            .flat_map(|end| end.links.iter().flatten());
        let links = asker.host_config.links.iter().flatten().chain(of_ends);
        let mut pairs = links.filter_map(|link| link.split_once(':'));
        let (container, _) = pairs.find(|(_, alias)| alias.eq_ignore_ascii_case(name))?;
        let found = self.engine.containers.find(container).ok()?;
        Some(found.record().name.clone())
    }
}

/// Whether `wanted` is `own.network`.
fn is_in_network(wanted: &str, own: &str, network: &str) -> bool {
    wanted.len() == own.len() + 1 + network.len()
        && wanted
            .get(..own.len())
            .is_some_and(|part| part.eq_ignore_ascii_case(own))
        && wanted
            .get(own.len()..)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|part| part.eq_ignore_ascii_case(network))
}

/// Whom to ask: the container's `--dns`, the engine's, or the host's own as they are now.
fn upstreams(engine: &Engine, asker: Option<&Record>) -> Vec<SocketAddr> {
    let own = asker.map_or(&[][..], |record| &record.host_config.dns);
    let chosen = match own.is_empty() {
        true => &engine.settings.dns[..],
        false => own,
    };
    let ours: Vec<Ipv4Addr> = engine
        .network
        .all()
        .iter()
        .filter_map(|net| net.record.pool.as_ref().map(|pool| pool.gateway))
        .collect();
    let parse = |text: &str| text.parse::<IpAddr>().ok();
    let mut all: Vec<IpAddr> = chosen.iter().filter_map(|text| parse(text)).collect();
    if all.is_empty() {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        });
        all = lines.filter_map(parse).collect();
    }
    // Never ourselves, which would go round.
    all.retain(|address| !matches!(address, IpAddr::V4(v4) if ours.contains(v4)));
    all.truncate(UPSTREAMS);
    all.into_iter()
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_also_had_with_their_network() {
        assert!(is_in_network("Web.net", "web", "Net"));
        assert!(is_in_network("a.b.net", "a.b", "net"));
        for other in ["web", "web.", "web.nets", "xweb.net", "webxnet", "ä.net"] {
            assert!(!is_in_network(other, "web", "net"), "{other}");
        }
    }

    #[tokio::test]
    async fn the_first_server_that_works_answers() {
        let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
        let query = Query::parse(question).unwrap();
        let answer_with = |outcome: Option<Outcome>| async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    let asked = Query::parse(&buffer[..length]).unwrap();
                    let answer = match outcome {
                        Some(outcome) => asked.without_data(outcome),
                        None => asked.addresses(&[Ipv4Addr::new(1, 2, 3, 4)]),
                    };
                    // Somebody else's answer comes first.
                    let mut wrong = answer.clone();
                    wrong[0] ^= 1;
                    socket.send_to(&wrong, from).await.unwrap();
                    socket.send_to(&answer, from).await.unwrap();
                }
            });
            address
        };
        let failing = answer_with(Some(Outcome::Failed)).await;
        let missing = answer_with(Some(Outcome::NoSuchName)).await;
        let good = answer_with(None).await;
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let silent = (silent.local_addr().unwrap(), silent);
        let expected = query.addresses(&[Ipv4Addr::new(1, 2, 3, 4)]);
        assert_eq!(ask(&query, &[failing, good], false).await, expected);
        assert_eq!(ask(&query, &[silent.0, good], false).await, expected);
        // "No such name" is an answer; asking on would be wrong.
        let none = ask(&query, &[missing, good], false).await;
        assert_eq!(none, query.without_data(Outcome::NoSuchName));
        let failed = query.without_data(Outcome::Failed);
        assert_eq!(ask(&query, &[failing], false).await, failed);
        assert_eq!(ask(&query, &[], false).await, failed);
    }
}
