//! CVE-2019-5736: a container that overwrites the runtime's program through `/proc/<pid>/exe`.
//! Needs root, and busybox linked statically.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// Waits for a process whose program is not the container's, opens that program, and when nobody
/// executes it any more tries to write to it. `/` is how the link to a detached mount reads.
const WATCH: &str = r#"
echo watching
n=0
while [ $n -lt 20000 ]; do
  n=$((n+1))
  for p in /proc/[0-9]*; do
    case "$(readlink $p/exe)" in
      ""|/bin/busybox) ;;
      *) exec 9<$p/exe && while :; do
           said=$( (echo evil >/proc/self/fd/9) 2>&1 )
           case "$said" in *busy*) ;; *) echo "$said"; exit ;; esac
         done ;;
    esac
  done
done
echo missed
"#;

fn bundle(folder: &Path) {
    let rootfs = folder.join("rootfs");
    for name in ["bin", "proc", "dev", "sys"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for name in ["sh", "true", "sleep", "readlink", "grep"] {
        symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    fs::write(rootfs.join("watch.sh"), WATCH).unwrap();
    let mut spec = atoll_spec::example();
    let process = spec.process.as_mut().unwrap();
    process.terminal = false;
    process.args = ["sleep", "60"].map(str::to_owned).into();
    // What it takes to look at a process that doesn't want it; the default has none of these.
    let capabilities = process.capabilities.as_mut().unwrap();
    for set in [
        &mut capabilities.bounding,
        &mut capabilities.effective,
        &mut capabilities.permitted,
    ] {
        *set = ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]
            .map(str::to_owned)
            .into();
    }
    fs::write(
        folder.join("config.json"),
        serde_json::to_vec(&spec).unwrap(),
    )
    .unwrap();
}

#[test]
fn the_runtimes_program_can_not_be_overwritten_from_inside() {
    let folder = tempfile::tempdir().unwrap();
    bundle(folder.path());
    // A copy: if the attack worked it would only ruin this one.
    let victim = folder.path().join("atoll-runtime");
    // What is shipped protects itself before libc begins, what cargo builds for tests does it from `main`.
    let shipped = std::env::var_os("ATOLL_BIN").map(|bin| Path::new(&bin).join("atoll-runtime"));
    let program = shipped.unwrap_or_else(|| env!("CARGO_BIN_EXE_atoll-runtime").into());
    fs::copy(program, &victim).unwrap();
    let before = fs::read(&victim).unwrap();
    let id = format!("atoll-test-overwriting-{}", std::process::id());
    let state = folder.path().join("state");
    let runtime = |arguments: &[&str]| {
        let mut command = Command::new(&victim);
        command
            .arg("--root")
            .arg(&state)
            .args(arguments)
            .current_dir(folder.path());
        command
    };
    assert!(
        runtime(&["run", "--detach", &id])
            .status()
            .unwrap()
            .success()
    );

    let mut watcher = runtime(&["exec", &id, "sh", "/watch.sh"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(watcher.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "watching\n");
    let mut verdict = String::new();
    std::thread::scope(|scope| {
        let reader =
            scope.spawn(|| std::io::Read::read_to_string(&mut said, &mut verdict).unwrap());
        while !reader.is_finished() {
            let _ = runtime(&["exec", &id, "true"])
                .stderr(Stdio::null())
                .status();
        }
    });
    let _ = watcher.wait();
    let deleted = runtime(&["delete", "--force", &id]).status().unwrap();
    assert!(deleted.success());

    assert!(
        verdict.contains("Read-only file system") || verdict.contains("missed"),
        "{verdict}"
    );
    assert!(
        fs::read(&victim).unwrap() == before,
        "the program was overwritten"
    );
}
