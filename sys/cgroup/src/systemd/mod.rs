//! cgroups made by systemd: scopes, asked for over D-Bus, in which a runtime then does as it likes (`Delegate`).
//!
//! The client is this module's own: a few calls and a signal over a Unix socket. A library for it (zbus 6.2) would have
//! brought fourteen more crates and an asynchronous runtime into a program that is executed for every container.
//!
//! Source: org.freedesktop.systemd1(5); opencontainers/cgroups, systemd/.

mod connection;
mod properties;
mod user;
mod wire;

use std::fmt;
use std::path::Path;

use crate::{Error, Layout, Resources};
use connection::{Connection, Failed};
pub use properties::{Property, Value};
use wire::{Call, Reader, Writer};

/// The manager itself; calls differ by member and arguments.
const MANAGER: Call<'static> = Call {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "",
    signature: "",
};
/// The error for a unit that there is already.
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// And for one that there isn't.
const NO_SUCH: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What fails where there is no systemd.
pub(crate) const FIND: &str = "find systemd";
/// What fails where it manages the system, but not what the calling user started.
pub(crate) const FIND_USERS: &str = "find the user's systemd";
const VERSION: &str = "ask systemd for its version";

/// What a running systemd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its version, 252.
    pub version: u32,
    /// Its own cgroup, below which its units are; empty for the root.
    pub root: String,
    /// The system's, or the calling user's.
    pub is_system: bool,
}

/// A scope to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopePlan {
    /// Name of the unit, `docker-ID.scope`.
    pub unit: String,
    /// Name of the slice it is in.
    pub slice: String,
    /// Words for people.
    pub description: String,
    /// Limits.
    pub properties: Vec<Property>,
    /// Whether the system's manager is asked.
    pub is_system: bool,
}

/// The caller's manager: the system's or, of anybody but root, the user's own.
///
/// # Errors
/// [`Error::Systemd`]: there is none, or it does not answer.
pub fn detect_own() -> Result<Facts, Error> {
    let is_system = user::is_served_by_system();
    detect(is_system).map_err(|error| match error {
        Error::Systemd { step, reason } if !is_system && step == VERSION => Error::Systemd {
            step: FIND_USERS.into(),
            reason,
        },
        other => other,
    })
}

/// Asks systemd what it is.
///
/// # Errors
/// [`Error::Systemd`]: there is none, or it does not answer.
pub fn detect(is_system: bool) -> Result<Facts, Error> {
    if !Path::new(user::RUNNING).is_dir() {
        return Err(Error::Systemd {
            step: FIND.into(),
            reason: "systemd not running on this host, cannot use systemd cgroups manager".into(),
        });
    }
    let step = VERSION;
    let mut connection = Connection::open(is_system).map_err(|failed| failure(step, failed))?;
    let mut get = |name: &str| {
        let mut body = Writer::default();
        body.string(MANAGER.interface);
        body.string(name);
        let call = Call {
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
            ..MANAGER
        };
        let answer = connection
            .call(call, &body)
            .map_err(|failed| failure(step, failed))?;
        let mut body = Reader::new(&answer.body);
        let text = body.signature().and_then(|_| body.string());
        text.map_err(|error| failure(step, Failed::Io(error)))
    };
    // `252.38-1~deb12u1`, `v219`
    let version = get("Version")?;
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit());
    let version = digits[..end.unwrap_or(digits.len())].parse().unwrap_or(0);
    let root = get("ControlGroup")?;
    Ok(Facts {
        version,
        root: root.trim_end_matches('/').to_owned(),
        is_system,
    })
}

/// The properties for limits, as the systemd of `facts` has them.
///
/// # Errors
/// [`Error::Setting`].
pub fn properties(
    resources: &Resources,
    layout: Layout,
    version: u32,
    is_new: bool,
) -> Result<Vec<Property>, Error> {
    properties::of(resources, layout, version, is_new)
}

impl ScopePlan {
    /// Makes the scope with the process `pid` in it.
    ///
    /// A unit of the same name that has failed is forgotten first.
    ///
    /// # Errors
    /// [`Error::Systemd`].
    pub fn start(&self, pid: u32) -> Result<(), Error> {
        let step = format!("start unit {}", self.unit);
        let failed = |failed| failure(&step, failed);
        let mut connection = Connection::open(self.is_system).map_err(failed)?;
        let mut outcome = self.try_start(&mut connection, pid);
        if let Err(Failed::Said(name, _)) = &outcome
            && name == EXISTS
        {
            forget(&mut connection, &self.unit).map_err(failed)?;
            outcome = self.try_start(&mut connection, pid);
        }
        match outcome.map_err(failed)?.as_str() {
            "done" => Ok(()),
            result => Err(Error::Systemd {
                step,
                reason: format!("its job ended with {result}"),
            }),
        }
    }

