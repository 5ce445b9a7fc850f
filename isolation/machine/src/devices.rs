//! The host ends of a configured machine's devices, opened once; and the devices, made of them for each boot.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_memory::PAGE;
use atoll_sys::{namespace, tap, unix};
use atoll_virtio::{
    BalloonControl, BalloonDevice, BlockDevice, BlockOptions, ConsoleDevice, DeviceError, FsDevice,
    FsOptions, NetDevice, NetOptions, RngDevice, VirtioDevice, VsockDevice, VsockOptions,
    slots_for,
};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::Machine;
use crate::config::{Disk, NetworkCard, Share, Sockets, VmmConfig};
use crate::error::MachineError;
use crate::jail::{Needs, Sharing, Walls};

/// Connections between guest and host at once.
const MAX_CONNECTIONS: usize = 1024;
/// `struct virtio_net_hdr_v1` (virtio 1.3 §5.1.6).
const NET_HEADER: u8 = 12;
/// Descriptors of a machine without shares and sockets: streams, kernel, ramdisk, memory, disks and taps twice, epoll
/// instances, and three for each of at most 254 CPUs.
const DESCRIPTORS: u64 = 1024;
/// Descriptors of a card that is plugged in: tap, epoll instance twice, interrupt, doorbells.
const PLUGGED_DESCRIPTORS: u64 = 8;
/// What a saved machine has beside its memory, at most.
const STATE_BYTES: u64 = 64 << 20;

/// A disk's open files, in the order of [`Disk::paths`].
#[derive(Debug)]
struct OpenDisk {
    disk: Disk,
    files: Vec<File>,
}

/// A share: its directory.
#[derive(Debug)]
struct SharedDirectory {
    share: Share,
    directory: OwnedFd,
}

/// A socket that the host connects to. Its name goes with it.
#[derive(Debug)]
struct Listening {
    listener: UnixListener,
    /// Where it was made.
    place: PathBuf,
    /// The same, as the process sees it.
    path: PathBuf,
}

