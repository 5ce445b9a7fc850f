//! bpf(2): loading a device program and attaching it to a cgroup.
//!
//! Safety contract of the module: every `attr` struct below has the layout of the matching part of
//! `union bpf_attr` in linux/bpf.h, is passed with its own size, and every pointer stored in one
//! points into a value that lives until the call returns. The kernel writes only to the structs of
//! `BPF_PROG_QUERY`, which are passed as `&mut`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::device_program::Instruction;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    program_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is one of the structs above, valid for reads and writes of its size for the
    // whole call; the pointers in it are valid by the module's contract.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            std::mem::size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: bpf(2) just returned `fd` as a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: &impl AsRawFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Loads `program` and attaches it to the cgroup2 folder; programs attached before are replaced
/// (the new one is in force before the old ones go).
pub(crate) fn attach(folder: &Path, program: &[Instruction]) -> io::Result<()> {
    let target = File::open(folder)?;
    let before = attached(&target)?;
    let license = c"Apache-2.0";
    let mut load = Load {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let program = owned(bpf(PROG_LOAD, &mut load)?)?;
    let mut attach = Attach {
        target_fd: raw(&target),
        program_fd: raw(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &mut attach)?;
    for id in before {
        let mut by_id = ById {
            id,
            next: 0,
            flags: 0,
        };
        let old = owned(bpf(PROG_GET_FD_BY_ID, &mut by_id)?)?;
        let mut detach = Attach {
            target_fd: raw(&target),
            program_fd: raw(&old),
            attach_type: ATTACH_CGROUP_DEVICE,
            flags: 0,
        };
        bpf(PROG_DETACH, &mut detach)?;
    }
    Ok(())
}

/// Ids of the device programs attached to `target` itself.
fn attached(target: &File) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut query = Query {
        target_fd: raw(target),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        reserved: 0,
    };
    bpf(PROG_QUERY, &mut query)?;
    let count = usize::try_from(query.count).map_err(io::Error::other)?;
    Ok(ids[..count.min(ids.len())].to_vec())
}
