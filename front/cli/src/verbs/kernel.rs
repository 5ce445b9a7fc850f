//! `kernel`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, json};

use crate::arguments::machine::{InitramfsArgs, KernelInstallArgs, KernelListArgs};
use crate::error::{Error, Message};
use crate::table::List;
use crate::{kernels, print};

/// Lists kernels.
///
/// # Errors
/// Those of printing.
pub(crate) fn list(args: &KernelListArgs) -> Result<(), Error> {
    let rows = kernels::all().into_iter().map(|found| {
        let mut row = Map::new();
        row.insert("ID".to_owned(), json!(found.release));
        row.insert("Release".to_owned(), json!(found.release));
        row.insert("Kernel".to_owned(), json!(found.kernel));
        let modules = found.modules.map_or(json!(""), |folder| json!(folder));
        row.insert("Modules".to_owned(), modules);
        row
    });
    let list = List {
        columns: &[
            ("Release", "RELEASE"),
            ("Kernel", "KERNEL"),
            ("Modules", "MODULES"),
        ],
        rows: rows.collect(),
    };
    list.print(&args.list)
}

/// Writes an initial ramdisk.
///
/// # Errors
/// Whatever keeps it from being made.
pub(crate) fn initramfs(args: &InitramfsArgs) -> Result<(), Error> {
    let (_, modules) = kernels::choose(args.kernel.as_deref())?;
    let archive = kernels::initramfs(modules.as_deref())?.finish();
    fs::write(&args.output, archive).map_err(Error::io(format!("write {}", args.output.display())))
}

/// Fetches a kernel's package and unpacks it into our cache.
///
/// # Errors
/// [`Error::Tool`] when apt, dpkg or depmod fail.
pub(crate) fn install(args: &KernelInstallArgs) -> Result<(), Error> {
    let package = kernel_package(&args.package)?;
    let root = kernels::installed();
    let failed = || Error::io(format!("write {}", root.display()));
    let download = root.join("download");
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download).map_err(failed())?;
    let fetched = fetch(&package, &download, &root);
    let _ = fs::remove_dir_all(&download);
    let release = fetched?;
    print::line(&release)
}

/// Downloads `package` into `download` and unpacks it into `root`. Gives the kernel's release.
fn fetch(package: &str, download: &Path, root: &Path) -> Result<String, Error> {
    // Root downloads as itself: apt's own user could not write here.
    run(Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(download))?;
    let failed = || Error::io(format!("read {}", download.display()));
    let archive = fs::read_dir(download)
        .map_err(failed())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| failed()(std::io::ErrorKind::NotFound.into()))?;
    let unpacked = download.join("unpacked");
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(&archive)
        .arg(&unpacked))?;
    let release = only_release(&unpacked)?;
    // The package leaves this list to its installation script.
    run(Command::new("depmod")
        .arg("-b")
        .arg(&unpacked)
        .arg(&release))?;
    let modules = unpacked.join("lib/modules").join(&release);
    replace(&modules, &root.join("lib/modules").join(&release))?;
    // The kernel last: with it, everything is there.
    let kernel = format!("boot/vmlinuz-{release}");
    replace(&unpacked.join(&kernel), &root.join(&kernel))?;
    Ok(release)
}

/// The kernel package that `package` is or depends on.
fn kernel_package(package: &str) -> Result<String, Error> {
    let depends = run(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let kernel = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"));
    Ok(kernel.unwrap_or(package).to_owned())
}

/// The release of the one kernel under `root`.
fn only_release(root: &Path) -> Result<String, Error> {
    let found = atoll_machine::kernel::find(&[root.to_owned()]);
    match &found[..] {
        [kernel] => Ok(kernel.release.clone()),
        _ => Err(Error::Tool {
            tool: "apt-get".to_owned(),
            message: Message("the package has no kernel in it".to_owned()),
        }),
    }
}

/// Moves `from` to `to`, whatever is there.
fn replace(from: &Path, to: &Path) -> Result<(), Error> {
    let failed = || Error::io(format!("write {}", to.display()));
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(failed())?;
    }
    if to.is_dir() {
        fs::remove_dir_all(to).map_err(failed())?;
    }
    fs::rename(from, to).map_err(failed())
}

/// Runs a tool and gives its output.
fn run(command: &mut Command) -> Result<String, Error> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io(format!("run {tool}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let message = Message(words.trim().to_owned());
    Err(Error::Tool { tool, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_is_named_with_its_words() {
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo broken >&2; exit 3"]);
        let error = run(&mut failing).unwrap_err();
        assert!(
            matches!(&error, Error::Tool { tool, message } if tool == "sh" && message.0 == "broken")
        );
        assert!(matches!(
            run(&mut Command::new("/no/tool")),
            Err(Error::Io { .. })
        ));
    }
}