impl Listening {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: unix::listen_at(path)?,
            place: path.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Shows its folder as `/NAME`.
    fn detach(&mut self, walls: &mut Walls, name: &str) -> io::Result<()> {
        let socket = self.place.file_name();
        let socket = socket.ok_or(io::ErrorKind::InvalidInput)?;
        let folder = self.place.parent();
        let folder = folder.filter(|path| !path.as_os_str().is_empty());
        let shown = walls.show(folder.unwrap_or(Path::new(".")), name)?;
        self.path = shown.join(socket);
        Ok(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Whoever removed it before did what was to be done.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the devices of a machine have of the host: open files, as long as the machine is there, over any number of
/// resets.
#[derive(Debug, Default)]
pub struct HostEnds {
    disks: Vec<OpenDisk>,
    cards: Vec<(NetworkCard, Tap)>,
    spare_cards: u8,
    sockets: Option<(Sockets, Listening)>,
    control: Option<Listening>,
    shares: Vec<SharedDirectory>,
    /// `/proc/self/fd`, when there are shares.
    descriptors: Option<OwnedFd>,
    balloon: Option<BalloonControl>,
    console: Option<(PathBuf, OwnedFd)>,
}

/// A card's tap, until the card is taken out.
type Tap = Arc<Mutex<Option<OwnedFd>>>;

/// A hand on the network cards of a machine.
#[derive(Clone, Debug)]
pub struct Cards {
    /// The place of the first.
    first: usize,
    taps: Vec<Tap>,
}

impl Cards {
    /// Puts a card into an empty place of `machine` ([`Machine::plug`]), as long as the machine is there: a reset empties
    /// it.
    ///
    /// # Errors
    /// As [`Machine::plug`].
    pub fn plug(
        &self,
        machine: &Machine,
        place: usize,
        tap: OwnedFd,
        mac: [u8; 6],
        mtu: Option<u16>,
    ) -> Result<(), MachineError> {
        machine.plug(place, tap, options(mac, mtu))
    }

    /// Takes a card out of `machine` ([`Machine::unplug`]), also for machines after a reset.
    ///
    /// # Errors
    /// As [`Machine::unplug`].
    pub fn unplug(&self, machine: &Machine, place: usize) -> Result<(), MachineError> {
        machine.unplug(place)?;
        if let Some(tap) = place
            .checked_sub(self.first)
            .and_then(|at| self.taps.get(at))
        {
            drop(lock(tap).take());
        }
        Ok(())
    }
}

fn lock(tap: &Tap) -> MutexGuard<'_, Option<OwnedFd>> {
    tap.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hand on a machine's balloon.
#[derive(Clone, Debug)]
pub struct Balloon {
    /// The device's place among the machine's.
    index: usize,
    control: BalloonControl,
}

impl Balloon {
    /// Asks the guest of `machine` to give `bytes` of its memory, or to take back what is more.
    pub fn resize(&self, machine: &Machine, bytes: u64) {
        self.control.want(pages(bytes));
        machine.config_changed(self.index);
    }

    /// Bytes the guest says to have given.
    pub fn bytes(&self) -> u64 {
        u64::from(self.control.actual()) * PAGE
    }
}

impl OpenDisk {
    fn open(disk: &Disk) -> Result<Self, MachineError> {
        let files = match disk {
            Disk::Image { path, read_only } => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(!read_only)
                    .open(path)
                    .map_err(MachineError::io(disk_action(disk)))?;
                vec![file]
            }
            Disk::Layers(paths) => {
                let open =
                    |path: &PathBuf| open_layer(path).map_err(MachineError::io(layer_action(path)));
                paths.iter().map(open).collect::<Result<_, _>>()?
            }
        };
        Ok(Self {
            disk: disk.clone(),
            files,
        })
    }

    fn device(&self) -> Result<BlockDevice, MachineError> {
        let failed = MachineError::io(disk_action(&self.disk));
        let files = self.files.iter().map(File::try_clone);
        let mut files = files.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let device = match (&self.disk, files.pop()) {
            (Disk::Image { read_only, .. }, Some(file)) => {
                let options = BlockOptions {
                    read_only: *read_only,
                    id: String::new(),
                };
                BlockDevice::new(file, &options)
            }
            (_, last) => {
                files.extend(last);
                BlockDevice::of_layers(files, "")
            }
        };
        device.map_err(unfit(disk_action(&self.disk)))
    }
}

impl Disk {
    /// How many partitions it has, when it is one of layers. A guest that was saved goes on with any other of as many.
    #[must_use]
    pub fn partitions(&self) -> Option<u32> {
        match self {
            Self::Layers(paths) => Some(slots_for(paths.len())),
            Self::Image { .. } => None,
        }
    }
}

impl HostEnds {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// [`MachineError::Io`] when a host end cannot be opened.
    pub fn open(config: &VmmConfig) -> Result<Self, MachineError> {
        let mut ends = Self {
            spare_cards: config.spare_cards,
            balloon: config.balloon_bytes.map(balloon),
            ..Self::default()
        };
        for disk in &config.disks {
            ends.disks.push(OpenDisk::open(disk)?);
        }
        for card in &config.networks {
            let tap = open_tap(card).map_err(MachineError::io(card_action(card)))?;
            ends.cards
                .push((card.clone(), Arc::new(Mutex::new(Some(tap)))));
        }
        if let Some(sockets) = &config.sockets {
            let listening = Listening::at(&sockets.path);
            let listening = listening.map_err(MachineError::io(sockets_action(sockets)))?;
            ends.sockets = Some((sockets.clone(), listening));
        }
        if let Some(path) = &config.control {
            let listening = Listening::at(path).map_err(MachineError::io(control_action(path)))?;
            ends.control = Some(listening);
        }
        for share in &config.shares {
            let directory =
                open_directory(&share.path).map_err(MachineError::io(share_action(share)))?;
            ends.shares.push(SharedDirectory {
                share: share.clone(),
                directory,
            });
        }
        if !config.shares.is_empty() {
            let descriptors =
                open_directory(Path::new(DESCRIPTORS_PATH)).map_err(MachineError::io(OPEN_PROC))?;
            ends.descriptors = Some(descriptors);
        }
        if let Some(path) = &config.console {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let end = rustix::fs::open(path, flags, Mode::empty())
                .map_err(|errno| MachineError::io(console_action(path))(errno.into()))?;
            ends.console = Some((path.clone(), end));
        }
        Ok(ends)
    }

    /// New devices over these ends, in the order of their addresses: disks, entropy, network cards, sockets, shares,
    /// balloon, console. Those made before must be gone.
    ///
    /// # Errors
    /// [`MachineError::Io`] when an end is not fit for its device.
    pub fn devices(&self) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        for disk in &self.disks {
            devices.push(Box::new(disk.device()?));
        }
        devices.push(Box::new(RngDevice::new()));
        for (card, tap) in &self.cards {
            devices.push(Box::new(network(card, tap)?));
        }
        if let Some((sockets, listening)) = &self.sockets {
            devices.push(Box::new(vsock(sockets, listening)?));
        }
        for shared in &self.shares {
            devices.push(Box::new(self.file_system(shared)?));
        }
        if let Some(control) = &self.balloon {
            devices.push(Box::new(BalloonDevice::over(control.clone())));
        }
        if let Some((path, end)) = &self.console {
            devices.push(Box::new(console(path, end)?));
        }
        Ok(devices)
    }

    /// Empty places for network cards that every machine with these devices is to have.
    pub fn spare_cards(&self) -> u8 {
        self.spare_cards
    }

    /// The network cards of every machine with these devices.
    pub fn cards(&self) -> Cards {
        Cards {
            first: self.disks.len() + 1,
            taps: self.cards.iter().map(|(_, tap)| Arc::clone(tap)).collect(),
        }
    }

    /// The balloon of every machine with these devices.
    pub fn balloon(&self) -> Option<Balloon> {
        let sockets = usize::from(self.sockets.is_some());
        let index = self.disks.len() + 1 + self.cards.len() + sockets + self.shares.len();
        let control = self.balloon.clone()?;
        Some(Balloon { index, control })
    }

    /// The socket that the machine is controlled by.
    ///
    /// # Errors
    /// [`MachineError::Io`] when descriptors ran out.
    pub fn control(&self) -> Result<Option<UnixListener>, MachineError> {
        let Some(listening) = &self.control else {
            return Ok(None);
        };
        let listener = listening.listener.try_clone();
        let failed = MachineError::io(control_action(&listening.place));
        listener.map(Some).map_err(failed)
    }

    /// What these ends need while a machine with `memory_bytes` runs.
    pub fn needs(&self, memory_bytes: u64) -> Needs {
        let sharing = self.shares.iter().map(|shared| {
            if shared.share.read_only {
                Sharing::Reading
            } else {
                Sharing::Writing
            }
        });
        let sharing = sharing.max().unwrap_or_default();
        let sockets = self.sockets.is_some();
        let share = FsOptions::new("");
        let files = self.disks.iter().flat_map(|disk| &disk.files);
        let mut descriptors = DESCRIPTORS + 2 * (files.clone().count() + self.cards.len()) as u64;
        descriptors += PLUGGED_DESCRIPTORS * u64::from(self.spare_cards);
        descriptors += (self.shares.len() * (share.max_nodes + share.max_handles)) as u64;
        if sockets {
            descriptors += MAX_CONNECTIONS as u64;
        }
        // A file that the console goes to may have any length.
        let may_grow = sharing == Sharing::Writing || self.writes_a_file();
        let largest = files.map(length).max();
        let longest = largest.unwrap_or(0).max(memory_bytes + STATE_BYTES);
        Needs {
            parent: None,
            kvm: false,
            taps: !self.cards.is_empty() || self.spare_cards > 0,
            sockets,
            sharing,
            control: self.control.is_some(),
            descriptors,
            file_bytes: (!may_grow).then_some(longest),
        }
    }

    fn writes_a_file(&self) -> bool {
        let is_file = |fd: BorrowedFd<'_>| {
            rustix::fs::fstat(fd)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        };
        let console = self.console.iter().map(|(_, end)| end.as_fd());
        let mut all = console.chain([rustix::stdio::stdout(), rustix::stdio::stderr()]);
        all.any(is_file)
    }

