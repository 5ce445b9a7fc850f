//! `kernel`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use atoll_machine::host;
use serde_json::{Map, json};

use crate::arguments::machine::{InitramfsArgs, KernelInstallArgs, KernelListArgs};
use crate::error::{Error, Message};
use crate::print;
use crate::table::List;

/// Lists kernels.
///
/// # Errors
/// Those of printing.
pub(crate) fn list(args: &KernelListArgs) -> Result<(), Error> {
    let rows = host::all().into_iter().map(|found| {
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
    let (_, modules) = host::choose(args.kernel.as_deref())?;
    let archive = host::initramfs(modules.as_deref())?.finish();
    fs::write(&args.output, archive).map_err(Error::io(format!("write {}", args.output.display())))
}

/// Fetches a kernel's package and unpacks it into our cache.
///
/// # Errors
/// [`Error::Value`] for a package that has no kernel; [`Error::Tool`] when apt, dpkg or depmod fail or are missing.
pub(crate) fn install(args: &KernelInstallArgs) -> Result<(), Error> {
    check_name(&args.package)?;
    let root = host::installed();
    let failed = || Error::io(format!("write {}", root.display()));
    fs::create_dir_all(&root).map_err(failed())?;
    // One at a time; the lock goes with this process.
    let lock = fs::File::open(&root).map_err(failed())?;
    lock.lock().map_err(failed())?;
    let package = kernel_package(&args.package)?;
    let download = root.join("download");
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download).map_err(failed())?;
    let fetched = fetch(&package, &download, &root);
    let _ = fs::remove_dir_all(&download);
    let release = fetched?;
    print::line(&release)
}

/// Refuses what is no name of a package, perhaps with `:architecture`, `=version` or `/suite` (Debian policy 5.6.7).
fn check_name(package: &str) -> Result<(), Error> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:=/~".contains(&byte);
    let begins_well = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if package.bytes().all(is_inner) && package.as_bytes().first().is_some_and(begins_well) {
        return Ok(());
    }
    Err(Error::value(
        "PACKAGE",
        package,
        "expected a package's name",
    ))
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
    let release = only_release(package, &unpacked)?;
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

/// The release of the one kernel under `root`, which is `package` unpacked.
fn only_release(package: &str, root: &Path) -> Result<String, Error> {
    let found = atoll_machine::kernel::find(&[root.to_owned()]);
    match &found[..] {
        [kernel] => Ok(kernel.release.clone()),
        _ => Err(Error::value(
            "PACKAGE",
            package,
            "there is no kernel in it\nhint: packages like linux-image-cloud-amd64 have one",
        )),
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
    let failed = |words: String| Error::Tool {
        tool: tool.clone(),
        message: Message(words),
    };
    // depmod is where only root looks.
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/sbin:/sbin");
    let output = command
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .map_err(|why| match why.kind() {
            std::io::ErrorKind::NotFound => failed(missing(&tool)),
            _ => Error::io(format!("run {tool}"))(why),
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// What to say of a tool that is not there.
fn missing(tool: &str) -> String {
    let hint = match tool {
        "depmod" => "install its package, kmod",
        "dpkg-deb" => "install its package, dpkg",
        _ => {
            "this needs Debian's or Ubuntu's apt; `atoll machine boot --kernel FILE` takes any kernel"
        }
    };
    format!("it is not installed here\nhint: {hint}")
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
        let error = run(&mut Command::new("no-such-tool")).unwrap_err();
        assert!(
            matches!(&error, Error::Tool { message, .. } if message.0.contains("not installed"))
        );
    }

    #[test]
    fn only_names_of_packages_reach_apt() {
        for name in [
            "linux-image-6.1.0-56-amd64",
            "linux-image:i386",
            "x=1.0~rc1",
        ] {
            check_name(name).unwrap();
        }
        for name in ["", "-o", "--help", "a b", "a;b", "A", "a\n", "ä"] {
            let error = check_name(name).unwrap_err();
            assert!(matches!(error, Error::Value { .. }), "{name}");
        }
    }

    #[test]
    fn a_package_without_a_kernel_is_named_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let error = only_release("coreutils", folder.path()).unwrap_err();
        assert_eq!(error.to_string(), "invalid PACKAGE \"coreutils\"");
        let Error::Value { message, .. } = error else {
            panic!();
        };
        assert!(message.0.contains("hint: packages like"));
    }
}
