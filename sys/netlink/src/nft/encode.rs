//! Tables as batches of nf_tables messages.
//!
//! A batch is `BATCH_BEGIN`, messages, `BATCH_END` in one datagram. Numbers in attributes are big
//! endian, except data that is compared with packet fields or kernel words, which has their order.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

use super::{Action, Chain, Hook, Match, Protocol, Rule, Table, Verdict};
use crate::socket::{pad, push_header};

const SUBSYSTEM: u16 = 10 << 8; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10; // NFNL_MSG_BATCH_BEGIN
const BATCH_END: u16 = 0x11; // NFNL_MSG_BATCH_END
const NEW_TABLE: u16 = SUBSYSTEM; // NFT_MSG_NEWTABLE
const DELETE_TABLE: u16 = SUBSYSTEM | 2; // NFT_MSG_DELTABLE
const NEW_CHAIN: u16 = SUBSYSTEM | 3; // NFT_MSG_NEWCHAIN
const NEW_RULE: u16 = SUBSYSTEM | 6; // NFT_MSG_NEWRULE

const NESTED: u16 = 1 << 15; // NLA_F_NESTED
const REGISTER: u32 = 1; // NFT_REG_1
const VERDICT_REGISTER: u32 = 0; // NFT_REG_VERDICT
const EQUAL: u32 = 0; // NFT_CMP_EQ
const NOT_EQUAL: u32 = 1; // NFT_CMP_NEQ
const META_INPUT_NAME: u32 = 6; // NFT_META_IIFNAME
const META_OUTPUT_NAME: u32 = 7; // NFT_META_OIFNAME
const PAYLOAD_NETWORK: u32 = 1; // NFT_PAYLOAD_NETWORK_HEADER
const CT_STATE: u32 = 0; // NFT_CT_STATE
/// NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED)
const STATE_ESTABLISHED_RELATED: u32 = 2 | 4;
const SOURCE_OFFSET: u32 = 12; // struct iphdr.saddr
const DESTINATION_OFFSET: u32 = 16; // struct iphdr.daddr
const PORT_OFFSET: u32 = 2; // struct tcphdr.dest, struct udphdr.dest
const PAYLOAD_TRANSPORT: u32 = 2; // NFT_PAYLOAD_TRANSPORT_HEADER
const META_PROTOCOL: u32 = 16; // NFT_META_L4PROTO
const CT_STATUS: u32 = 2; // NFT_CT_STATUS
const STATUS_DNAT: u32 = 1 << 5; // IPS_DST_NAT
const FIB_ADDRESS_TYPE: u32 = 3; // NFT_FIB_RESULT_ADDRTYPE
const FIB_DESTINATION: u32 = 2; // NFTA_FIB_F_DADDR
const SECOND_REGISTER: u32 = 2; // NFT_REG_2
const NAT_DESTINATION: u32 = 1; // NFT_NAT_DNAT
const PRIORITY_RAW: i32 = -300; // NF_IP_PRI_RAW
const PRIORITY_DESTINATION_NAT: i32 = -100; // NF_IP_PRI_NAT_DST
const PRIORITY_FILTER: i32 = 0; // NF_IP_PRI_FILTER
const PRIORITY_SOURCE_NAT: i32 = 100; // NF_IP_PRI_NAT_SRC
const HOOK_PREROUTING: u32 = 0; // NF_INET_PRE_ROUTING
const HOOK_FORWARD: u32 = 2; // NF_INET_FORWARD
const HOOK_OUTPUT: u32 = 3; // NF_INET_LOCAL_OUT
const HOOK_POSTROUTING: u32 = 4; // NF_INET_POST_ROUTING

/// A whole transaction as bytes, and what each of its messages was, for error messages.
pub(super) struct Batch {
    bytes: Vec<u8>,
    parts: Vec<String>,
}

impl Batch {
    /// All messages, begin and end included.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Sequence number of the message that is acknowledged when the transaction is committed.
    pub(super) fn last_sequence(&self) -> u32 {
        u32::try_from(self.parts.len()).unwrap_or(u32::MAX)
    }