    /// Exchanges directories of the host for detached mounts of them.
    pub(crate) fn detach(&mut self, walls: &mut Walls) -> Result<(), MachineError> {
        for shared in &mut self.shares {
            let share = &shared.share;
            let directory = if share.follows_mounts {
                walls.following(&share.path, share.read_only)
            } else {
                walls.detached(&share.path, share.read_only)
            };
            shared.directory = directory.map_err(MachineError::io(share_action(share)))?;
        }
        if self.descriptors.is_some() {
            let descriptors = walls.detached(Path::new(DESCRIPTORS_PATH), true);
            self.descriptors = Some(descriptors.map_err(MachineError::io(OPEN_PROC))?);
        }
        if let Some((sockets, listening)) = &mut self.sockets {
            let shown = listening.detach(walls, "sockets");
            shown.map_err(MachineError::io(sockets_action(sockets)))?;
        }
        if let Some(listening) = &mut self.control {
            let shown = listening.detach(walls, "control");
            shown.map_err(MachineError::io(control_action(&listening.place)))?;
        }
        Ok(())
    }

    fn file_system(&self, shared: &SharedDirectory) -> Result<FsDevice, MachineError> {
        let share = &shared.share;
        let failed = || MachineError::io(share_action(share));
        let directory = shared.directory.try_clone().map_err(failed())?;
        let descriptors = self.descriptors.as_ref();
        // Opened whenever there are shares.
        let descriptors = descriptors.ok_or_else(|| failed()(io::ErrorKind::NotFound.into()))?;
        let descriptors = descriptors.try_clone().map_err(failed())?;
        let mut options = FsOptions::new(&share.tag);
        options.read_only = share.read_only;
        options.overlay_upper = share.overlay_upper;
        FsDevice::over(directory, descriptors, options).map_err(unfit(share_action(share)))
    }
}

