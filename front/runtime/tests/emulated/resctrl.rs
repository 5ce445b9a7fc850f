//! Shares of caches and memory bandwidth under a kernel that has them.
//!
//! `cargo xtask nested-resctrl` runs these in a machine with a stock kernel, one after the other: there are four groups for
//! all. `ATOLL_RUNTIME` is the program.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bundle::Bundle;

const ROOT: &str = "/sys/fs/resctrl";

/// A bundle with a share.
fn bundle(share: Value) -> Bundle {
    let bundle = Bundle::new("exec sleep 100");
    bundle.change(|spec| spec["linux"]["intelRdt"] = share);
    bundle
}

/// That there is nothing of the container, its group included.
#[track_caller]
fn assert_clean(bundle: &Bundle) {
    bundle.assert_clean();
    assert!(!group(&bundle.name).exists(), "the group is still there");
}

fn group(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// The lines of a file of a group, without the kernel's spaces.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.replace(' ', "")).collect()
}

/// A group that was there before, removed when dropped.
struct Existing(PathBuf);

impl Existing {
    fn new(name: &str, schemata: &str) -> Self {
        let existing = Self(group(name));
        fs::create_dir(&existing.0).unwrap();
        fs::write(existing.0.join("schemata"), schemata).unwrap();
        existing
    }
}

