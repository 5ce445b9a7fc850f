//! Network card (virtio 1.3 §5.1) on a tap, whose frames go straight between the kernel and guest memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_sys::tap::{self, Offload};

use crate::chain::{Buffers, Chain};
use crate::device::{DeviceError, DeviceType, VirtioDevice, read_config_bytes};
use crate::poller::{Interest, Poller, Watched};
use crate::ring::{Broken, Queues};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Bytes of `virtio_net_hdr` with `num_buffers` (§5.1.6).
pub(crate) const HEADER: u64 = 12;
/// Where `num_buffers` lies in it.
const NUM_BUFFERS: u64 = 10;
/// What a frame has beside its packet: the header, addresses, type and a VLAN tag.
const AROUND_PACKET: u64 = HEADER + 18;
/// The longest packet of an Ethernet, when nothing else is said.
const MTU: u16 = 1500;
/// The longest frame with its header that is still to be cut into such.
const LONG_FRAME: u64 = HEADER + 65_550;
/// Chains that may hold one frame together.
const MAX_MERGED: usize = 64;

/// Feature bits (§5.1.3).
const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;

/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// How a network card is shown to the guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetOptions {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The longest packet of its network, if the guest is to know.
    pub mtu: Option<u16>,
    /// The guest may hand over and get frames without checksum, and long ones to be cut.
    pub offload: bool,
}

/// A network card, or the place for one.
#[derive(Debug)]
pub struct NetDevice {
    card: Option<Card>,
    poller: Poller,
    merges: bool,
    longest: u64,
}

/// A card that is in its place.
#[derive(Debug)]
struct Card {
    tap: Watched,
    features: u64,
    frame: u64,
    config: [u8; 12],
    has_offload: bool,
}

impl Card {
    /// A card whose frames go through `tap`, which the kernel has to agree that it is.
    fn new(tap: OwnedFd, options: &NetOptions) -> Result<Self, DeviceError> {
        tap::set_offload(tap.as_fd(), Offload::empty())
            .map_err(|errno| DeviceError::Kernel("use the tap", errno.into()))?;
        Ok(Self::over(tap, options))
    }

    /// A card over anything that keeps frames apart.
    fn over(tap: OwnedFd, options: &NetOptions) -> Self {
        let mut features = F_MAC | F_STATUS | F_MRG_RXBUF;
        if options.mtu.is_some() {
            features |= F_MTU;
        }
        if options.offload {
            features |= F_CSUM | F_HOST_TSO4 | F_HOST_TSO6;
            features |= F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6;
        }
        let mut config = [0; 12];
        config[..6].copy_from_slice(&options.mac);
        config[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..12].copy_from_slice(&options.mtu.unwrap_or(0).to_le_bytes());
        Self {
            tap: Watched::new(tap, 0),
            features,
            frame: AROUND_PACKET + u64::from(options.mtu.unwrap_or(MTU).max(MTU)),
            config,
            has_offload: options.offload,
        }
    }
}

impl NetDevice {
    /// A card whose frames go through `tap`, opened by [`atoll_sys::tap::open`] with a header of 12 bytes.
    ///
    /// # Errors
    /// [`DeviceError::Kernel`] when it is no tap, or descriptors ran out.
    pub fn new(tap: OwnedFd, options: &NetOptions) -> Result<Self, DeviceError> {
        Self::of(Some(Card::new(tap, options)?))
    }

    /// A place without a card: a [`DeviceType::Placeholder`] until one is plugged in ([`VirtioDevice::exchange`]).
    ///
    /// # Errors
    /// [`DeviceError::Kernel`] when descriptors ran out.
    pub fn empty() -> Result<Self, DeviceError> {
        Self::of(None)
    }

    fn of(card: Option<Card>) -> Result<Self, DeviceError> {
        Ok(Self {
            card,
            poller: Poller::new()?,
            merges: false,
            longest: 0,
        })
    }