    /// What the message with this sequence number was.
    pub(super) fn part(&self, sequence: u32) -> &str {
        let at = usize::try_from(sequence).unwrap_or(0).checked_sub(1);
        at.and_then(|at| self.parts.get(at))
            .map_or("transaction", String::as_str)
    }
}

/// Add (so that the deletion can't fail), delete, add with all content.
pub(super) fn replace(table: &Table) -> Batch {
    let mut builder = Builder::begin();
    builder.table(NEW_TABLE, &table.name);
    builder.table(DELETE_TABLE, &table.name);
    builder.table(NEW_TABLE, &table.name);
    for chain in &table.chains {
        builder.chain(&table.name, chain);
        for rule in &chain.rules {
            builder.rule(&table.name, &chain.name, rule);
        }
    }
    builder.end()
}

/// Add (so that the deletion can't fail), delete.
pub(super) fn remove(name: &str) -> Batch {
    let mut builder = Builder::begin();
    builder.table(NEW_TABLE, name);
    builder.table(DELETE_TABLE, name);
    builder.end()
}

struct Builder {
    batch: Batch,
    /// Where the header of the newest message starts.
    newest: usize,
}

impl Builder {
    fn begin() -> Self {
        let mut bytes = Vec::with_capacity(1024);
        push_header(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, 0, 4);
        bytes.extend_from_slice(&family_header(0, 10));
        Self {
            batch: Batch {
                bytes,
                parts: Vec::new(),
            },
            newest: 0,
        }
    }

    /// Marks the newest message as the one to acknowledge, and closes the batch.
    fn end(mut self) -> Batch {
        let at = self.newest + 6;
        if let Some(flags) = self.batch.bytes.get_mut(at..at + 2) {
            let wanted = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
            flags.copy_from_slice(&wanted.to_ne_bytes());
        }
        let sequence = self.batch.last_sequence().saturating_add(1);
        push_header(&mut self.batch.bytes, BATCH_END, NLM_F_REQUEST, sequence, 4);
        self.batch.bytes.extend_from_slice(&family_header(0, 10));
        self.batch
    }

    fn table(&mut self, kind: u16, name: &str) {
        let verb = if kind == DELETE_TABLE {
            "delete"
        } else {
            "add"
        };
        self.message(kind, 0, format!("{verb} table {name}"), |out| {
            string(out, 1, name); // NFTA_TABLE_NAME
        });
    }