impl Drop for Existing {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "needs a kernel with resctrl: cargo xtask nested-resctrl"]
fn a_group_of_ones_own_has_all_processes_and_goes_with_the_container() {
    let bundle = bundle(
        json!({ "l3CacheSchema": "L3:0=ff", "memBwSchema": "MB:0=25",
        "enableMonitoring": true }),
    );
    bundle.start();
    let own = group(&bundle.name);
    let monitor = own.join("mon_groups").join(&bundle.name);
    assert_eq!(lines(&own.join("schemata")), ["MB:0=30", "L3:0=000ff"]);
    bundle.detached(&["exec", "-d", &bundle.name, "sleep", "100"]);
    let pids = bundle.ok(&["ps", "-f", "json", &bundle.name]);
    let mut pids: Vec<u32> = serde_json::from_str(&pids).unwrap();
    pids.sort_unstable();
    assert_eq!(pids.len(), 2, "the first process and the exec's");
    for folder in [&own, &monitor] {
        let tasks = lines(&folder.join("tasks"));
        let mut tasks: Vec<u32> = tasks.iter().map(|task| task.parse().unwrap()).collect();
        tasks.sort_unstable();
        assert_eq!(tasks, pids, "{}", folder.display());
    }
    let told: Value =
        serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.name])).unwrap();
    let share = &told["data"]["intel_rdt"];
    assert_eq!(share["l3_cache_schema"], "L3:0=000ff");
    assert_eq!(share["l3_cache_schema_root"], "L3:0=fffff");
    assert_eq!(
        share["l3_cache_info"],
        json!({ "cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 4 })
    );
    assert_eq!(
        share["mem_bw_schema"].as_str().unwrap().replace(' ', ""),
        "MB:0=30"
    );
    assert_eq!(share["mem_bw_info"]["min_bandwidth"], 10);
    assert_eq!(share["cmt_stats"], json!([{ "llc_occupancy": 0 }]));
    assert_eq!(share["mbm_stats"].as_array().unwrap().len(), 1);
    bundle.ok(&[
        "update",
        "--l3-cache-schema",
        "L3:0=f",
        "--mem-bw-schema",
        "MB:0=50",
        &bundle.name,
    ]);
    assert_eq!(lines(&own.join("schemata")), ["MB:0=50", "L3:0=0000f"]);
    let said = bundle.refused(&["update", "--l3-cache-schema", "L3:0=5", &bundle.name], 1);
    assert!(said.contains("last_cmd_status: "), "{said}");
    assert_eq!(lines(&own.join("schemata"))[1], "L3:0=0000f");
    bundle.delete();
    assert_clean(&bundle);
}

#[test]
#[ignore = "needs a kernel with resctrl: cargo xtask nested-resctrl"]
fn schemata_the_kernel_refuses_leave_nothing() {
    let bundle = bundle(json!({}));
    for (share, says) in [
        (json!({ "l3CacheSchema": "L3:0=5" }), "non-consecutive"),
        (json!({ "schemata": ["L2:0=f"] }), "nknown"),
        (json!({ "schemata": ["L3:7=f"] }), "Invalid argument"),
        (
            json!({ "closID": "made", "schemata": ["L3:0=0"] }),
            "last_cmd_status",
        ),
    ] {
        bundle.change(|spec| spec["linux"]["intelRdt"] = share);
        let said = bundle.refused(&["run", &bundle.name], 1);
        assert!(
            said.contains(says) && said.contains("cannot write \"L"),
            "{said}"
        );
        assert_clean(&bundle);
        assert!(!group("made").exists());
    }
}

#[test]
#[ignore = "needs a kernel with resctrl: cargo xtask nested-resctrl"]
fn schemata_come_on_top_of_the_others() {
    let bundle = bundle(json!({ "l3CacheSchema": "L3:0=ff", "schemata": ["L3:0=1", "MB:0=70"] }));
    bundle.start();
    let schemata = lines(&group(&bundle.name).join("schemata"));
    assert_eq!(schemata, ["MB:0=70", "L3:0=00001"]);
    bundle.delete();
    assert_clean(&bundle);
}

#[test]
#[ignore = "needs a kernel with resctrl: cargo xtask nested-resctrl"]
fn a_named_group_that_was_there_is_joined_and_stays() {
    let gold = Existing::new("gold", "L3:0=3f\nMB:0=40\n");
    let bundle = bundle(json!({ "closID": "gold", "enableMonitoring": true }));
    bundle.start();
    let state: Value = serde_json::from_str(&bundle.ok(&["state", &bundle.name])).unwrap();
    let pid = state["pid"].to_string();
    assert!(lines(&gold.0.join("tasks")).contains(&pid));
    let monitor = gold.0.join("mon_groups").join(&bundle.name);
    assert!(lines(&monitor.join("tasks")).contains(&pid));
    bundle.delete();
    assert_clean(&bundle);
    assert!(!monitor.exists() && gold.0.exists());
    bundle.change(|spec| {
        spec["linux"]["intelRdt"] =
            json!({ "closID": "gold", "l3CacheSchema": "L3:0=3f", "memBwSchema": "MB:0=31" });
    });
    bundle.start();
    bundle.delete();
    bundle.change(|spec| spec["linux"]["intelRdt"]["memBwSchema"] = json!("MB:0=50"));
    let said = bundle.refused(&["run", &bundle.name], 1);
    assert!(
        said.contains("has other schemata than the MB:0=50 asked for: MB:0="),
        "{said}"
    );
    assert_clean(&bundle);
}

#[test]
#[ignore = "needs a kernel with resctrl: cargo xtask nested-resctrl"]
fn a_named_group_is_made_for_its_schemata_and_outlives_the_container() {
    let bundle = bundle(json!({ "closID": "silver" }));
    let said = bundle.refused(&["run", &bundle.name], 1);
    assert!(
        said.contains("silver not accessible (must be pre-created"),
        "{said}"
    );
    bundle.change(|spec| spec["linux"]["intelRdt"]["schemata"] = json!(["L3:0=7"]));
    bundle.change(|spec| spec["process"]["cwd"] = json!("/bin/busybox"));
    bundle.refused(&["run", &bundle.name], 1);
    assert!(
        !group("silver").exists(),
        "what a failing create made is still there"
    );
    bundle.change(|spec| spec["process"]["cwd"] = json!("/"));
    bundle.start();
    bundle.delete();
    assert_clean(&bundle);
    assert_eq!(lines(&group("silver").join("schemata"))[1], "L3:0=00007");
    fs::remove_dir(group("silver")).unwrap();
}

#[test]
#[ignore = "needs a kernel with resctrl: cargo xtask nested-resctrl"]
fn the_default_group_is_measured_apart_too() {
    let bundle = bundle(json!({ "closID": "/", "enableMonitoring": true }));
    bundle.start();
    let monitor = group("mon_groups").join(&bundle.name);
    assert_eq!(lines(&monitor.join("tasks")).len(), 1);
    bundle.delete();
    assert!(!monitor.exists());
    assert_clean(&bundle);
}

#[test]
#[ignore = "needs a kernel with resctrl: cargo xtask nested-resctrl"]
fn more_groups_than_the_hardware_has_are_refused() {
    let all = ["one", "two", "three"].map(|name| Existing::new(name, "L3:0=1\n"));
    let bundle = bundle(json!({}));
    let said = bundle.refused(&["run", &bundle.name], 1);
    assert!(
        said.contains("cannot make ") && said.contains("No space left on device"),
        "{said}"
    );
    assert!(said.contains("last_cmd_status: "), "{said}");
    assert_clean(&bundle);
    drop(all);
    bundle.start();
    bundle.delete();
    assert_clean(&bundle);
}