    /// Moves frames from the tap to the guest, as long as there are some and the guest has room for the longest.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let Some(card) = &mut self.card else {
            return Ok(());
        };
        let most = if self.merges { MAX_MERGED } else { 1 };
        let mut interest = Interest::NONE;
        while let Some(chains) = gather(queues, self.longest, most)? {
            let mut room = Buffers::default();
            for chain in &chains {
                room.append(chain.writable.clone());
            }
            let outcome = room.fill_once(card.tap.as_fd());
            let count = match outcome {
                Ok(count) if count as u64 > HEADER => count as u64,
                // Nothing there, or the tap is gone or down: wait for better times.
                outcome => {
                    chains.iter().for_each(|_| queues.undo_pop(RECEIVE));
                    // Broken taps are always readable; only a new buffer makes us try again then.
                    if matches!(outcome, Err(why) if why.kind() == std::io::ErrorKind::WouldBlock) {
                        interest = Interest::READABLE;
                    }
                    break;
                }
            };
            deliver(chains, count, queues)?;
        }
        let _ = self.poller.watch(&mut card.tap, interest);
        Ok(())
    }

    /// Moves frames from the guest to the tap.
    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(TRANSMIT)? {
            let len = chain.readable.len();
            // What the kernel does not take is lost, as on any network.
            if let Some(card) = &self.card
                && len > HEADER
                && len <= LONG_FRAME
            {
                let _ = chain.readable.drain_once(card.tap.as_fd());
            }
            queues.push(TRANSMIT, chain.head(), 0)?;
        }
        Ok(())
    }
}

/// Takes chains, at most `most`, that together hold the `longest` frame; `None` when the guest has not given enough.
fn gather<'m>(
    queues: &mut Queues<'m>,
    longest: u64,
    most: usize,
) -> Result<Option<Vec<Chain<'m>>>, Broken> {
    let mut chains = Vec::new();
    let mut room = 0;
    while room < longest && chains.len() < most {
        let Some(chain) = queues.pop(RECEIVE)? else {
            chains.iter().for_each(|_| queues.undo_pop(RECEIVE));
            return Ok(None);
        };
        // The first must hold the header (§5.1.6.3.1).
        if chain.writable.len() < HEADER {
            return Err(Broken::Request);
        }
        room += chain.writable.len();
        chains.push(chain);
    }
    Ok(Some(chains))
}

/// Returns to the guest the chains a frame of `count` bytes lies in, and takes the others back.
fn deliver(chains: Vec<Chain<'_>>, count: u64, queues: &mut Queues<'_>) -> Result<(), Broken> {
    let mut ends = chains.iter().scan(0, |end, chain| {
        *end += chain.writable.len();
        Some(*end)
    });
    let used = ends
        .position(|end| end >= count)
        .map_or(chains.len(), |last| last + 1);
    let mut left = count;
    for (index, mut chain) in chains.into_iter().enumerate() {
        if index >= used {
            queues.undo_pop(RECEIVE);
            continue;
        }
        let here = left.min(chain.writable.len());
        left -= here;
        if index == 0 {
            // The tap knows nothing of this field.
            let _ = chain.writable.split_front(NUM_BUFFERS);
            chain.writable.write(&(used as u16).to_le_bytes());
        }
        queues.push(RECEIVE, chain.head(), here)?;
    }
    Ok(())
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> DeviceType {
        match self.card {
            Some(_) => DeviceType::Net,
            None => DeviceType::Placeholder,
        }
    }

    fn features(&self) -> u64 {
        self.card.as_ref().map_or(0, |card| card.features)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        if let Some(card) = &self.card {
            read_config_bytes(&card.config, offset, data);
        }
    }

    fn activate(&mut self, features: u64) {
        let Some(card) = &self.card else {
            return;
        };
        self.merges = features & F_MRG_RXBUF != 0;
        let mut offload = Offload::empty();
        if features & F_GUEST_CSUM != 0 {
            offload |= Offload::CHECKSUM;
            offload.set(Offload::TSO4, features & F_GUEST_TSO4 != 0);
            offload.set(Offload::TSO6, features & F_GUEST_TSO6 != 0);
        }
        self.longest = if offload.intersects(Offload::TSO4 | Offload::TSO6) {
            LONG_FRAME
        } else {
            card.frame
        };
        if card.has_offload {
            // Refused means that the kernel finishes every frame, which every guest takes.
            let _ = tap::set_offload(card.tap.as_fd(), offload);
        }
    }

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        match queue {
            RECEIVE => self.receive(queues),
            _ => self.transmit(queues),
        }
    }

    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.fd())
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.receive(queues)
    }

    fn reset(&mut self) {
        if let Some(card) = &mut self.card {
            let _ = self.poller.watch(&mut card.tap, Interest::NONE);
        }
    }

    fn exchange(&mut self, card: Option<(OwnedFd, NetOptions)>) -> Result<(), DeviceError> {
        self.card = match card {
            None => None,
            Some(_) if self.card.is_some() => return Err(DeviceError::Occupied),
            Some((tap, options)) => Some(Card::new(tap, &options)?),
        };
        Ok(())
    }
}