    fn chain(&mut self, table: &str, chain: &Chain) {
        self.message(NEW_CHAIN, 0, format!("add chain {}", chain.name), |out| {
            let (kind, number, priority) = match chain.hook {
                Hook::PreroutingRaw => ("filter", HOOK_PREROUTING, PRIORITY_RAW),
                Hook::PreroutingNat => ("nat", HOOK_PREROUTING, PRIORITY_DESTINATION_NAT),
                Hook::OutputNat => ("nat", HOOK_OUTPUT, PRIORITY_DESTINATION_NAT),
                Hook::Forward => ("filter", HOOK_FORWARD, PRIORITY_FILTER),
                Hook::PostroutingNat => ("nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT),
            };
            string(out, 1, table); // NFTA_CHAIN_TABLE
            string(out, 3, &chain.name); // NFTA_CHAIN_NAME
            nested(out, 4, |out| {
                // NFTA_CHAIN_HOOK
                number_be(out, 1, number); // NFTA_HOOK_HOOKNUM
                attribute(out, 2, &priority.to_be_bytes()); // NFTA_HOOK_PRIORITY
            });
            number_be(out, 5, verdict_code(chain.policy)); // NFTA_CHAIN_POLICY
            string(out, 7, kind); // NFTA_CHAIN_TYPE
        });
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.message(
            NEW_RULE,
            NLM_F_APPEND,
            format!("add rule {chain}: {rule}"),
            |out| {
                string(out, 1, table); // NFTA_RULE_TABLE
                string(out, 2, chain); // NFTA_RULE_CHAIN
                nested(out, 4, |out| {
                    // NFTA_RULE_EXPRESSIONS
                    for condition in &rule.matches {
                        push_match(out, condition);
                    }
                    push_action(out, rule.action);
                });
            },
        );
    }

    fn message(&mut self, kind: u16, flags: u16, part: String, fill: impl FnOnce(&mut Vec<u8>)) {
        self.batch.parts.push(part);
        let mut payload = Vec::with_capacity(128);
        payload.extend_from_slice(&family_header(NFPROTO_IPV4, 0));
        fill(&mut payload);
        let create = if kind == DELETE_TABLE {
            0
        } else {
            NLM_F_CREATE
        };
        self.newest = self.batch.bytes.len();
        let sequence = self.batch.last_sequence();
        let flags = NLM_F_REQUEST | create | flags;
        push_header(&mut self.batch.bytes, kind, flags, sequence, payload.len());
        self.batch.bytes.extend_from_slice(&payload);
        pad(&mut self.batch.bytes);
    }
}

const NFPROTO_IPV4: u8 = 2;

/// `struct nfgenmsg`: family, version 0, resource id (big endian).
fn family_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn push_match(out: &mut Vec<u8>, condition: &Match) {
    match condition {
        Match::InputIs(name) => link_name(out, META_INPUT_NAME, EQUAL, name),
        Match::InputIsNot(name) => link_name(out, META_INPUT_NAME, NOT_EQUAL, name),
        Match::OutputIs(name) => link_name(out, META_OUTPUT_NAME, EQUAL, name),
        Match::OutputIsNot(name) => link_name(out, META_OUTPUT_NAME, NOT_EQUAL, name),
        Match::SourceIn(address, prefix_len) => {
            address_in(out, SOURCE_OFFSET, EQUAL, *address, *prefix_len);
        }
        Match::DestinationIn(address, prefix_len) => {
            address_in(out, DESTINATION_OFFSET, EQUAL, *address, *prefix_len);
        }
        Match::DestinationNotIn(address, prefix_len) => {
            address_in(out, DESTINATION_OFFSET, NOT_EQUAL, *address, *prefix_len);
        }
        Match::DestinationIsLocal => {
            expression(out, "fib", |out| {
                number_be(out, 1, REGISTER); // NFTA_FIB_DREG
                number_be(out, 2, FIB_ADDRESS_TYPE); // NFTA_FIB_RESULT
                number_be(out, 3, FIB_DESTINATION); // NFTA_FIB_FLAGS
            });
            compare(out, EQUAL, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
        }
        Match::DestinationPort(protocol, port) => destination_port(out, *protocol, *port),
        Match::EstablishedOrRelated => connection_has(out, CT_STATE, STATE_ESTABLISHED_RELATED),
        Match::IsTranslated => connection_has(out, CT_STATUS, STATUS_DNAT),
    }
}

/// Whether the connection's word `key` has any of `bits`.
fn connection_has(out: &mut Vec<u8>, key: u32, bits: u32) {
    expression(out, "ct", |out| {
        number_be(out, 1, REGISTER); // NFTA_CT_DREG
        number_be(out, 2, key); // NFTA_CT_KEY
    });
    mask(out, &bits.to_ne_bytes());
    compare(out, NOT_EQUAL, &0u32.to_ne_bytes());
}

fn destination_port(out: &mut Vec<u8>, protocol: Protocol, port: u16) {
    expression(out, "meta", |out| {
        number_be(out, 1, REGISTER); // NFTA_META_DREG
        number_be(out, 2, META_PROTOCOL); // NFTA_META_KEY
    });
    let number: u8 = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    compare(out, EQUAL, &[number]);
    load(out, PAYLOAD_TRANSPORT, PORT_OFFSET, 2);
    compare(out, EQUAL, &port.to_be_bytes());
}

/// Loads bytes of the packet into the register.
fn load(out: &mut Vec<u8>, base: u32, offset: u32, length: u32) {
    expression(out, "payload", |out| {
        number_be(out, 1, REGISTER); // NFTA_PAYLOAD_DREG
        number_be(out, 2, base); // NFTA_PAYLOAD_BASE
        number_be(out, 3, offset); // NFTA_PAYLOAD_OFFSET
        number_be(out, 4, length); // NFTA_PAYLOAD_LEN
    });
}

/// Puts a constant into a register.
fn constant(out: &mut Vec<u8>, register: u32, value: &[u8]) {
    expression(out, "immediate", |out| {
        number_be(out, 1, register); // NFTA_IMMEDIATE_DREG
        nested(out, 2, |out| attribute(out, 1, value)); // NFTA_IMMEDIATE_DATA, NFTA_DATA_VALUE
    });
}

fn push_action(out: &mut Vec<u8>, action: Action) {
    match action {
        Action::Masquerade => expression(out, "masq", |_| {}),
        Action::Translate(address, port) => {
            constant(out, REGISTER, &address.octets());
            constant(out, SECOND_REGISTER, &port.to_be_bytes());
            expression(out, "nat", |out| {
                number_be(out, 1, NAT_DESTINATION); // NFTA_NAT_TYPE
                number_be(out, 2, u32::from(NFPROTO_IPV4)); // NFTA_NAT_FAMILY
                number_be(out, 3, REGISTER); // NFTA_NAT_REG_ADDR_MIN
                number_be(out, 5, SECOND_REGISTER); // NFTA_NAT_REG_PROTO_MIN
            });
        }
        Action::Verdict(verdict) => expression(out, "immediate", |out| {
            number_be(out, 1, VERDICT_REGISTER); // NFTA_IMMEDIATE_DREG
            nested(out, 2, |out| {
                // NFTA_IMMEDIATE_DATA
                nested(out, 2, |out| {
                    // NFTA_DATA_VERDICT
                    number_be(out, 1, verdict_code(verdict)); // NFTA_VERDICT_CODE
                });
            });
        }),
    }
}

fn verdict_code(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop => 0,   // NF_DROP
        Verdict::Accept => 1, // NF_ACCEPT
    }
}

/// Compares a link's name, padded with zeros to `IFNAMSIZ`.
fn link_name(out: &mut Vec<u8>, key: u32, operator: u32, name: &str) {
    expression(out, "meta", |out| {
        number_be(out, 1, REGISTER); // NFTA_META_DREG
        number_be(out, 2, key); // NFTA_META_KEY
    });
    let mut padded = [0u8; libc::IFNAMSIZ];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    compare(out, operator, &padded);
}

fn address_in(out: &mut Vec<u8>, offset: u32, operator: u32, address: Ipv4Addr, prefix_len: u8) {
    load(out, PAYLOAD_NETWORK, offset, 4);
    if prefix_len < 32 {
        let bits = !u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
        mask(out, &bits.to_be_bytes());
    }
    compare(out, operator, &address.octets());
}

/// `register &= mask`.
fn mask(out: &mut Vec<u8>, mask: &[u8; 4]) {
    expression(out, "bitwise", |out| {
        number_be(out, 1, REGISTER); // NFTA_BITWISE_SREG
        number_be(out, 2, REGISTER); // NFTA_BITWISE_DREG
        number_be(out, 3, 4); // NFTA_BITWISE_LEN
        nested(out, 4, |out| attribute(out, 1, mask)); // NFTA_BITWISE_MASK, NFTA_DATA_VALUE
        nested(out, 5, |out| attribute(out, 1, &[0; 4])); // NFTA_BITWISE_XOR, NFTA_DATA_VALUE
    });
}

fn compare(out: &mut Vec<u8>, operator: u32, value: &[u8]) {
    expression(out, "cmp", |out| {
        number_be(out, 1, REGISTER); // NFTA_CMP_SREG
        number_be(out, 2, operator); // NFTA_CMP_OP
        nested(out, 3, |out| attribute(out, 1, value)); // NFTA_CMP_DATA, NFTA_DATA_VALUE
    });
}

fn expression(out: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    nested(out, 1, |out| {
        // NFTA_LIST_ELEM
        string(out, 1, name); // NFTA_EXPR_NAME
        nested(out, 2, fill); // NFTA_EXPR_DATA
    });
}

fn nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::with_capacity(64);
    fill(&mut inner);
    attribute(out, kind | NESTED, &inner);
}

fn string(out: &mut Vec<u8>, kind: u16, text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    attribute(out, kind, &bytes);
}

fn number_be(out: &mut Vec<u8>, kind: u16, number: u32) {
    attribute(out, kind, &number.to_be_bytes());
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    pad(out);
}
