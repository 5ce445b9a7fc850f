//! The host's ends of the guest's devices.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use atoll_machine::devices::HostEnds;
use atoll_machine::{Disk, Machine, NetworkCard, Share, Sockets, VmmConfig};
use atoll_netlink::netns;
use atoll_virtio::{BalloonControl, BalloonDevice, ConsoleDevice, VirtioDevice};
use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::pty::{self, OpenptFlags};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

const MIB: usize = 1 << 20;
/// Pages the balloon is asked for: 64 MiB.
const PAGES: u32 = 16_384;
const DEADLINE: Duration = Duration::from_secs(120);
const TAP: &str = "atoll-guest";

/// All of them, in a folder and a network namespace of their own.
pub(crate) struct Host {
    folder: PathBuf,
    netns: OwnedFd,
    pub(crate) pattern: Vec<u8>,
    /// To the guest's second console, and from it.
    console: Option<(File, File)>,
    ends: HostEnds,
    balloon: (usize, BalloonControl),
    used_before: u64,
}

impl Host {
    /// Makes disks, directories, sockets and a namespace in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let pattern: Vec<u8> = (0..64 * MIB as u64)
            .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
            .collect();
        fs::write(folder.join("vda"), &pattern).unwrap();
        fs::write(folder.join("vdb"), vec![0; 8 * MIB]).unwrap();
        fs::write(folder.join("vdc"), vec![7; MIB]).unwrap();
        layers(folder, &pattern);
        fs::create_dir(folder.join("share")).unwrap();
        fs::create_dir(folder.join("locked")).unwrap();
        fs::write(folder.join("secret"), "of the host").unwrap();
        fs::write(folder.join("locked/file"), "read me").unwrap();
        fs::write(folder.join("share/large"), &pattern[..8 * MIB]).unwrap();
        fs::copy("/bin/busybox", folder.join("share/busybox")).unwrap();
        symlink("../secret", folder.join("share/out")).unwrap();
        symlink(folder.join("secret"), folder.join("share/absolute")).unwrap();
        let echo = UnixListener::bind(folder.join("vsock_5000")).unwrap();
        thread::spawn(move || {
            for stream in echo.incoming() {
                let stream = stream.unwrap();
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        let netns = netns::create().unwrap();
        // Any address: the tap's goes with every machine.
        let listen = || TcpListener::bind("0.0.0.0:7000").unwrap();
        let listener = netns::run_inside(netns.as_fd(), listen).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        Self {
            folder: folder.to_owned(),
            netns,
            pattern,
            console: None,
            ends: HostEnds::default(),
            balloon: (0, BalloonControl::default()),
            used_before: 0,
        }
    }

    /// What a monitor is told about the devices.
    pub(crate) fn config(&self) -> VmmConfig {
        let at = |name: &str| self.folder.join(name);
        let disk = |name: &str, read_only| Disk::Image {
            path: at(name),
            read_only,
        };
        let share = |name: &str, read_only| Share {
            path: at(name),
            tag: name.to_owned(),
            read_only,
            overlay_upper: false,
            follows_mounts: false,
        };
        let text =
            r#"{"kernel":"","kernel_store":"","command_line":"","memory_bytes":4096,"cpus":1}"#;
        VmmConfig {
            disks: vec![
                disk("vda", false),
                disk("vdb", false),
                disk("vdc", true),
                Disk::Layers(vec![at("below.erofs"), at("above.erofs")]),
            ],
            networks: vec![NetworkCard {
                tap: TAP.to_owned(),
                namespace: None,
                mac: None,
                mtu: None,
            }],
            sockets: Some(Sockets {
                path: at("vsock"),
                cid: 3,
            }),
            shares: vec![share("share", false), share("locked", true)],
            ..serde_json::from_str(text).unwrap()
        }
    }

    /// The devices, as the monitor makes them, with a console and a balloon whose host ends are ours.
    pub(crate) fn devices(&mut self) -> Vec<Box<dyn VirtioDevice>> {
        let config = self.config();
        // Those of the machine before, which is gone.
        self.ends = HostEnds::default();
        let opened = self.inside(|| {
            let ends = HostEnds::open(&config)?;
            ends.devices().map(|devices| (ends, devices))
        });
        let (ends, mut devices) = opened
            .map_err(|why| format!("{why}: {:?}", std::error::Error::source(&why)))
            .unwrap();
        self.ends = ends;
        self.serve_network();
        let (input, to_guest) = rustix::pipe::pipe().unwrap();
        let (from_guest, output) = rustix::pipe::pipe().unwrap();
        self.console = Some((to_guest.into(), from_guest.into()));
        devices.push(Box::new(
            ConsoleDevice::new(Some(input), Some(output)).unwrap(),
        ));
        let balloon = BalloonDevice::new();
        self.balloon = (devices.len(), balloon.control());
        devices.push(Box::new(balloon));
        devices
    }

    /// Gives the tap, which exists, its addresses.
    pub(crate) fn serve_network(&self) {
        // The guest remembers it when the machine is restored.
        self.ip(&["link", "set", TAP, "address", "02:00:0a:63:00:01"]);
        self.ip(&["addr", "add", "10.99.0.1/24", "dev", TAP]);
        self.ip(&["link", "set", TAP, "up"]);
    }

    /// Makes a terminal the guest's console; gives the path of its other end.
    pub(crate) fn console_terminal(&mut self) -> PathBuf {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = pty::openpt(flags).unwrap();
        pty::unlockpt(&master).unwrap();
        let path = pty::ptsname(&master, Vec::new()).unwrap();
        let mut settings = tcgetattr(&master).unwrap();
        settings.make_raw();
        tcsetattr(&master, OptionalActions::Now, &settings).unwrap();
        let master = File::from(master);
        self.console = Some((master.try_clone().unwrap(), master));
        PathBuf::from(path.into_string().unwrap())
    }

    /// Starts `program` where the tap is to be.
    pub(crate) fn spawn(&self, program: &mut Command) -> Child {
        self.inside(|| program.spawn().unwrap())
    }

    /// Waits for the tap.
    pub(crate) fn await_tap(&self) {
        let path = "/proc/thread-self/net/dev";
        retry(|| {
            let devices = self.inside(|| fs::read_to_string(path).unwrap());
            devices.contains(TAP).then_some(())
        });
    }

    /// Does what the guest asks for. Of a machine in another process, the balloon is left as it is.
    pub(crate) fn act(&mut self, name: &str, machine: Option<&Machine>) -> Result<(), String> {
        let Some(machine) = machine else {
            return match name {
                "balloon-before" | "balloon-inflate" | "balloon-deflate" => Ok(()),
                _ => self.act_here(name),
            };
        };
        match name {
            "balloon-before" => {
                self.used_before = used(machine);
                expect(self.used_before > 64 << 20, "the guest uses too little")
            }
            "balloon-inflate" => {
                self.blow(PAGES, machine);
                let (before, now) = (self.used_before, used(machine));
                let given = before.saturating_sub(now);
                let much = format!("{before} bytes became {now}");
                // A restored machine has no pages of its own for what the guest did not write since.
                if given > 16 << 20 { Ok(()) } else { Err(much) }
            }
            "balloon-deflate" => {
                self.blow(0, machine);
                Ok(())
            }
            _ => self.act_here(name),
        }
    }

    fn act_here(&mut self, name: &str) -> Result<(), String> {
        match name {
            "block-written" => {
                let disk = fs::read(self.folder.join("vdb")).unwrap();
                expect(
                    disk[..MIB] == self.pattern[..MIB],
                    "the disk lacks what was written",
                )
            }
            "console" => {
                let (to_guest, from_guest) = self.console.as_mut().unwrap();
                to_guest.write_all(b"hello\n").unwrap();
                let mut heard = [0; 12];
                from_guest.read_exact(&mut heard).unwrap();
                expect(&heard == b"heard hello\n", "the line did not come back")
            }
            "net-ping-from-host" => {
                let mut ping = Command::new("/bin/busybox");
                ping.args(["ping", "-c", "2", "-W", "9", "10.99.0.2"]);
                let output = self.inside(|| ping.output().unwrap());
                expect(output.status.success(), "no answer to ping")
            }
            "net-tcp-from-host" => {
                let stream = self.inside(|| retry(|| TcpStream::connect("10.99.0.2:7001").ok()));
                let end = stream.try_clone().unwrap();
                self.echoed(stream.try_clone().unwrap(), stream, move || {
                    end.shutdown(Shutdown::Write).unwrap();
                })
            }
            "vsock" => {
                let mut stream = UnixStream::connect(self.folder.join("vsock")).unwrap();
                stream.write_all(b"CONNECT 6000\n").unwrap();
                let mut byte = [0];
                let mut answer = Vec::new();
                while byte != *b"\n" {
                    stream
                        .read_exact(&mut byte)
                        .map_err(|why| why.to_string())?;
                    answer.push(byte[0]);
                }
                expect(answer.starts_with(b"OK "), "the connection was refused")?;
                let end = stream.try_clone().unwrap();
                self.echoed(stream.try_clone().unwrap(), stream, move || {
                    end.shutdown(Shutdown::Write).unwrap();
                })
            }
            "fs-seen" => self.seen(),
            _ => Err("nobody knows what to do".to_owned()),
        }
    }

    fn blow(&self, pages: u32, machine: &Machine) {
        let (index, control) = &self.balloon;
        control.want(pages);
        machine.config_changed(*index);
        retry(|| (control.actual() == pages).then_some(()));
    }

    /// What the guest did in the share, as the host sees it.
    fn seen(&self) -> Result<(), String> {
        let share = self.folder.join("share");
        let text = fs::read_to_string(share.join("folder/b")).unwrap();
        expect(text == "one\ntwo\n", "folder/b is wrong")?;
        let link = fs::read_link(share.join("folder/link")).unwrap();
        expect(link == Path::new("b"), "the link is wrong")?;
        let hard = fs::metadata(share.join("hard")).unwrap();
        expect(
            hard.nlink() == 2 && hard.mode() & 0o777 == 0o640,
            "the hard link is wrong",
        )?;
        let copy = fs::read(share.join("copy")).unwrap();
        expect(copy == self.pattern[..8 * MIB], "the copy is wrong")?;
        let tcp = fs::read(share.join("tcp")).unwrap();
        expect(
            tcp == self.pattern[..4 * MIB],
            "what came back by TCP is wrong",
        )?;
        let many = fs::read_dir(share.join("many")).unwrap().count();
        expect(many == 300, "files are missing")?;
        fs::write(share.join("new"), "from the host\n").unwrap();
        Ok(())
    }

    /// Sends 2 MiB and gets them back.
    fn echoed(
        &self,
        mut to: impl Write + Send + 'static,
        mut from: impl Read,
        close: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let bytes = self.pattern[..2 * MIB].to_vec();
        thread::spawn(move || {
            to.write_all(&bytes).unwrap();
            close();
        });
        let mut got = Vec::new();
        from.read_to_end(&mut got).map_err(|why| why.to_string())?;
        let same = got == self.pattern[..2 * MIB];
        if same {
            Ok(())
        } else {
            Err(format!("{} bytes came back", got.len()))
        }
    }

    fn ip(&self, arguments: &[&str]) {
        let status = self.inside(|| Command::new("/sbin/ip").args(arguments).status().unwrap());
        assert!(status.success(), "ip {arguments:?}");
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_inside(self.netns.as_fd(), work).unwrap()
    }
}

/// Images of two layers, one above the other, which hides some of it.
fn layers(folder: &Path, pattern: &[u8]) {
    let [below, above] = ["below", "above"].map(|name| folder.join(name));
    for layer in [&below, &above] {
        fs::create_dir_all(layer.join("folder")).unwrap();
        fs::create_dir(layer.join("opaque")).unwrap();
    }
    fs::write(below.join("folder/below"), "below").unwrap();
    fs::write(below.join("folder/both"), "below").unwrap();
    fs::write(below.join("hidden"), "").unwrap();
    fs::write(below.join("opaque/old"), "").unwrap();
    fs::write(below.join("large"), &pattern[..3 * MIB]).unwrap();
    symlink("folder/both", below.join("link")).unwrap();
    fs::write(above.join("folder/both"), "above").unwrap();
    fs::write(above.join("opaque/new"), "").unwrap();
    let (device, mode) = (FileType::CharacterDevice, Mode::empty());
    rustix::fs::mknodat(rustix::fs::CWD, above.join("hidden"), device, mode, 0).unwrap();
    let (name, flags) = ("trusted.overlay.opaque", XattrFlags::empty());
    rustix::fs::setxattr(above.join("opaque"), name, b"y", flags).unwrap();
    for layer in [below, above] {
        image_of(&layer, &layer.with_extension("erofs"));
    }
}

/// Makes the EROFS image of a directory.
pub(crate) fn image_of(layer: &Path, image: &Path) {
    let image = File::create(image).unwrap();
    let layer = File::open(layer).unwrap();
    atoll_erofs::write_image(layer.as_fd(), &image, [1; 16]).unwrap();
}

/// Bytes of the host's memory that the guest's memory takes.
fn used(machine: &Machine) -> u64 {
    let memory = machine.memory();
    let start = format!("{:x}-", memory.host_address(&memory.layout()[0]));
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
    let resident = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    let kibibytes: u64 = resident
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse()
        .unwrap();
    kibibytes << 10
}

fn expect(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

fn retry<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "the guest does not answer");
        thread::sleep(Duration::from_millis(20));
    }
}
