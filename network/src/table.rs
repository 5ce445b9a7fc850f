//! The firewall table of a bridge: what leaves, what comes in, and which ports of the host lead inside.
//!
//! docs/firewall.md shows it whole and says why each rule is there.

use std::fmt;
use std::net::Ipv4Addr;

use atoll_netlink::nft::{Action, Chain, Hook, Match, Rule, Table, Verdict};
use serde::{Deserialize, Serialize};

use crate::BridgeConfig;

/// Addresses of loopback links: the host's own programs, and nobody else.
const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);

/// A protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As the kernel's firewall names it.
    fn of_rules(self) -> atoll_netlink::nft::Protocol {
        match self {
            Self::Tcp => atoll_netlink::nft::Protocol::Tcp,
            Self::Udp => atoll_netlink::nft::Protocol::Udp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to a port of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Published {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Which of the host's addresses; `0.0.0.0` for all.
    pub host_address: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The endpoint's address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// The table of `config` with the rules of its published ports.
pub(crate) fn table(config: &BridgeConfig, published: &[Published]) -> Table {
    let mut chains = Vec::new();
    if !published.is_empty() {
        chains.push(guard(config));
        chains.push(chain(
            "prerouting",
            Hook::PreroutingNat,
            incoming(published),
        ));
        chains.push(chain("output", Hook::OutputNat, own(published)));
    }
    chains.push(forward(config, published));
    let rules = postrouting(config, published);
    if !rules.is_empty() {
        chains.push(chain("postrouting", Hook::PostroutingNat, rules));
    }
    Table {
        name: config.table_name(),
        chains,
    }
}

/// Endpoints must not reach the host's loopback, nor seem to come from it, though packets of published ports may cross
/// the bridge with such addresses (`route_localnet`; CVE-2020-8558).
fn guard(config: &BridgeConfig) -> Chain {
    let (network, bits) = LOOPBACK;
    let from_bridge = || Match::InputIs(config.name().to_owned());
    let rules = vec![
        drop_when(vec![from_bridge(), Match::DestinationIn(network, bits)]),
        drop_when(vec![from_bridge(), Match::SourceIn(network, bits)]),
    ];
    chain("guard", Hook::PreroutingRaw, rules)
}

/// From other hosts and from endpoints. Loopback addresses are the host's own affair: a packet from outside that
/// claims one meets no rule here and is dropped by routing.
fn incoming(published: &[Published]) -> Vec<Rule> {
    let reachable = published
        .iter()
        .filter(|port| !port.host_address.is_loopback());
    reachable
        .map(|port| {
            let mut matches = destination(port);
            if port.host_address.is_unspecified() {
                matches.push(Match::DestinationNotIn(LOOPBACK.0, LOOPBACK.1));
            }
            translate(matches, port)
        })
        .collect()
}

/// From programs of the host itself.
fn own(published: &[Published]) -> Vec<Rule> {
    published
        .iter()
        .map(|port| translate(destination(port), port))
        .collect()
}

fn destination(port: &Published) -> Vec<Match> {
    vec![match port.host_address.is_unspecified() {
        true => Match::DestinationIsLocal,
        false => Match::DestinationIn(port.host_address, 32),
    }]
}

fn translate(mut matches: Vec<Match>, port: &Published) -> Rule {
    matches.push(Match::DestinationPort(
        port.protocol.of_rules(),
        port.host_port,
    ));
    Rule {
        matches,
        action: Action::Translate(port.address, port.port),
    }
}

fn forward(config: &BridgeConfig, published: &[Published]) -> Chain {
    let input = || Match::InputIs(config.name().to_owned());
    let output = || Match::OutputIs(config.name().to_owned());
    let mut rules = Vec::new();
    if config.is_internal() {
        // Only its own endpoints, whose packets the bridge carries by itself unless `br_netfilter` shows them here.
        rules.push(accept_when(vec![input(), output()]));
        rules.push(drop_when(vec![input()]));
    } else {
        rules.push(accept_when(vec![input()]));
        rules.push(accept_when(vec![output(), Match::EstablishedOrRelated]));
        if !published.is_empty() {
            rules.push(accept_when(vec![output(), Match::IsTranslated]));
        }
    }
    rules.push(drop_when(vec![output()]));
    chain("forward", Hook::Forward, rules)
}

fn postrouting(config: &BridgeConfig, published: &[Published]) -> Vec<Rule> {
    if config.is_internal() {
        return Vec::new();
    }
    let name = || config.name().to_owned();
    let subnet = || Match::SourceIn(config.subnet().network(), config.subnet().prefix_len());
    let masquerade = |matches| Rule {
        matches,
        action: Action::Masquerade,
    };
    let mut rules = Vec::new();
    if config.is_masqueraded() {
        rules.push(masquerade(vec![subnet(), Match::OutputIsNot(name())]));
    }
    if !published.is_empty() {
        // An endpoint that asks for a port of its own network: the answer must come back this way.
        rules.push(masquerade(vec![
            subnet(),
            Match::OutputIs(name()),
            Match::IsTranslated,
        ]));
        // The host asks by 127.0.0.1, which nobody could answer.
        rules.push(masquerade(vec![
            Match::SourceIn(LOOPBACK.0, LOOPBACK.1),
            Match::OutputIs(name()),
        ]));
    }
    rules
}

fn chain(name: &str, hook: Hook, rules: Vec<Rule>) -> Chain {
    Chain {
        name: name.to_owned(),
        hook,
        policy: Verdict::Accept,
        rules,
    }
}

fn accept_when(matches: Vec<Match>) -> Rule {
    Rule {
        matches,
        action: Action::Verdict(Verdict::Accept),
    }
}

fn drop_when(matches: Vec<Match>) -> Rule {
    Rule {
        matches,
        action: Action::Verdict(Verdict::Drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ipv4Net;

    #[test]
    fn a_table_with_ports_reads_like_this() {
        let (gateway, subnet) = Ipv4Net::parse_with_address("172.17.0.1/16").unwrap();
        let config = BridgeConfig::new("atoll0", subnet, gateway, 1500).unwrap();
        let port = |protocol, host_address, host_port| Published {
            protocol,
            host_address,
            host_port,
            address: Ipv4Addr::new(172, 17, 0, 2),
            port: 80,
        };
        let published = [
            port(Protocol::Tcp, Ipv4Addr::UNSPECIFIED, 8080),
            port(Protocol::Udp, Ipv4Addr::LOCALHOST, 53),
        ];
        let expected = "\
table ip atoll-atoll0 {
\tchain guard {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname \"atoll0\" ip daddr 127.0.0.0/8 drop
\t\tiifname \"atoll0\" ip saddr 127.0.0.0/8 drop
\t}

\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tfib daddr type local ip daddr != 127.0.0.0/8 tcp dport 8080 dnat to 172.17.0.2:80
\t}

\tchain output {
\t\ttype nat hook output priority -100; policy accept;
\t\tfib daddr type local tcp dport 8080 dnat to 172.17.0.2:80
\t\tip daddr 127.0.0.1 udp dport 53 dnat to 172.17.0.2:80
\t}

\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"atoll0\" accept
\t\toifname \"atoll0\" ct state established,related accept
\t\toifname \"atoll0\" ct status dnat accept
\t\toifname \"atoll0\" drop
\t}

\tchain postrouting {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tip saddr 172.17.0.0/16 oifname != \"atoll0\" masquerade
\t\tip saddr 172.17.0.0/16 oifname \"atoll0\" ct status dnat masquerade
\t\tip saddr 127.0.0.0/8 oifname \"atoll0\" masquerade
\t}
}
";
        assert_eq!(config.table(&published).to_string(), expected);
    }

    #[test]
    fn an_internal_network_lets_nothing_through() {
        let (gateway, subnet) = Ipv4Net::parse_with_address("10.9.0.1/24").unwrap();
        let config = BridgeConfig::new("b", subnet, gateway, 1500)
            .unwrap()
            .internal(true);
        let expected = "\
table ip atoll-b {
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"b\" oifname \"b\" accept
\t\tiifname \"b\" drop
\t\toifname \"b\" drop
\t}
}
";
        assert_eq!(config.table(&[]).to_string(), expected);
    }
}
