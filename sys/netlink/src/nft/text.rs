//! A table in the words of `nft list table`.

use std::fmt;

use super::{Action, Chain, Hook, Match, Rule, Table, Verdict};

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
            Self::SourceIn(address, 32) => write!(f, "ip saddr {address}"),
            Self::SourceIn(address, bits) => write!(f, "ip saddr {address}/{bits}"),
            Self::EstablishedOrRelated => f.write_str("ct state established,related"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Masquerade => f.write_str("masquerade"),
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
