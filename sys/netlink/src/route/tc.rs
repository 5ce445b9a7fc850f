//! Traffic control: what comes in by one link goes out by another.
//!
//! Kernel: `include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h`, `tc_act/tc_mirred.h`.

use crate::socket::{pad, push_header};

/// `TC_H_INGRESS`, and the handle its queueing discipline has.
const INGRESS: u32 = 0xFFFF_FFF1;
const INGRESS_HANDLE: u32 = 0xFFFF_0000;
/// Of a filter: its place among others, and `ETH_P_ALL` in network order.
const PRIORITY: u32 = 1 << 16;
const ALL_PROTOCOLS: u16 = 3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const FIRST_ACTION: u16 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

/// `struct tc_u32_sel` with one key that every packet matches: flag `TC_U32_TERMINAL`, one key, all else zero.
const EVERY_PACKET: [u8; 32] = {
    let mut selector = [0; 32];
    selector[0] = 1;
    selector[2] = 1;
    selector
};

/// `TC_ACT_STOLEN`: nobody else sees the packet.
const STOLEN: i32 = 4;
/// `TCA_EGRESS_REDIR`.
const REDIRECT_OUT: i32 = 1;

/// Appends the request that lets filters see what comes in by the link `index`.
pub(super) fn push_ingress(buffer: &mut Vec<u8>, flags: u16, sequence: u32, index: u32) {
    let mut body = header(index, INGRESS_HANDLE, INGRESS, 0);
    attribute(&mut body, TCA_KIND, b"ingress\0");
    push(buffer, libc::RTM_NEWQDISC, flags, sequence, &body);
}

/// Appends the request that takes that back, with its filters.
pub(super) fn push_no_ingress(buffer: &mut Vec<u8>, flags: u16, sequence: u32, index: u32) {
    let body = header(index, INGRESS_HANDLE, INGRESS, 0);
    push(buffer, libc::RTM_DELQDISC, flags, sequence, &body);
}

/// Appends the request that sends what comes in by the link `from` out by the link `to`.
pub(super) fn push_redirect(buffer: &mut Vec<u8>, flags: u16, sequence: u32, from: u32, to: u32) {
    let info = PRIORITY | u32::from(ALL_PROTOCOLS.to_be());
    let mut body = header(from, 0, INGRESS_HANDLE, info);
    attribute(&mut body, TCA_KIND, b"u32\0");
    let mut mirred = [0; 28];
    mirred[8..12].copy_from_slice(&STOLEN.to_ne_bytes());
    mirred[20..24].copy_from_slice(&REDIRECT_OUT.to_ne_bytes());
    mirred[24..].copy_from_slice(&to.to_ne_bytes());
    let action = nested(|action| {
        attribute(action, TCA_ACT_KIND, b"mirred\0");
        let options = nested(|options| attribute(options, TCA_MIRRED_PARMS, &mirred));
        attribute(action, TCA_ACT_OPTIONS, &options);
    });
    let options = nested(|options| {
        attribute(options, TCA_U32_SEL, &EVERY_PACKET);
        let actions = nested(|actions| attribute(actions, FIRST_ACTION, &action));
        attribute(options, TCA_U32_ACT, &actions);
    });
    attribute(&mut body, TCA_OPTIONS, &options);
    push(buffer, libc::RTM_NEWTFILTER, flags, sequence, &body);
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let words = [0, index, handle, parent, info];
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn nested(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    fill(&mut bytes);
    bytes
}

/// Appends an attribute. All of this module are short.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    pad(body);
}

fn push(buffer: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    push_header(buffer, kind, flags, sequence, body.len());
    buffer.extend(body);
    pad(buffer);
}
