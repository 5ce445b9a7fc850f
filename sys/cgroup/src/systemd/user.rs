//! Which service manager is the caller's, and where it listens.
//!
//! The system's serves root. Everybody else has one of his own, `user@UID.service`, which may divide the cgroup that the
//! system's gave it. Root of a user namespace whose manager is outside is such a user: rootless engines run that way.
//!
//! Source: systemd, file-hierarchy(7), `$XDG_RUNTIME_DIR`; D-Bus specification, "Server Addresses".

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The folder that there is when systemd manages the system.
pub(super) const RUNNING: &str = "/run/systemd/system";

/// Where a manager or its bus listens.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) address: SocketAddr,
    /// Whether it is a bus, rather than the manager itself.
    pub(super) is_bus: bool,
}

impl Socket {
    /// A manager's own, for tests.
    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self {
            address: SocketAddr::from_pathname(path).unwrap(),
            is_bus: false,
        }
    }
}

/// Whether the caller's manager is the system's: root's is, and that of a user namespace's root when the manager is in that
/// namespace too, as in a container with a whole system. From another its folder seems to be nobody's.
pub(super) fn is_served_by_system() -> bool {
    rustix::process::geteuid().is_root()
        && fs::metadata(RUNNING).is_ok_and(|folder| folder.uid() == 0)
}

/// The caller's user id as the manager sees it: credentials of sockets are the kernel's, and translated.
pub(super) fn seen_by_manager(is_system: bool) -> u32 {
    let own = rustix::process::geteuid().as_raw();
    if is_system || own != 0 {
        return own;
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    outside(&map, own).unwrap_or(own)
}

/// What id `inside` is one user namespace further out. Source: user_namespaces(7), "uid_map".
fn outside(map: &str, inside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (first, outside, count) = (next()?, next()?, next()?);
        let at = inside.checked_sub(first).filter(|at| *at < count)?;
        outside.checked_add(at)
    })
}

/// Sockets in the order they are tried.
pub(super) fn sockets(is_system: bool) -> Vec<Socket> {
    if is_system {
        let paths = [
            ("/run/systemd/private", false),
            ("/run/dbus/system_bus_socket", true),
        ];
        return listed(
            paths.map(|(path, is_bus)| (PathBuf::from(path), is_bus)),
            None,
        );
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    let runtime = runtime.map_or_else(
        || PathBuf::from(format!("/run/user/{}", seen_by_manager(false))),
        PathBuf::from,
    );
    of_user(
        &runtime,
        std::env::var_os("DBUS_SESSION_BUS_ADDRESS").as_deref(),
    )
}

/// The manager's own first: it is there where no bus is.
fn of_user(runtime: &Path, session_bus: Option<&OsStr>) -> Vec<Socket> {
    let paths = [
        (runtime.join("systemd/private"), false),
        (runtime.join("bus"), true),
    ];
    listed(paths, session_bus)
}

fn listed(paths: [(PathBuf, bool); 2], session_bus: Option<&OsStr>) -> Vec<Socket> {
    let by_path = |(path, is_bus)| {
        let address = SocketAddr::from_pathname(path).ok()?;
        Some(Socket { address, is_bus })
    };
    let [own, bus] = paths;
    let named = session_bus.map(addresses).unwrap_or_default();
    let named = named.into_iter().map(|address| Socket {
        address,
        is_bus: true,
    });
    by_path(own)
        .into_iter()
        .chain(named)
        .chain(by_path(bus))
        .collect()
}

/// The Unix sockets of a list of addresses: `unix:path=/run/user/1000/bus,guid=…;unix:abstract=…`.
fn addresses(list: &OsStr) -> Vec<SocketAddr> {
    let parts = list.as_bytes().split(|&byte| byte == b';');
    let of_part = |part: &[u8]| {
        let pairs = part.strip_prefix(b"unix:")?.split(|&byte| byte == b',');
        let mut found = pairs.filter_map(|pair| {
            if let Some(path) = pair.strip_prefix(b"path=") {
                let path = PathBuf::from(OsString::from_vec(unescaped(path)?));
                return SocketAddr::from_pathname(path).ok();
            }
            let name = unescaped(pair.strip_prefix(b"abstract=")?)?;
            SocketAddr::from_abstract_name(name).ok()
        });
        found.next()
    };
    parts.filter_map(of_part).collect()
}

/// A value of an address with its `%2f` replaced; `None` when one is cut off.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(socket: &SocketAddr) -> String {
        match (socket.as_pathname(), socket.as_abstract_name()) {
            (Some(path), _) => path.display().to_string(),
            (_, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
            _ => String::new(),
        }
    }

    #[test]
    fn ids_are_those_outside() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(outside(map, 0), Some(1000));
        assert_eq!(outside(map, 1), Some(100_000));
        assert_eq!(outside(map, 65536), Some(165_535));
        assert_eq!(outside(map, 65537), None);
        assert_eq!(outside("0 4294967295 2\n", 1), None);
        assert_eq!(outside("nonsense\n", 0), None);
        assert_eq!(outside("         0          0 4294967295\n", 5), Some(5));
    }

    #[test]
    fn a_users_manager_is_asked_itself_before_its_bus() {
        let list = |bus: Option<&str>| -> Vec<(String, bool)> {
            let sockets = of_user(Path::new("/run/user/7"), bus.map(OsStr::new));
            let pairs = sockets.iter();
            pairs
                .map(|socket| (text(&socket.address), socket.is_bus))
                .collect()
        };
        let own = ("/run/user/7/systemd/private".to_owned(), false);
        let bus = |path: &str| (path.to_owned(), true);
        assert_eq!(list(None), [own.clone(), bus("/run/user/7/bus")]);
        assert_eq!(
            list(Some("unix:path=/x/bus,guid=12;unix:abstract=/a")),
            [own, bus("/x/bus"), bus("@/a"), bus("/run/user/7/bus")]
        );
    }

    #[test]
    fn addresses_that_are_no_sockets_are_passed_over() {
        let of =
            |list: &str| -> Vec<String> { addresses(OsStr::new(list)).iter().map(text).collect() };
        assert_eq!(of("unix:guid=1,path=%2fx%20y"), ["/x y"]);
        for none in [
            "",
            ";",
            "autolaunch:",
            "tcp:host=localhost,port=1",
            "unix:",
            "unix:path=%2",
            "unix:path=%zz",
            "unix:runtime=yes",
        ] {
            assert_eq!(of(none), Vec::<String>::new(), "{none}");
        }
        let long = format!("unix:path=/{}", "x".repeat(200));
        assert_eq!(of(&long), Vec::<String>::new());
    }
}