    fn try_start(&self, connection: &mut Connection, pid: u32) -> Result<String, Failed> {
        let mut body = Writer::default();
        body.string(&self.unit);
        body.string("replace");
        body.array(8, |body| {
            let text = |text: &str| Value::Text(text.to_owned());
            let own = [
                ("Description", text(&self.description)),
                ("Slice", text(&self.slice)),
                ("Delegate", Value::Bool(true)),
                ("PIDs", Value::Numbers(vec![pid])),
                ("MemoryAccounting", Value::Bool(true)),
                ("CPUAccounting", Value::Bool(true)),
                ("IOAccounting", Value::Bool(true)),
                ("TasksAccounting", Value::Bool(true)),
                ("DefaultDependencies", Value::Bool(false)),
            ];
            // What the plan says wins; systemd takes the last one as well, but adds up lists.
            let is_given = |name: &str| self.properties.iter().any(|(given, _)| given == name);
            for (name, value) in own.iter().filter(|(name, _)| !is_given(name)) {
                write_property(body, name, value);
            }
            for (name, value) in &self.properties {
                write_property(body, name, value);
            }
        });
        // No further units.
        body.array(8, |_| ());
        let call = Call {
            member: "StartTransientUnit",
            signature: "ssa(sv)a(sa(sv))",
            ..MANAGER
        };
        let answer = connection.call(call, &body)?;
        let job = Reader::new(&answer.body).string()?;
        connection.await_job(&job)
    }
}

/// Tells systemd of new limits of a unit, until the machine is restarted.
///
/// # Errors
/// [`Error::Systemd`].
pub fn change(unit: &str, is_system: bool, properties: &[Property]) -> Result<(), Error> {
    if properties.is_empty() {
        return Ok(());
    }
    let step = format!("change unit {unit}");
    let failed = |failed| failure(&step, failed);
    let mut connection = Connection::open(is_system).map_err(failed)?;
    let mut body = Writer::default();
    body.string(unit);
    body.bool(true);
    body.array(8, |body| {
        for (name, value) in properties {
            write_property(body, name, value);
        }
    });
    let call = Call {
        member: "SetUnitProperties",
        signature: "sba(sv)",
        ..MANAGER
    };
    connection.call(call, &body).map(drop).map_err(failed)
}

/// Moves a process into a unit that has `Delegate`, for users who may not write to the cgroup the process is in.
///
/// systemd of a user, which may not either, asks that of the system.
///
/// * `below`: path of a cgroup in the unit's, with a slash in front; the unit's own is "".
/// * `pid`: of a process of the caller's user.
///
/// # Errors
/// [`Error::Systemd`].
pub fn attach(unit: &str, is_system: bool, below: &str, pid: u32) -> Result<(), Error> {
    let step = format!("move process {pid} into unit {unit}");
    let failed = |failed| failure(&step, failed);
    let mut connection = Connection::open(is_system).map_err(failed)?;
    let mut body = Writer::default();
    body.string(unit);
    body.string(below);
    body.array(4, |body| body.u32(pid));
    let call = Call {
        member: "AttachProcessesToUnit",
        signature: "ssau",
        ..MANAGER
    };
    connection.call(call, &body).map(drop).map_err(failed)
}

/// Removes a unit; one that is gone is no error.
///
/// # Errors
/// [`Error::Systemd`].
pub fn stop(unit: &str, is_system: bool) -> Result<(), Error> {
    let step = format!("stop unit {unit}");
    let failed = |failed| failure(&step, failed);
    let mut connection = Connection::open(is_system).map_err(failed)?;
    forget(&mut connection, unit).map_err(failed)
}

fn forget(connection: &mut Connection, unit: &str) -> Result<(), Failed> {
    let mut body = Writer::default();
    body.string(unit);
    body.string("replace");
    let call = Call {
        member: "StopUnit",
        signature: "ss",
        ..MANAGER
    };
    match connection.call(call, &body) {
        Ok(answer) => {
            let job = Reader::new(&answer.body).string()?;
            connection.await_job(&job)?;
        }
        Err(Failed::Said(name, _)) if name == NO_SUCH => return Ok(()),
        Err(failed) => return Err(failed),
    }
    // One that failed is remembered otherwise, and its name taken.
    let mut body = Writer::default();
    body.string(unit);
    let call = Call {
        member: "ResetFailedUnit",
        signature: "s",
        ..MANAGER
    };
    match connection.call(call, &body) {
        Ok(_) | Err(Failed::Said(..)) => Ok(()),
        Err(failed) => Err(failed),
    }
}

/// A name and a variant.
fn write_property(body: &mut Writer, name: &str, value: &Value) {
    body.align(8);
    body.string(name);
    match value {
        Value::Bool(value) => {
            body.signature("b");
            body.bool(*value);
        }
        Value::Text(text) => {
            body.signature("s");
            body.string(text);
        }
        Value::Number(value) => {
            body.signature("t");
            body.u64(*value);
        }
        Value::Bytes(bytes) => {
            body.signature("ay");
            body.array(1, |body| bytes.iter().for_each(|byte| body.byte(*byte)));
        }
        Value::Numbers(numbers) => {
            body.signature("au");
            body.array(4, |body| {
                numbers.iter().for_each(|number| body.u32(*number));
            });
        }
        Value::Pairs(pairs) => {
            body.signature("a(ss)");
            body.array(8, |body| {
                for (one, other) in pairs {
                    body.align(8);
                    body.string(one);
                    body.string(other);
                }
            });
        }
        Value::Rates(rates) => {
            body.signature("a(st)");
            body.array(8, |body| {
                for (path, rate) in rates {
                    body.align(8);
                    body.string(path);
                    body.u64(*rate);
                }
            });
        }
    }
}

fn failure(step: &str, failed: Failed) -> Error {
    Error::Systemd {
        step: step.to_owned(),
        reason: match failed {
            Failed::Io(error) => error.to_string(),
            Failed::Said(name, words) => format!("{words} ({name})"),
        },
    }
}

impl fmt::Display for ScopePlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "unit {} in {}", self.unit, self.slice)?;
        for (name, value) in &self.properties {
            writeln!(out, "property {name}={value}")?;
        }
        Ok(())
    }
}