/// A card over a pair of sockets, for tests of all devices.
#[cfg(test)]
pub(crate) fn over_any(tap: OwnedFd) -> NetDevice {
    let card = Card::over(tap, &NetOptions::default());
    NetDevice::of(Some(card)).expect("descriptors are free")
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

    use super::*;
    use crate::driver::{Driver, Part};

    /// A card, and the other end of what it takes for a tap.
    fn start(wanted: u64, options: &NetOptions) -> (Driver, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (tap, wire) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        let device = NetDevice::of(Some(Card::over(tap, options))).unwrap();
        (Driver::with_features(Box::new(device), wanted), wire)
    }

    fn frame(len: usize) -> Vec<u8> {
        let mut frame = vec![0; HEADER as usize];
        frame.extend((0..len).map(|at| (at % 249) as u8));
        frame
    }

    const NO_EVENT_INDEX: u64 = !(1 << 29);

    #[test]
    fn frames_go_both_ways() {
        let (mut driver, wire) = start(NO_EVENT_INDEX & !F_MRG_RXBUF, &NetOptions::default());
        let sent = frame(100);
        driver.request(TRANSMIT, &[&sent[..12], &sent[12..40], &sent[40..]], &[]);
        let mut got = [0; 2000];
        let (count, _) = rustix::net::recv(&wire, &mut got[..], RecvFlags::empty()).unwrap();
        assert_eq!(got[..count], sent);

        rustix::net::send(&wire, &frame(1514), SendFlags::empty()).unwrap();
        assert!(!driver.is_host_ready());
        driver.submit(RECEIVE, &[Part::In(12), Part::In(1600)]);
        driver.submit(RECEIVE, &[Part::In(2000)]);
        driver.kick(RECEIVE);
        let first = driver.received(RECEIVE).unwrap();
        assert_eq!(first.len(), 12 + 1514);
        assert_eq!(
            (&first[..12], &first[12..]),
            (
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..],
                &frame(1514)[12..]
            )
        );
        assert_eq!(driver.received(RECEIVE), None);
        rustix::net::send(&wire, &frame(60), SendFlags::empty()).unwrap();
        let mut second = None;
        driver.poll_until(|driver| {
            second = driver.received(RECEIVE);
            second.is_some()
        });
        assert_eq!(second.unwrap()[12..], frame(60)[12..]);
    }

    #[test]
    fn a_long_frame_fills_as_many_buffers_as_it_takes() {
        let options = NetOptions {
            offload: true,
            ..NetOptions::default()
        };
        let (mut driver, wire) = start(NO_EVENT_INDEX, &options);
        rustix::net::send(&wire, &frame(20_000), SendFlags::empty()).unwrap();
        rustix::net::send(&wire, &frame(60), SendFlags::empty()).unwrap();
        for _ in 0..6 {
            driver.submit(RECEIVE, &[Part::In(9000)]);
        }
        driver.kick(RECEIVE);
        // Too little for the longest frame there may be.
        assert_eq!(driver.received(RECEIVE), None);
        for _ in 0..5 {
            driver.submit(RECEIVE, &[Part::In(9000)]);
        }
        driver.kick(RECEIVE);
        let mut whole = Vec::new();
        for expected in [9000, 9000, 2012] {
            let part = driver.received(RECEIVE).unwrap();
            assert_eq!(part.len(), expected);
            whole.extend(part);
        }
        assert_eq!(whole[10..12], [3, 0]);
        assert_eq!(whole[12..], frame(20_000)[12..]);
        let small = driver.received(RECEIVE).unwrap();
        assert_eq!((small.len(), &small[10..12]), (72, &[1, 0][..]));
    }

    #[test]
    fn the_guest_sees_address_link_and_mtu() {
        let options = NetOptions {
            mac: [2, 0, 0, 1, 2, 3],
            mtu: Some(1400),
            offload: false,
        };
        let (driver, _wire) = start(NO_EVENT_INDEX, &options);
        assert_eq!(driver.config(12), [2, 0, 0, 1, 2, 3, 1, 0, 1, 0, 0x78, 5]);
    }

    #[test]
    fn frames_that_are_none_are_dropped_and_a_full_wire_loses_frames() {
        let (mut driver, wire) = start(NO_EVENT_INDEX, &NetOptions::default());
        driver.request(TRANSMIT, &[&[0; 12]], &[]);
        driver.request(TRANSMIT, &[&[0; 70_000]], &[]);
        let outcome = rustix::net::recv(&wire, &mut [0; 8][..], RecvFlags::empty());
        assert!(outcome.is_err());
        for _ in 0..1000 {
            driver.request(TRANSMIT, &[&frame(1000)], &[]);
        }
        assert!(!driver.is_broken());
        driver.submit(RECEIVE, &[Part::In(11)]);
        driver.kick(RECEIVE);
        assert!(driver.is_broken());
    }

    #[test]
    fn a_card_is_plugged_into_a_place_and_taken_out() {
        let device = NetDevice::empty().unwrap();
        let memory = atoll_memory::GuestMemory::new(8 << 20).unwrap();
        let mut driver = Driver::over(Box::new(device), memory);
        let mut placeholder = [0; 4];
        for offset in [0, 4, 8, 0xC, 0x10, 0x70] {
            crate::read_placeholder(offset, &mut placeholder);
            let expected = match offset {
                // General features are offered where a device may come to be.
                0x10 => 0,
                _ => driver.read(offset),
            };
            assert_eq!(u32::from_le_bytes(placeholder), expected, "{offset}");
        }
        // A driver that does not care finds nothing that works.
        driver.negotiate(NO_EVENT_INDEX);
        driver.set_up_queues();
        driver.write(0x70, 0xF);
        driver.request(TRANSMIT, &[&frame(60)], &[]);

        let options = NetOptions {
            mac: [2, 0, 0, 1, 2, 3],
            ..NetOptions::default()
        };
        let plug = |driver: &Driver| {
            let tap = tap::open("atoll-n%d", HEADER as u8).unwrap();
            driver.transport.exchange(Some((tap, options)))
        };
        let none = tempfile::tempfile().unwrap();
        let refused = driver.transport.exchange(Some((none.into(), options)));
        assert!(matches!(refused, Err(DeviceError::Kernel(..))));
        assert_eq!((driver.read(8), driver.read(0x70)), (0, 0xF));
        plug(&driver).unwrap();
        assert_eq!((driver.read(8), driver.read(0x70)), (1, 0));
        assert_eq!(driver.config(6), [2, 0, 0, 1, 2, 3]);
        let occupied = plug(&driver);
        assert!(matches!(occupied, Err(DeviceError::Occupied)));
        let state = driver.transport.save();
        for _ in 0..2 {
            driver.transport.exchange(None).unwrap();
            assert_eq!(driver.read(8), 0);
            assert_eq!(driver.config(6), [0; 6]);
        }
        assert!(driver.transport.restore(&state).is_err());
        plug(&driver).unwrap();
        driver.transport.restore(&state).unwrap();
    }

    #[test]
    fn a_real_tap_is_taken_and_anything_else_refused() {
        let tap = tap::open("atoll-n%d", HEADER as u8).unwrap();
        let options = NetOptions {
            offload: true,
            ..NetOptions::default()
        };
        let device = NetDevice::new(tap, &options).unwrap();
        let mut driver = Driver::with_features(Box::new(device), NO_EVENT_INDEX);
        // The interface is down, so frames go nowhere, and nobody spins.
        driver.request(TRANSMIT, &[&frame(60)], &[]);
        for _ in 0..16 {
            driver.submit(RECEIVE, &[Part::In(9000)]);
        }
        driver.kick(RECEIVE);
        driver.poll_until(|driver| !driver.is_host_ready());
        let file = tempfile::tempfile().unwrap();
        assert!(NetDevice::new(file.into(), &options).is_err());
    }
}
