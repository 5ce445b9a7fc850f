//! The kernel modules in the initial ramdisk.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::Failure;

/// Names of the files in the same folder, one a line, in the order to load them.
const ORDER: &str = "/modules/order";

/// Loads what `/modules/order` lists; no list, no modules.
pub(crate) fn load_all() -> Result<(), Failure> {
    let order = match fs::read_to_string(ORDER) {
        Ok(order) => order,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::of(format!("read {ORDER}"))(error)),
    };
    for name in order.lines() {
        let step = || format!("load module {name}");
        let file = File::open(Path::new("/modules").join(name)).map_err(Failure::of(step()))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure::of(step())(errno)),
        }
    }
    Ok(())
}
