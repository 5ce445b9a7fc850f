//! Proves what hosts lack: an emulated machine runs a stock Debian kernel, and that a static program of ours. Its processor
//! has SVM, so the KVM backend is proved without hardware; its control groups are version 2 alone, and it may have SELinux or AppArmor.
//!
//! ```text
//!   qemu-system-x86_64 -accel tcg -cpu max
//!     └ Debian's cloud kernel, kvm.ko, kvm-amd.ko        initramfs: busybox, modules, the program
//!         └ the program: tests of cpu/kvm, or atoll-vmm   last line of its serial console: the verdict
//!             └ guests of a few instructions, or the same kernel once more, executed by the emulated SVM
//! ```

mod archive;
mod cgroups;
mod checkpoint;
mod labels;
mod machine;
mod restoring;
mod shares;
mod wall;

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{linker, shell};
use archive::Archive;
pub(crate) use cgroups::cgroup_tests;
pub(crate) use checkpoint::checkpoint;
pub(crate) use labels::label_tests;
pub(crate) use machine::boot_machine;
pub(crate) use shares::share_tests;
pub(crate) use wall::wall;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";
/// Modules of KVM, in this order, below the kernel's folder.
const KVM_MODULES: [&str; 3] = [
    "virt/lib/irqbypass.ko",
    "arch/x86/kvm/kvm.ko",
    "arch/x86/kvm/kvm-amd.ko",
];
/// For the outer kernel: the TSC is good and is the clock, and a timer interrupt that the busy host delays is no fault.
/// Without these a boot in ten hung on another host; with them 80 of 80 came up, at loads up to 15 on two processors.
const APPEND: &str =
    "console=ttyS0 quiet panic=-1 cryptomgr.notests tsc=reliable no_timer_check clocksource=tsc";
/// Waits, a minute at most, until the kernel has measured the TSC's frequency for good, two seconds after its start. KVM that
/// is loaded before keeps the first measure, and where that was 250 ppm too low, its guests' TSC stands still.
const TSC_MEASURED: &str = "for i in $(busybox seq 600); do \
     read clock < /sys/devices/system/clocksource/clocksource0/current_clocksource; \
     [ $clock = tsc-early ] || break; busybox sleep 0.1; done\n";
/// What the outer machine's init prints before the program's exit code.
const VERDICT: &str = "ATOLL-NESTED ";
/// A proof takes 8 to 20 s on an idle host.
const PATIENCE: Duration = Duration::from_secs(150);

/// Runs the KVM backend's tests inside the emulated machine.
pub(crate) fn kvm_tests() -> Result<()> {
    let arguments = ["test", "-p", "atoll-kvm", "--test", "kvm", "--no-run"];
    let mut archive = Archive::default();
    archive.program("payload", &read(&build(&arguments, "kvm")?)?);
    let payload = Payload {
        archive,
        modules: &KVM_MODULES,
        kernel_words: "",
        command: "/payload --test-threads=2 --nocapture",
        proof: "test result: ok",
    };
    prove(&Kernel::find()?, payload)?;
    Ok(())
}

/// What runs inside.
struct Payload {
    /// Its files.
    archive: Archive,
    /// What its kernel is told besides.
    kernel_words: &'static str,
    /// Modules it needs, in this order, below the kernel's folder.
    modules: &'static [&'static str],
    /// A shell's line that runs it.
    command: &'static str,
    /// What the console must have said besides the verdict.
    proof: &'static str,
}

/// Boots the emulated machine with `payload` and fails unless that ends with 0; what the console said.
fn prove(kernel: &Kernel, payload: Payload) -> Result<String> {
    prove_by(&boot, kernel, payload)
}

/// Runs a machine: kernel, ramdisk, the kernel's words, where its console is written to; what that said.
type Emulator<'a> = dyn Fn(&Path, &Path, &str, &Path) -> Result<String> + 'a;