/// Opens the card's tap. The thread is back in its own network namespace then, or the monitor should end.
fn open_tap(card: &NetworkCard) -> io::Result<OwnedFd> {
    let open = || Ok(tap::open(&card.tap, NET_HEADER)?);
    let Some(path) = &card.namespace else {
        return open();
    };
    let own = File::open("/proc/thread-self/ns/net")?;
    namespace::enter(File::open(path)?.as_fd(), libc::CLONE_NEWNET)?;
    let tap = open();
    namespace::enter(own.as_fd(), libc::CLONE_NEWNET)?;
    tap
}

const DESCRIPTORS_PATH: &str = "/proc/self/fd";
const OPEN_PROC: &str = "open /proc/self/fd for shares";

fn disk_action(disk: &Disk) -> String {
    match disk {
        Disk::Image { path, .. } => format!("attach disk {}", path.display()),
        Disk::Layers(paths) => format!("attach a disk of {} layers", paths.len()),
    }
}

fn layer_action(path: &Path) -> String {
    format!("attach layer {}", path.display())
}

fn card_action(card: &NetworkCard) -> String {
    match &card.namespace {
        None => format!("attach a network card to tap {}", card.tap),
        Some(path) => format!(
            "attach a network card to tap {} in {}",
            card.tap,
            path.display()
        ),
    }
}

fn sockets_action(sockets: &Sockets) -> String {
    format!("attach sockets at {}", sockets.path.display())
}

fn control_action(path: &Path) -> String {
    format!("listen at {}", path.display())
}

fn share_action(share: &Share) -> String {
    format!("share {} as {}", share.path.display(), share.tag)
}

fn console_action(path: &Path) -> String {
    format!("attach a console at {}", path.display())
}

