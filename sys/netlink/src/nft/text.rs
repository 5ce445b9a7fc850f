//! A table in the words of `nft list table`.

use std::fmt;
use std::net::Ipv4Addr;

use super::{Action, Chain, Hook, Match, Protocol, Rule, Table, Verdict};

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table ip {} {{", self.name)?;
        for (position, chain) in self.chains.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        writeln!(f, "\t\ttype {}; policy {};", self.hook, self.policy)?;
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreroutingRaw => "filter hook prerouting priority raw",
            Self::PreroutingNat => "nat hook prerouting priority dstnat",
            Self::OutputNat => "nat hook output priority -100",
            Self::Forward => "filter hook forward priority filter",
            Self::PostroutingNat => "nat hook postrouting priority srcnat",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{}", self.action)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputIs(name) => write!(f, "iifname \"{name}\""),
            Self::InputIsNot(name) => write!(f, "iifname != \"{name}\""),
            Self::OutputIs(name) => write!(f, "oifname \"{name}\""),
            Self::OutputIsNot(name) => write!(f, "oifname != \"{name}\""),
            Self::SourceIn(address, bits) => write!(f, "ip saddr {}", Subnet(*address, *bits)),
            Self::DestinationIn(address, bits) => {
                write!(f, "ip daddr {}", Subnet(*address, *bits))
            }
            Self::DestinationNotIn(address, bits) => {
                write!(f, "ip daddr != {}", Subnet(*address, *bits))
            }
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::DestinationPort(protocol, port) => write!(f, "{protocol} dport {port}"),
            Self::IsTranslated => f.write_str("ct status dnat"),
            Self::EstablishedOrRelated => f.write_str("ct state established,related"),
        }
    }
}

struct Subnet(Ipv4Addr, u8);

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(address, 32) => write!(f, "{address}"),
            Self(address, bits) => write!(f, "{address}/{bits}"),
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

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Translate(address, port) => write!(f, "dnat to {address}:{port}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        })
    }
}