/// As [`prove`], in another machine than QEMU's.
fn prove_by(boot: &Emulator<'_>, kernel: &Kernel, payload: Payload) -> Result<String> {
    let folder = folder()?;
    let initrd = folder.join("initramfs");
    let proof = payload.proof;
    let words = format!("{APPEND} {}", payload.kernel_words);
    write(&initrd, &initramfs(kernel, payload)?)?;
    let start = Instant::now();
    let attempt = || -> Result<(String, Option<i32>)> {
        let console = folder.join("console");
        let console = boot(&kernel.image, &initrd, words.trim_end(), &console)?;
        print!("{console}");
        let code = console
            .lines()
            .find_map(|line| line.trim().strip_prefix(VERDICT)?.parse::<i32>().ok());
        Ok((console, code))
    };
    let (mut console, mut code) = attempt()?;
    if code.is_none() {
        println!("nested: no verdict; timers of an emulated machine stall now and then: once more");
        (console, code) = attempt()?;
    }
    match code {
        Some(0) => {
            ensure!(console.contains(proof), "the console never said {proof}");
            println!("nested: passed in {:.1} s", start.elapsed().as_secs_f64());
            Ok(console)
        }
        Some(code) => bail!("the program inside the emulated machine ended with {code}"),
        None => bail!(
            "the emulated machine came to no verdict within {} s, twice",
            PATIENCE.as_secs()
        ),
    }
}

/// The working directory of what follows: a root file system in memory that is no initramfs, as pivot_root(2) wants it, with
/// cgroup v2 alone and the programs; to be moved to `/`.
const ROOT: &str = "#!/bin/busybox sh
set -e
busybox mkdir /new && busybox mount -t tmpfs -o mode=755 root /new
cd /new && busybox mkdir bin dev proc sys tmp && busybox cp /bin/busybox bin/
busybox cp /test /atoll-runtime .
for name in cp sh; do busybox ln -s busybox bin/$name; done
for place in dev proc sys; do busybox mount --move /$place $place; done
busybox mount -t cgroup2 none sys/fs/cgroup
export ATOLL_RUNTIME=/atoll-runtime RUST_BACKTRACE=1
";

/// Tests of the runtime that `script` runs in an emulated machine, after [`ROOT`]: program `test`, `atoll-runtime`, and `run`.
fn runtime_tests(script: &str) -> Result<Archive> {
    let name = "emulated";
    let arguments = [
        "test",
        "--profile",
        "dist",
        "-p",
        "atoll-runtime",
        "--test",
        name,
        "--no-run",
    ];
    let mut archive = Archive::default();
    archive.program("test", &read(&build(&arguments, name)?)?);
    let runtime = build(&arguments, "atoll-runtime")?;
    archive.program("atoll-runtime", &read(&runtime)?);
    archive.program("run", [ROOT, script].concat().as_bytes());
    Ok(archive)
}

/// Where the proofs' files are.
fn folder() -> Result<PathBuf> {
    let folder = shell::root().join("target/atoll/nested");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Where a program of ours is that `dist` built, static.
fn shipped(name: &str) -> Result<PathBuf> {
    let path = shell::root().join("target/atoll/bin").join(name);
    ensure!(
        path.exists(),
        "there is no {}\nhint: cargo xtask dist",
        path.display()
    );
    Ok(path)
}

/// The executable of target `name` as one static program, by cargo with `arguments`.
fn build(arguments: &[&str], name: &str) -> Result<PathBuf> {
    let mut build = shell::command("cargo", arguments);
    build
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    linker::link_by_us(&mut build)?;
    println!("+ {build:?}");
    let output = build.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo ended with {}",
        output.status
    );
    cargo_metadata::Message::parse_stream(output.stdout.as_slice())
        .filter_map(std::result::Result::ok)
        .find_map(|message| match message {
            cargo_metadata::Message::CompilerArtifact(artifact) if artifact.target.name == name => {
                artifact.executable.map(PathBuf::from)
            }
            _ => None,
        })
        .with_context(|| format!("cargo names no executable of {name}"))
}

