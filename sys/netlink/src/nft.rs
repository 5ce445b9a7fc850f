//! nf_tables: one table, replaced or removed in one transaction.
//!
//! [`Table`] is what a rule set says, as data; it prints exactly as `nft list table` prints it, which
//! is also how it is tested. [`replace`] makes the kernel's table of that name be this one: whoever
//! looks sees the old rules or the new, never none. Tables of others are never touched.
//!
//! Kernel: `include/uapi/linux/netfilter/nf_tables.h`, nf_tables 5.2 or newer.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::NLMSG_ERROR;
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::socket::{self, Socket};

mod encode;
mod text;

/// A table of the `ip` family with all it contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name, at most 255 bytes.
    pub name: String,
    /// Its chains, in order.
    pub chains: Vec<Chain>,
}

/// A base chain: rules the kernel runs at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name within the table.
    pub name: String,
    /// Where packets meet it.
    pub hook: Hook,
    /// What happens to a packet no rule decides on.
    pub policy: Verdict,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where a chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `type filter hook prerouting priority raw`: packets that come in, before anything is known about them.
    PreroutingRaw,
    /// `type nat hook prerouting priority dstnat`: first packets of a connection, coming in.
    PreroutingNat,
    /// `type nat hook output priority -100`: first packets of a connection of the host's own.
    OutputNat,
    /// `type filter hook forward priority filter`: packets that pass through the host.
    Forward,
    /// `type nat hook postrouting priority srcnat`: first packets of a connection, leaving.
    PostroutingNat,
}

/// One rule: all `matches` must hold, then `action` happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Conditions, tested in order.
    pub matches: Vec<Match>,
    /// What happens to a packet that meets them all.
    pub action: Action,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It came in by this link.
    InputIs(String),
    /// It came in by another link.
    InputIsNot(String),
    /// It leaves by this link.
    OutputIs(String),
    /// It leaves by another link.
    OutputIsNot(String),
    /// Its source address is in this subnet (address with host bits zero, 1–32 bits).
    SourceIn(Ipv4Addr, u8),
    /// Its destination address is in this subnet (as above).
    DestinationIn(Ipv4Addr, u8),
    /// Its destination address is not in this subnet (as above).
    DestinationNotIn(Ipv4Addr, u8),
    /// Its destination is one of the host's own addresses (`fib daddr type local`).
    DestinationIsLocal,
    /// It is of this protocol and for this port.
    DestinationPort(Protocol, u16),
    /// Its connection's destination was replaced by [`Action::Translate`] (`ct status dnat`).
    IsTranslated,
    /// It belongs to a connection known already, or one expected by such (`ct state`).
    EstablishedOrRelated,
}

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The end of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A final decision.
    Verdict(Verdict),
    /// Replaces the source address by that of the outgoing link, for the whole connection.
    Masquerade,
    /// Replaces destination address and port, for the whole connection.
    Translate(Ipv4Addr, u16),
}

/// A decision on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on (chains of other tables at the same hook still see it).
    Accept,
    /// It is gone.
    Drop,
}

/// Makes the kernel's table `table.name` equal to `table`, in one transaction.
///
/// # Errors
/// [`Error::Refused`] when the kernel refuses any part; then nothing has changed.
pub fn replace(table: &Table) -> Result<(), Error> {
    transact(
        &encode::replace(table),
        &format!("nft replace table ip {}", table.name),
    )
}

/// Removes the table `name` with all it contains; a table that isn't there is no error.
///
/// # Errors
/// [`Error::Refused`] when the kernel refuses.
pub fn remove(name: &str) -> Result<(), Error> {
    transact(
        &encode::remove(name),
        &format!("nft delete table ip {name}"),
    )
}

/// Sends a batch and waits for its verdict.
///
/// The kernel handles a batch inside `send`: afterwards the queue holds one error per refused
/// message, or the acknowledgement of the last message (the only one that asks for it).
fn transact(batch: &encode::Batch, what: &str) -> Result<(), Error> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    socket.send(batch.bytes())?;
    let mut is_done = false;
    let mut failure = None;
    while socket.receive(|message| {
        if message.kind == NLMSG_ERROR {
            let errno = socket::error_code(message.payload);
            if errno == 0 {
                is_done |= message.sequence == batch.last_sequence();
            } else if failure.is_none() {
                let part = batch.part(message.sequence);
                failure = Some(Error::Refused {
                    request: format!("{what} ({part})"),
                    source: io::Error::from_raw_os_error(errno),
                });
            }
        }
        Ok(())
    })? {}
    match failure {
        Some(failure) => Err(failure),
        None if is_done => Ok(()),
        None => Err(Error::Malformed {
            request: what.to_owned(),
        }),
    }
}
