//! `atoll-runtime` as a user without privilege.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use atoll_tests::{Ran, image, programs};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A user nobody else is.
const USER: u32 = 54_321;
/// The first id that he is lent.
const LENT: u32 = 300_000;

/// A bundle of that user's, with a program he may execute.
struct Bundle {
    folder: TempDir,
}

impl Bundle {
    fn new(arguments: &[&str]) -> Self {
        programs::require_root();
        let bundle = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let path = bundle.folder.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(path, Some(USER), Some(USER)).unwrap();
        // By another process: a container made by another thread meanwhile would keep it open for writing.
        let mut copy = Command::new("cp");
        copy.arg(programs::ours("atoll-runtime")).arg(path);
        Ran::of(&mut copy).ok();
        image::tree(&path.join("rootfs"));
        Ran::of(
            Command::new("chown")
                .args(["-hR", &format!("{USER}:{USER}")])
                .arg(path),
        )
        .ok();
        bundle.runtime(&["spec", "--rootless"]).ok();
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(arguments);
        });
        bundle
    }

    fn change(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.folder.path().join("config.json");
        let mut spec = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut spec);
        fs::write(&path, spec.to_string()).unwrap();
    }

    /// The words of a command line of the user's.
    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let (user, folder) = (USER.to_string(), self.folder.path().display());
        let own = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "env",
            &format!("XDG_RUNTIME_DIR={folder}/run"),
            &format!("{folder}/atoll-runtime"),
        ]
        .map(str::to_owned);
        let arguments = arguments.iter().map(|&word| word.to_owned());
        own.into_iter().chain(arguments).collect()
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command.current_dir(self.folder.path());
        command
    }

    fn runtime(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(&self.words(arguments)))
    }

    /// The same where the user has ids from [`LENT`] on, in a mount namespace of its own.
    fn with_lent_ids(&self, arguments: &[&str]) -> Ran {
        let place = |name: &str| self.folder.path().join(name).display().to_string();
        fs::write(place("subids"), format!("{USER}:{LENT}:65536\n")).unwrap();
        let user = format!("root:x:0:0::/root:/bin/sh\nlender:x:{USER}:{USER}::/:/bin/sh\n");
        fs::write(place("passwd"), user).unwrap();
        let script = format!(
            "mount --bind {0} /etc/subuid && mount --bind {0} /etc/subgid && mount --bind {1} /etc/passwd && exec \"$@\"",
            place("subids"),
            place("passwd")
        );
        let mut words = ["unshare", "-m", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .to_vec();
        words.extend(self.words(arguments));
        Ran::of(&mut self.command(&words))
    }

    /// It failed, with these words, and nothing is left.
    #[track_caller]
    fn assert_refused(&self, ran: &Ran, words: &str) {
        assert_eq!(ran.code, 1, "{}", ran.stdout);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
        assert_eq!(self.states(), Vec::<PathBuf>::new());
    }

    fn states(&self) -> Vec<PathBuf> {
        let root = self.folder.path().join("run/atoll-runtime");
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for id in self.runtime(&["list", "-q"]).stdout.lines() {
            self.runtime(&["delete", "--force", id]);
        }
    }
}

/// Maps the user to 0, and 1000 of the lent ids to those from 1 on.
fn map_two(spec: &mut Value) {
    let maps = json!([
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": LENT, "size": 1000},
    ]);
    spec["linux"]["uidMappings"] = maps.clone();
    spec["linux"]["gidMappings"] = maps;
}

#[test]
fn a_user_is_root_in_his_container() {
    let script = "id -u; cat /proc/self/uid_map /proc/self/setgroups; touch /mine; echo x > /dev/null; cat /proc/self/oom_score_adj";
    let bundle = Bundle::new(&["sh", "-c", script]);
    bundle.change(|spec| spec["root"]["readonly"] = json!(false));
    let out = bundle.runtime(&["run", "a"]).ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    let user = USER.to_string();
    assert_eq!(words[..5], ["0", "0", &user, "1", "deny"]);
    let made = fs::metadata(bundle.folder.path().join("rootfs/mine")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), USER);
}

#[test]
fn a_user_lives_with_his_container() {
    let bundle = Bundle::new(&["sleep", "100"]);
    let mut run = bundle.command(&bundle.words(&["run", "-d", "a"]));
    let status = run.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    assert_eq!(bundle.runtime(&["exec", "a", "id", "-u"]).ok(), "0");
    assert_eq!(
        bundle.runtime(&["exec", "-t", "a", "echo", "hi"]).ok(),
        "hi"
    );
    assert_eq!(
        bundle.runtime(&["exec", "a", "ps", "-o", "comm"]).ok(),
        "COMMAND\nsleep\nps"
    );
    let state: Value = serde_json::from_str(&bundle.runtime(&["state", "a"]).ok()).unwrap();
    assert_eq!(state["owner"], format!("#{USER}"));
    assert!(bundle.runtime(&["ps", "a"]).ok().contains("sleep 100"));
    let paused = bundle.runtime(&["pause", "a"]);
    assert!(paused.stderr.contains("freezer"), "{}", paused.stderr);
    let written = bundle.runtime(&["checkpoint", "a"]);
    assert_eq!(
        written.stderr,
        "error: a container of a user without privilege is neither checkpointed nor restored: \
         criu needs privilege on the host, outside of user namespaces\n\
         hint: make, checkpoint and restore it as root\n"
    );
    bundle.runtime(&["kill", "--all", "a", "KILL"]).ok();
    atoll_tests::waiting::until("it is stopped", || {
        bundle
            .runtime(&["state", "a"])
            .stdout
            .contains("\"stopped\"")
    });
    bundle.runtime(&["delete", "a"]).ok();
    // Made by one, started by another process, with another user inside.
    let mut create = bundle.command(&bundle.words(&["create", "b"]));
    let status = create.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    bundle.runtime(&["start", "b"]).ok();
    bundle.runtime(&["delete", "--force", "b"]).ok();
    assert_eq!(bundle.runtime(&["list", "-q"]).ok(), "");
}

#[test]
fn lent_ids_are_mapped_by_those_who_lend_them() {
    let bundle = Bundle::new(&["sh", "-c", "id -u; id -G; cat /proc/self/uid_map"]);
    bundle.change(|spec| {
        map_two(spec);
        spec["process"]["user"] = json!({"uid": 33, "gid": 33, "additionalGids": [44]});
    });
    let out = bundle.with_lent_ids(&["run", "a"]).ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    let (user, lent) = (USER.to_string(), LENT.to_string());
    assert_eq!(
        words,
        ["33", "33", "44", "0", &user, "1", "1", &lent, "1000"]
    );
}

#[test]
fn what_takes_privilege_is_refused_by_name() {
    let bundle = Bundle::new(&["true"]);
    bundle.change(map_two);
    let ran = bundle.runtime(&["run", "a"]);
    bundle.assert_refused(&ran, "newuidmap cannot map ids: ");
    bundle.change(|spec| spec["linux"]["resources"] = json!({"pids": {"limit": 5}}));
    let ran = bundle.with_lent_ids(&["run", "a"]);
    bundle.assert_refused(&ran, "cannot create cgroup");
    bundle.change(|spec| {
        spec["linux"]["resources"] = json!({});
        for key in ["uidMappings", "gidMappings"] {
            spec["linux"][key] = json!([]);
        }
        let kinds = spec["linux"]["namespaces"].as_array_mut().unwrap();
        kinds.retain(|kind| kind["type"] != "user");
    });
    let ran = bundle.runtime(&["run", "a"]);
    bundle.assert_refused(&ran, "rootless container requires user namespaces");
}