/// An installed kernel with KVM for AMD.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// The newest of Debian's cloud kernels, by name.
    fn find() -> Result<Self> {
        let hint = "hint: apt-get install linux-image-cloud-amd64";
        let entries =
            fs::read_dir("/lib/modules").with_context(|| format!("no kernels\n{hint}"))?;
        let mut versions: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|version| version.ends_with("cloud-amd64"))
            .collect();
        versions.sort();
        let found = versions.iter().rev().find_map(|version| {
            let kernel = Self {
                image: Path::new("/boot").join(format!("vmlinuz-{version}")),
                modules: Path::new("/lib/modules").join(version).join("kernel"),
            };
            kernel.image.exists().then_some(kernel)
        });
        found.with_context(|| format!("no cloud kernel in /boot\n{hint}"))
    }

    /// One of its modules, decompressed.
    fn module(&self, name: &str) -> Result<Vec<u8>> {
        let plain = self.modules.join(name);
        if plain.exists() {
            return read(&plain);
        }
        let packed = self.modules.join(format!("{name}.xz"));
        let output = Command::new("xz")
            .arg("-dc")
            .arg(&packed)
            .output()
            .context("cannot start xz")?;
        ensure!(
            output.status.success(),
            "cannot unpack {}",
            packed.display()
        );
        Ok(output.stdout)
    }
}

/// The outer machine's root: busybox, modules, the payload's files, and an init that runs its command.
fn initramfs(kernel: &Kernel, payload: Payload) -> Result<Vec<u8>> {
    let Payload {
        mut archive,
        modules,
        command,
        ..
    } = payload;
    for folder in ["bin", "dev", "proc", "sys", "tmp", "modules"] {
        archive.folder(folder);
    }
    archive.program("bin/busybox", &read(Path::new(BUSYBOX))?);
    let mut init = String::from(
        "#!/bin/busybox sh\n\
         export PATH=/bin ATOLL_KVM_ACCELERATES=1\n\
         busybox mount -t devtmpfs dev /dev\n\
         busybox mount -t proc proc /proc\n\
         busybox mount -t sysfs sys /sys\n",
    );
    init.push_str(TSC_MEASURED);
    for module in modules {
        let name = Path::new(module).file_name().and_then(OsStr::to_str);
        let name = name.context("modules have names")?;
        archive.file(&format!("modules/{name}"), &kernel.module(module)?);
        init.push_str(&format!("busybox insmod /modules/{name}\n"));
    }
    init.push_str(&format!(
        "{command}
code=$?
[ $code = 0 ] || busybox dmesg
echo \"{VERDICT}$code\"
busybox poweroff -f
"
    ));
    archive.program("init", init.as_bytes());
    Ok(archive.finish())
}

/// Runs the emulated machine until it powers off; what its serial console said.
fn boot(kernel: &Path, initrd: &Path, words: &str, console: &Path) -> Result<String> {
    // A file of an earlier run must not give this one's verdict.
    write(console, b"")?;
    let mut qemu = Command::new(QEMU);
    qemu.args(["-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "1024"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", words])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    println!("+ {qemu:?}");
    let child = qemu
        .spawn()
        .with_context(|| format!("cannot start {QEMU}\nhint: apt-get install qemu-system-x86"))?;
    said(child, console)
}

/// Waits for a machine; what its console said.
fn said(machine: Child, console: &Path) -> Result<String> {
    let errors = wait(machine)?;
    let text = String::from_utf8_lossy(&read(console)?).into_owned();
    ensure!(
        !text.is_empty(),
        "the emulated machine said nothing: {errors}"
    );
    Ok(text)
}

/// Waits for the emulator, ends it when its time is over; what it complained about.
fn wait(mut child: Child) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    while child
        .try_wait()
        .context("cannot wait for the machine")?
        .is_none()
    {
        if Instant::now() > deadline {
            child.kill().context("cannot end the machine")?;
            child.wait().context("cannot wait for the machine")?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut errors = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut errors)
            .context("cannot read the machine's errors")?;
    }
    Ok(errors)
}

#[cfg(test)]
mod tests {
    #[test]
    fn tests_for_emulated_machines_are_left_to_them() {
        for name in ["apparmor", "cgroup_v2", "resctrl", "selinux"] {
            let path = crate::shell::root()
                .join("front/runtime/tests/emulated")
                .join(format!("{name}.rs"));
            let text = std::fs::read_to_string(path).unwrap();
            assert_eq!(
                text.matches("#[test]").count(),
                text.matches("#[ignore = ").count(),
                "{name}"
            );
        }
    }
}
