//! What a monitor gives up: its user, capabilities, limits, and being looked into.

use atoll_sys::capability::{
    self, CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETPCAP, SETUID, SYS_ADMIN,
    Set, Sets,
};
use atoll_sys::{Errno, process, task};
use rustix::process::Resource;

use super::{Needs, Sharing, failed};
use crate::error::MachineError;

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// Whether the process may make namespaces and become another user.
pub(super) fn is_privileged() -> Result<bool, MachineError> {
    let effective = capability::current()
        .map_err(failed("read its capabilities"))?
        .effective;
    let needed = [SYS_ADMIN, SETUID, SETGID];
    Ok(needed.iter().all(|number| effective.holds(*number)))
}

/// Gives up whatever `needs` does not hold.
pub(super) fn give_up(needs: &Needs, is_privileged: bool) -> Result<(), MachineError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    limit(needs).map_err(failed("limit what it uses"))?;
    leave_user(needs, is_privileged).map_err(failed("give up its rights"))?;
    // After the change of user, which resets it.
    process::set_dumpable(false).map_err(failed("forbid core dumps"))?;
    capability::set_no_new_privs().map_err(failed("forbid new privileges"))
}

fn limit(needs: &Needs) -> Result<(), Errno> {
    let set = |resource: Resource, value| task::set_limit(resource as u32, value, value);
    set(Resource::Core, 0)?;
    set(Resource::Nofile, needs.descriptors)?;
    match needs.file_bytes {
        Some(bytes) => set(Resource::Fsize, bytes),
        None => Ok(()),
    }
}

fn leave_user(needs: &Needs, is_privileged: bool) -> Result<(), Errno> {
    // Rights over a user namespace of our own are none over the host.
    let kept = if is_privileged {
        kept(needs)
    } else {
        Set::default()
    };
    let permitted = capability::current()?.permitted;
    if permitted.holds(SETPCAP) {
        capability::keep_bounding(kept)?;
    }
    if is_privileged {
        let (user, group) = if keeps_user(needs) {
            let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
            (user.as_raw(), group.as_raw())
        } else {
            (NOBODY, NOBODY)
        };
        task::become_user(user, group, &[])?;
    }
    capability::set_ambient(Set::default())?;
    let kept = kept.within(permitted);
    capability::set(Sets {
        effective: kept,
        permitted: kept,
        inheritable: Set::default(),
    })
}

/// Whether it must be who it was started as: for the host's files and sockets.
fn keeps_user(needs: &Needs) -> bool {
    needs.sockets || needs.control || needs.sharing != Sharing::Nothing
}

/// Capabilities that serve the guest: of a privileged monitor, over the files it shares, the sockets it connects to,
/// and the folders it is saved to.
fn kept(needs: &Needs) -> Set {
    let of: &[u32] = match needs.sharing {
        // Files belong to the guest's users, who are not ours.
        Sharing::Writing => &[CHOWN, DAC_OVERRIDE, FOWNER, FSETID],
        Sharing::Reading => &[DAC_READ_SEARCH],
        Sharing::Nothing => &[],
    };
    let may_write = needs.sockets || needs.control;
    let sockets: &[u32] = if may_write { &[DAC_OVERRIDE] } else { &[] };
    let all = of.iter().chain(sockets);
    all.fold(Set::default(), |set, number| set.with(Set::of(*number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_kept_for_shares_and_sockets_only() {
        let names = |sharing, sockets| {
            let needs = Needs {
                sharing,
                sockets,
                ..Needs::default()
            };
            kept(&needs).names().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(Sharing::Nothing, false), "");
        assert_eq!(names(Sharing::Nothing, true), "CAP_DAC_OVERRIDE");
        assert_eq!(names(Sharing::Reading, false), "CAP_DAC_READ_SEARCH");
        let all = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID";
        assert_eq!(names(Sharing::Writing, true), all);
        assert!(!keeps_user(&Needs::default()));
    }
}
