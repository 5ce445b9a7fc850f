//! The machine's network cards: which place has which, and plugging them in and out.
//!
//! A machine begins with at most one. Others, also those its container begins with, are plugged into empty places of the
//! running machine: so machines with any number of them are made of one template, and a place without a card costs nothing.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use atoll_guest::protocol::{Network, Request as Ask};
use atoll_machine::VmmConfig;
use atoll_machine::protocol::{Client, Request};
use atoll_shim_protocol::machine::{MOST_NETWORKS, MachineNetwork};
use atoll_sys::tap;

use super::monitor::machine_failed;
use super::share::failed;
use super::{Machine, Then, plan};
use crate::failure::Failure;
use crate::process::Waiter;

/// Places beside that of the first card; a board has pins for these beside all other devices.
pub(super) const SPARE: u8 = MOST_NETWORKS - 1;
/// Bytes in front of each frame of a tap: `struct virtio_net_hdr_v1` (virtio 1.3 §5.1.6).
const HEADER: u8 = 12;
/// A monitor does this in milliseconds, also when its guest is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which card is where.
#[derive(Debug, Default)]
pub(super) struct Cards {
    /// Each place, with the name of its card's link in the guest if it has one.
    places: Vec<(u8, Option<String>)>,
}

impl Cards {
    /// Those of a machine that begins as `config` says.
    ///
    /// * `first`: name of the link of its first card, if it begins with one.
    pub(super) fn of(config: &VmmConfig, first: Option<&str>) -> Self {
        let numbers = config.card_places().filter_map(|at| u8::try_from(at).ok());
        let mut places: Vec<_> = numbers.map(|number| (number, None)).collect();
        if let (Some(first), Some((_, link))) = (first, places.first_mut()) {
            *link = Some(first.to_owned());
        }
        Self { places }
    }

    /// Makes `tap` and plugs a card on it into the machine at `control`; says where.
    ///
    /// # Errors
    /// When no place is empty, there is such a tap, or the monitor refuses. There is neither card nor tap then.
    pub(super) fn plug(
        &mut self,
        control: &Path,
        tap: &str,
        network: &Network,
    ) -> Result<u8, Failure> {
        let most = self.places.len();
        let mut empty = self.places.iter_mut().filter(|(_, link)| link.is_none());
        let Some((place, link)) = empty.next() else {
            return Err(Failure::precondition(format!(
                "the machine has {most} network cards, and no place for another"
            )));
        };
        let end = tap::open(tap, HEADER)
            .map_err(|errno| failed(format!("make the tap {tap}"))(errno.into()))?;
        let request = Request::Plug {
            place: *place,
            mac: network.mac,
            mtu: u16::try_from(network.mtu).ok(),
        };
        let mut monitor = connect(control)?;
        let asked = monitor.ask(request, Some(end.as_fd()));
        asked.map_err(machine_failed)?;
        *link = Some(network.interface.clone());
        Ok(*place)
    }

    /// Takes the card at `place` out of the machine at `control`; its tap goes.
    ///
    /// # Errors
    /// When the monitor does not answer: then the card stays.
    pub(super) fn unplug(&mut self, control: &Path, place: u8) -> Result<(), Failure> {
        let asked = connect(control)?.ask(Request::Unplug { place }, None);
        asked.map_err(machine_failed)?;
        let mut places = self.places.iter_mut();
        if let Some((_, link)) = places.find(|(number, _)| *number == place) {
            *link = None;
        }
        Ok(())
    }

    /// Where the card with this link is.
    pub(super) fn place_of(&self, interface: &str) -> Option<u8> {
        let mut places = self.places.iter();
        let found = places.find(|(_, link)| link.as_deref() == Some(interface))?;
        Some(found.0)
    }
}

fn connect(control: &Path) -> Result<Client, Failure> {
    let monitor = Client::connect(control).map_err(machine_failed)?;
    monitor.expect_within(PATIENCE).map_err(machine_failed)?;
    Ok(monitor)
}

impl Machine {
    /// Plugs a network card in and has the guest bring it up; `to` is answered then.
    pub(crate) fn connect(&mut self, card: MachineNetwork, to: Waiter) -> Result<(), Failure> {
        if !self.is_ready() {
            return Err(Failure::precondition("the machine's guest is not ready"));
        }
        if self.cards.place_of(&card.interface).is_some() {
            return Err(Failure::new(
                ttrpc::Code::ALREADY_EXISTS,
                format!("the machine has a network card {} already", card.interface),
            ));
        }
        let (tap, mut network) = plan::card(card);
        let place = self.cards.plug(&self.control, &tap, &network)?;
        network.place = Some(place);
        let first = self.first.clone();
        let request = Ask::Connect(Box::new(network));
        self.call(&first, request, to, Then::Connected(place))
    }

    /// Has the guest let go of a network card, which is taken out then; `to` is answered after that.
    ///
    /// * `gateway`: where its default route leads afterwards, if it has to lead somewhere else.
    pub(crate) fn disconnect(
        &mut self,
        interface: &str,
        gateway: Option<Ipv4Addr>,
        to: Waiter,
    ) -> Result<(), Failure> {
        let place = self.cards.place_of(interface);
        let place = place.ok_or_else(|| {
            Failure::not_found(format!("the machine has no network card {interface}"))
        })?;
        let first = self.first.clone();
        let request = Ask::Disconnect { place, gateway };
        self.call(&first, request, to, Then::Disconnected(place))
    }

    /// Takes out the network card at `place`.
    pub(crate) fn unplug(&mut self, place: u8) -> Result<(), Failure> {
        if self.has_ended {
            return Ok(());
        }
        self.cards.unplug(&self.control, place)
    }
}
