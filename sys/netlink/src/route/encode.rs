//! Requests as bytes.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressMessage,
};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::{Request, RouteEntry, moving, tc};
use crate::socket::{pad, push_header};

pub(super) const DO: u16 = NLM_F_REQUEST | NLM_F_ACK;
pub(super) const CREATE: u16 = DO | NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = DO | NLM_F_CREATE | NLM_F_REPLACE;

/// Appends `request`, asking for an acknowledgement.
pub(super) fn push(buffer: &mut Vec<u8>, request: &Request<'_>, sequence: u32) {
    match request {
        Request::CreateBridge { name, mac, mtu } => {
            let message = link(vec![
                LinkAttribute::IfName(name.clone()),
                LinkAttribute::Address(mac.0.to_vec()),
                LinkAttribute::Mtu(*mtu),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
            ]);
            append(buffer, libc::RTM_NEWLINK, CREATE, sequence, &message);
        }
        Request::CreateVeth { .. } => {
            append(buffer, libc::RTM_NEWLINK, CREATE, sequence, &veth(request));
        }
        Request::SetUp { name } => {
            let message = up(link(vec![LinkAttribute::IfName(name.clone())]));
            append(buffer, libc::RTM_NEWLINK, DO, sequence, &message);
        }
        Request::SetDown { name } => {
            let mut message = link(vec![LinkAttribute::IfName(name.clone())]);
            message.header.change_mask = LinkFlags::Up;
            append(buffer, libc::RTM_NEWLINK, DO, sequence, &message);
        }
        Request::Rename { index, name } => {
            let mut message = link(vec![LinkAttribute::IfName(name.clone())]);
            message.header.index = *index;
            append(buffer, libc::RTM_NEWLINK, DO, sequence, &message);
        }
        Request::Move { index, name, netns } => {
            moving::push_move(buffer, sequence, *index, name, *netns);
        }
        Request::AddAnyAddress { index, address } => match address.address {
            IpAddr::V4(ipv4) => {
                let message = address_message(*index, ipv4, address.prefix_len);
                append(buffer, libc::RTM_NEWADDR, CREATE, sequence, &message);
            }
            IpAddr::V6(_) => moving::push_address(buffer, sequence, *index, *address),
        },
        Request::Configure {
            name,
            mac,
            mtu,
            controller,
        } => {
            let mut attributes = vec![LinkAttribute::IfName(name.clone())];
            attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
            attributes.extend(mtu.map(LinkAttribute::Mtu));
            attributes.extend(controller.map(LinkAttribute::Controller));
            append(buffer, libc::RTM_NEWLINK, DO, sequence, &link(attributes));
        }
        Request::BridgePort {
            name,
            is_hairpin,
            is_isolated,
        } => {
            let port = InfoPortData::BridgePort(vec![
                InfoBridgePort::HairpinMode(*is_hairpin),
                InfoBridgePort::Isolated(*is_isolated),
            ]);
            let message = link(vec![
                LinkAttribute::IfName(name.clone()),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::PortKind(InfoPortKind::Bridge),
                    LinkInfo::PortData(port),
                ]),
            ]);
            append(buffer, libc::RTM_NEWLINK, DO, sequence, &message);
        }
        Request::DeleteLink { name } => {
            let message = link(vec![LinkAttribute::IfName(name.clone())]);
            append(buffer, libc::RTM_DELLINK, DO, sequence, &message);
        }
        Request::AddAddress {
            index,
            address,
            prefix_len,
        } => {
            let message = address_message(*index, *address, *prefix_len);
            append(buffer, libc::RTM_NEWADDR, CREATE, sequence, &message);
        }
        Request::AddAddressOnly {
            index,
            address,
            prefix_len,
        } => {
            let mut message = address_message(*index, *address, *prefix_len);
            let flags = AddressAttribute::Flags(AddressFlags::Noprefixroute);
            message.attributes.push(flags);
            append(buffer, libc::RTM_NEWADDR, CREATE, sequence, &message);
        }
        Request::RemoveAddress {
            index,
            address,
            prefix_len,
        } => {
            let message = address_message(*index, *address, *prefix_len);
            append(buffer, libc::RTM_DELADDR, DO, sequence, &message);
        }
        Request::AddRoute(route) => {
            let message = route_message(route);
            append(buffer, libc::RTM_NEWROUTE, CREATE, sequence, &message);
        }
        Request::ReplaceRoute(route) => {
            let message = route_message(route);
            append(buffer, libc::RTM_NEWROUTE, REPLACE, sequence, &message);
        }
        Request::AddIngress { index } => tc::push_ingress(buffer, CREATE, sequence, *index),
        Request::RemoveIngress { index } => tc::push_no_ingress(buffer, DO, sequence, *index),
        Request::Redirect { from, to } => {
            tc::push_redirect(buffer, CREATE, sequence, *from, *to);
        }
    }
}

/// Appends the look-up of one link by name (answered by the link or an error, no acknowledgement).
pub(super) fn push_lookup(buffer: &mut Vec<u8>, name: &str) {
    let message = link(vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ]);
    append(buffer, libc::RTM_GETLINK, NLM_F_REQUEST, 1, &message);
}

/// The payload that asks for all links.
pub(super) fn list_links() -> Vec<u8> {
    emitted(&link(vec![LinkAttribute::ExtMask(vec![
        LinkExtentMask::SkipStats,
    ])]))
}

/// The payload that asks for all IPv4 addresses.
pub(super) fn list_addresses() -> Vec<u8> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    emitted(&message)
}

/// The payload that asks for all IPv4 routes.
pub(super) fn list_routes() -> Vec<u8> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    emitted(&message)
}

fn veth(request: &Request<'_>) -> LinkMessage {
    let Request::CreateVeth {
        name,
        mac,
        controller,
        mtu,
        peer_name,
        peer_mac,
        peer_netns,
    } = request
    else {
        return LinkMessage::default();
    };
    let peer = link(vec![
        LinkAttribute::IfName(peer_name.clone()),
        LinkAttribute::Address(peer_mac.0.to_vec()),
        LinkAttribute::Mtu(*mtu),
        LinkAttribute::NetNsFd(peer_netns.as_raw_fd()),
    ]);
    up(link(vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(*mtu),
        LinkAttribute::Controller(*controller),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ]))
}

fn route_message(route: &RouteEntry) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.prefix_len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    message.header.kind = RouteType::Unicast;
    let mut attributes = Vec::with_capacity(3);
    if route.prefix_len > 0 {
        let destination = RouteAddress::Inet(route.destination);
        attributes.push(RouteAttribute::Destination(destination));
    }
    let gateway = route.gateway.map(RouteAddress::Inet);
    attributes.extend(gateway.map(RouteAttribute::Gateway));
    attributes.extend(route.output.map(RouteAttribute::Oif));
    message.attributes = attributes;
    message
}

fn address_message(index: u32, address: Ipv4Addr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: AddressFamily::Inet,
        prefix_len,
        index,
        ..AddressHeader::default()
    };
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    if prefix_len < 31 {
        let host_bits = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
        message
            .attributes
            .push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

pub(super) fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    message
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

pub(super) fn append(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    message: &impl Emitable,
) {
    push_header(buffer, kind, flags, sequence, message.buffer_len());
    buffer.extend(emitted(message));
    pad(buffer);
}

pub(super) fn emitted(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}
