//! Bundles for `atoll-runtime`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Ran, image, leaks, programs};

/// A bundle of the small image and a state root; its containers end when dropped.
pub struct Bundle {
    /// Where it is; states are in `state` there.
    pub folder: TempDir,
}

impl Bundle {
    /// A bundle whose program is `arguments`, without a terminal.
    ///
    /// # Panics
    /// Without root, or when it cannot be written.
    pub fn new(arguments: &[&str]) -> Self {
        programs::require_root();
        let bundle = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        image::tree(&bundle.folder.path().join("rootfs"));
        bundle.runtime(&["spec"]).ok();
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(arguments);
            let name = bundle
                .folder
                .path()
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            spec["linux"]["cgroupsPath"] = json!(format!("atoll-tests/{name}"));
        });
        bundle
    }

    /// The same, behind the wall of a machine.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn in_machine(arguments: &[&str]) -> Self {
        let bundle = Self::new(arguments);
        bundle.change(|spec| {
            spec["annotations"] = json!({"io.atoll.isolation": "vm"});
        });
        bundle
    }

    /// Its `config.json`.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    /// Changes the configuration.
    ///
    /// # Panics
    /// When it is no JSON.
    pub fn change(&self, edit: impl FnOnce(&mut Value)) {
        let mut spec = serde_json::from_str(&fs::read_to_string(self.config()).unwrap()).unwrap();
        edit(&mut spec);
        fs::write(self.config(), spec.to_string()).unwrap();
    }

    /// A command line of the runtime, to be run in the bundle.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs::ours("atoll-runtime"));
        command
            .arg("--root")
            .arg(self.folder.path().join("state"))
            .args(arguments);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command line of the runtime to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn runtime(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Runs without catching output, for programs that outlive the command.
    ///
    /// # Panics
    /// When it fails.
    pub fn detached(&self, arguments: &[&str]) {
        let status = self
            .command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{arguments:?}");
    }

    /// What `state` says.
    ///
    /// # Panics
    /// When there is no such container.
    pub fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.runtime(&["state", id]).ok()).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for id in self.runtime(&["list", "-q"]).stdout.lines() {
            self.runtime(&["delete", "--force", id]);
        }
        let name = self
            .folder
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if !std::thread::panicking() {
            assert_eq!(leaks::cgroups_named(&name), Vec::<PathBuf>::new());
            assert_eq!(
                leaks::mounts_below(self.folder.path()),
                Vec::<String>::new()
            );
        }
    }
}