/// Opens a layer, which is a regular file: nothing is waited for.
fn open_layer(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file.into())
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The bytes of a file or block device; 0 when that cannot be known.
fn length(mut file: &File) -> u64 {
    file.seek(SeekFrom::End(0)).unwrap_or(0)
}

fn network(card: &NetworkCard, tap: &Tap) -> Result<NetDevice, MachineError> {
    let Some(tap) = &*lock(tap) else {
        return NetDevice::empty().map_err(unfit(card_action(card)));
    };
    let options = options(card.mac.unwrap_or_else(|| address_of(&card.tap)), card.mtu);
    let tap = tap
        .try_clone()
        .map_err(MachineError::io(card_action(card)))?;
    NetDevice::new(tap, &options).map_err(unfit(card_action(card)))
}

fn options(mac: [u8; 6], mtu: Option<u16>) -> NetOptions {
    NetOptions {
        mac,
        mtu,
        offload: true,
    }
}

/// A hardware address for a card on tap `name`: unicast, locally administered, the same for the same name.
fn address_of(name: &str) -> [u8; 6] {
    let hash = Sha256::digest(name.as_bytes());
    [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

fn vsock(sockets: &Sockets, listening: &Listening) -> Result<VsockDevice, MachineError> {
    let options = VsockOptions {
        guest_cid: sockets.cid,
        path: listening.path.clone(),
        max_connections: MAX_CONNECTIONS,
    };
    let listener = listening
        .listener
        .try_clone()
        .map_err(MachineError::io(sockets_action(sockets)))?;
    VsockDevice::over(options, listener.into()).map_err(unfit(sockets_action(sockets)))
}

fn balloon(bytes: u64) -> BalloonControl {
    let control = BalloonControl::default();
    control.want(pages(bytes));
    control
}

/// How many pages of a balloon `bytes` are.
fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
}

fn console(path: &Path, end: &OwnedFd) -> Result<ConsoleDevice, MachineError> {
    let failed = || MachineError::io(console_action(path));
    let input = end.try_clone().map_err(failed())?;
    let output = end.try_clone().map_err(failed())?;
    ConsoleDevice::new(Some(input), Some(output)).map_err(unfit(console_action(path)))
}

/// The device's reason, with what was tried.
fn unfit(action: String) -> impl FnOnce(DeviceError) -> MachineError {
    move |why| MachineError::io(action)(io::Error::other(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> VmmConfig {
        let text =
            r#"{"kernel":"k","kernel_store":"s","command_line":"c","memory_bytes":4096,"cpus":1"#;
        serde_json::from_str(&format!("{text},{more}}}")).unwrap()
    }

    fn refusal(more: &str) -> String {
        let made = HostEnds::open(&config(more)).and_then(|ends| ends.devices().map(drop));
        made.unwrap_err().to_string()
    }

    #[test]
    fn all_devices_come_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let more = format!(
            r#""sockets":{{"path":"{path}/v"}},"shares":[{{"path":"{path}","tag":"t"}}],
               "balloon_bytes":0,"console":"/dev/null""#
        );
        let ends = HostEnds::open(&config(&more)).unwrap();
        // A reset makes them anew.
        for _ in 0..2 {
            let devices = ends.devices().unwrap();
            let kinds: Vec<_> = devices.iter().map(|device| device.device_type()).collect();
            let kinds = format!("{kinds:?}");
            assert_eq!(kinds, "[Rng, Vsock, Fs, Balloon, Console]");
        }
        assert!(folder.path().join("v").exists());
        drop(ends);
        assert!(!folder.path().join("v").exists());
    }

    #[test]
    fn sockets_that_a_killed_monitor_left_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let more = format!(r#""sockets":{{"path":"{path}/v"}},"control":"{path}/c""#);
        for name in ["v", "c"] {
            drop(UnixListener::bind(folder.path().join(name)).unwrap());
        }
        let _ends = HostEnds::open(&config(&more)).unwrap();
        let second = HostEnds::open(&config(&more)).unwrap_err().to_string();
        assert!(second.contains(&path), "{second}");
    }

    #[test]
    fn host_ends_that_are_not_there_are_named() {
        let more = r#""shares":[{"path":"/none","tag":"t"}]"#;
        assert_eq!(refusal(more), "cannot share /none as t");
        let more = r#""sockets":{"path":"/none/v"}"#;
        assert_eq!(refusal(more), "cannot attach sockets at /none/v");
        let more = r#""networks":[{"tap":"a-name-of-16-byt"}]"#;
        assert!(refusal(more).contains("tap a-name-of-16-byt"));
        assert!(refusal(r#""console":"/none/c""#).contains("/none/c"));
    }

    #[test]
    fn layers_are_one_disk_and_what_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for name in ["a", "b"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::write(at("empty"), "").unwrap();
        let node = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), node, Mode::RUSR, 0).unwrap();
        let disk = |names: &[&str]| {
            let paths: Vec<_> = names.iter().map(|name| at(name)).collect();
            format!(r#""disks":[{{"layers":{paths:?}}}]"#)
        };
        let ends = HostEnds::open(&config(&disk(&["a", "b", "a"]))).unwrap();
        for _ in 0..2 {
            let kinds: Vec<_> = ends.devices().unwrap();
            let kinds: Vec<_> = kinds.iter().map(|device| device.device_type()).collect();
            assert_eq!(format!("{kinds:?}"), "[Block, Rng]");
        }
        let none = HostEnds::open(&config(r#""disks":[]"#)).unwrap();
        let (some, none) = (ends.needs(1 << 20), none.needs(1 << 20));
        assert_eq!(some.descriptors, none.descriptors + 6);
        for name in ["none", "pipe", "."] {
            let text = refusal(&disk(&["a", name]));
            assert_eq!(text, format!("cannot attach layer {}", at(name)));
        }
        let text = refusal(&disk(&["a", "empty"]));
        assert_eq!(text, "cannot attach a disk of 2 layers");
    }

    #[test]
    fn needs_are_those_of_the_ends() {
        let none = HostEnds::open(&config(r#""balloon_bytes":0"#)).unwrap();
        let none = none.needs(1 << 20);
        assert!(!none.sockets && !none.taps && none.sharing == Sharing::Nothing);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let share = |read_only| format!(r#"{{"path":"{path}","tag":"t","read_only":{read_only}}}"#);
        let more = format!(
            r#""sockets":{{"path":"{path}/v"}},"shares":[{}]"#,
            share(true)
        );
        let ends = HostEnds::open(&config(&more)).unwrap().needs(1 << 20);
        assert!(ends.sockets && ends.descriptors > none.descriptors + 1024);
        assert_eq!(ends.sharing, Sharing::Reading);
        let more = format!(r#""shares":[{},{}]"#, share(true), share(false));
        let ends = HostEnds::open(&config(&more)).unwrap().needs(1 << 20);
        assert_eq!((ends.sharing, ends.file_bytes), (Sharing::Writing, None));
    }

    #[test]
    fn cards_have_places_before_and_behind_other_devices() {
        let more = r#""disks":[{"layers":["a"]}],"networks":[{"tap":"t"},{"tap":"u"}],"spare_cards":2,
            "shares":[{"path":"/","tag":"t"}],"balloon_bytes":0"#;
        let places: Vec<_> = config(more).card_places().collect();
        assert_eq!(places, [2, 3, 6, 7]);
        let none = HostEnds::open(&config(r#""balloon_bytes":0"#)).unwrap();
        let some = HostEnds::open(&config(r#""balloon_bytes":0,"spare_cards":2"#)).unwrap();
        let (none, some) = (none.needs(1 << 20), some.needs(1 << 20));
        assert!(some.taps && some.descriptors > none.descriptors);
    }

    #[test]
    fn a_hardware_address_is_a_taps_own() {
        assert_eq!(address_of("t"), address_of("t"));
        assert_ne!(address_of("t"), address_of("u"));
        assert_eq!(address_of("t")[0] & 3, 2);
    }
}
