//! Groups in a tree of plain files. What the kernel would do there, the tests do: it fills a new folder, and a folder
//! with its files in it can be removed. Under a real kernel: `cargo xtask nested-resctrl`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use atoll_resctrl::{Error, Group, NewGroup, Plan, Resctrl, Settings, plan};
use tempfile::TempDir;

/// A made-up machine with two caches and four groups.
struct Tree {
    folder: TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        tree.write("info/last_cmd_status", "ok\n");
        tree.write("info/L3/cbm_mask", "fffff\n");
        tree.write("info/L3/min_cbm_bits", "1\n");
        tree.write("info/L3/num_closids", "4\n");
        tree.write("info/MB/bandwidth_gran", "10\n");
        tree.write("info/MB/delay_linear", "1\n");
        tree.write("info/MB/min_bandwidth", "10\n");
        tree.write("info/MB/num_closids", "4\n");
        tree.write(
            "info/L3_MON/mon_features",
            "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
        );
        tree.fill("");
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The kernel's part of making a folder.
    fn fill(&self, group: &str) {
        let at = |name: &str| format!("{group}/{name}").trim_start_matches('/').to_owned();
        self.write(
            &at("schemata"),
            "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n",
        );
        self.write(&at("tasks"), "");
        fs::create_dir_all(self.path(&at("mon_groups"))).unwrap();
        for (domain, used) in [("mon_L3_00", 4096), ("mon_L3_01", 0)] {
            self.write(
                &at(&format!("mon_data/{domain}/llc_occupancy")),
                &format!("{used}\n"),
            );
            self.write(&at(&format!("mon_data/{domain}/mbm_total_bytes")), "70\n");
            self.write(
                &at(&format!("mon_data/{domain}/mbm_local_bytes")),
                "Unavailable\n",
            );
        }
    }

    /// The kernel's part of removing one.
    fn empty(&self, group: &str) {
        for entry in fs::read_dir(self.path(group)).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => fs::remove_dir_all(path).unwrap(),
                false => fs::remove_file(path).unwrap(),
            }
        }
    }

    fn resctrl(&self) -> Resctrl {
        Resctrl::at(self.folder.path())
    }

    fn plan(&self, change: impl FnOnce(&mut Settings)) -> Plan {
        let mut settings = Settings::default();
        change(&mut settings);
        plan(&settings, "web", &self.resctrl()).unwrap()
    }

    fn prepare(&self, change: impl FnOnce(&mut Settings)) -> Result<NewGroup, Error> {
        self.resctrl().prepare(&self.plan(change))
    }

    /// A group that is there, with all that is written to it.
    fn join(&self, change: impl FnOnce(&mut Settings)) -> Group {
        let mut new = self.prepare(change).unwrap();
        new.make().unwrap();
        let group = new.group().clone();
        new.keep();
        group
    }
}

fn named(name: &'static str) -> impl Fn(&mut Settings) {
    move |settings| settings.clos_id = Some(name.to_owned())
}

#[test]
fn a_group_of_ones_own_is_made_and_goes_with_the_container() {
    let tree = Tree::new();
    let mut new = tree.prepare(|_| ()).unwrap();
    assert!(!tree.path("web").exists(), "remembered before it is made");
    let remembered = new.group().clone();
    new.make().unwrap();
    new.keep();
    assert!(tree.path("web").is_dir());
    remembered.remove().unwrap();
    assert!(!tree.path("web").exists());
    remembered.remove().unwrap();
}

#[test]
fn a_group_that_was_there_stays() {
    let tree = Tree::new();
    for name in ["gold", "web"] {
        tree.fill(name);
    }
    let gold = tree.join(named("gold"));
    gold.remove().unwrap();
    // By the container's own id, but somebody else's.
    let own = tree.join(|_| ());
    own.remove().unwrap();
    for name in ["gold", "web"] {
        assert_eq!(tree.read(&format!("{name}/tasks")), "", "{name}");
    }
    drop(tree.prepare(named("gold")).unwrap());
    assert!(tree.path("gold/schemata").exists());
}

#[test]
fn a_named_group_without_schemata_must_be_there() {
    let tree = Tree::new();
    let error = tree.prepare(named("silver")).unwrap_err();
    assert!(matches!(error, Error::NoClos { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("silver not accessible (must be pre-created"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("mkdir "), "{error}");
    assert!(!tree.path("silver").exists());
}

#[test]
fn the_default_group_is_the_root() {
    let tree = Tree::new();
    let group = tree.join(named("/"));
    group.handles().unwrap().join_self().unwrap();
    assert_eq!(tree.read("tasks"), "0");
    group.remove().unwrap();
    assert!(tree.path("schemata").exists());
}

#[test]
fn a_group_with_other_schemata_is_refused() {
    let tree = Tree::new();
    tree.fill("gold");
    let with = |l3: &'static str, mb: &'static str| {
        tree.prepare(move |settings| {
            named("gold")(settings);
            settings.l3_cache_schema = Some(l3.to_owned());
            settings.mem_bw_schema = Some(mb.to_owned());
        })
    };
    let error = with("L3:0=ff", "MB:0=100").unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("gold has other schemata than the L3:0=ff asked for: L3:0=fffff;1=fffff"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("closID"));
    assert!(with("L3:0=fffff", "MB:0=90").is_err());
    // 91 is rounded up.
    drop(with("L3:1=0fffff;0=fffff", "MB:1=91").unwrap());
    assert!(
        tree.read("gold/schemata").starts_with("    MB:0=100"),
        "nothing is written"
    );
}

#[test]
fn schemata_are_written_to_a_group_that_is_there() {
    let tree = Tree::new();
    tree.fill("gold");
    tree.write("gold/schemata", "");
    tree.join(|settings| {
        named("gold")(settings);
        settings.schemata = vec!["L3:0=f".to_owned(), "L2:0=1;1=1".to_owned()];
    });
    assert_eq!(tree.read("gold/schemata"), "L3:0=f\nL2:0=1;1=1\n");
}

#[test]
fn what_can_not_be_made_whole_is_undone() {
    let tree = Tree::new();
    tree.write(
        "info/last_cmd_status",
        "Mask 0x5 has non-consecutive 1-bits\n",
    );
    // Nobody fills the new folder: there is no file to write to.
    let mut new = tree
        .prepare(|settings| {
            settings.schemata = vec!["L3:0=5".to_owned()];
            settings.is_monitored = true;
        })
        .unwrap();
    let text = new.make().unwrap_err().to_string();
    let path = tree.path("web/schemata");
    assert_eq!(
        text,
        format!("cannot write \"L3:0=5\\n\" to {}", path.display())
    );
    assert!(tree.path("web").is_dir());
    drop(new);
    assert!(!tree.path("web").exists());
}

#[test]
fn what_the_kernel_says_is_passed_on() {
    let tree = Tree::new();
    let group = tree.join(named("/"));
    tree.write(
        "info/last_cmd_status",
        "Mask 0x5 has non-consecutive 1-bits\n",
    );
    // A folder is nothing to write to, for the superuser either.
    fs::remove_file(tree.path("schemata")).unwrap();
    fs::create_dir(tree.path("schemata")).unwrap();
    let text = group
        .write_schemata(&["L3:0=5".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(
        text.ends_with("(last_cmd_status: Mask 0x5 has non-consecutive 1-bits)"),
        "{text}"
    );
}

#[test]
fn a_container_is_measured_in_a_group_below() {
    let tree = Tree::new();
    tree.fill("gold");
    let group = tree.join(|settings| {
        named("gold")(settings);
        settings.is_monitored = true;
    });
    assert_eq!(group.monitor().unwrap(), tree.path("gold/mon_groups/web"));
    tree.fill("gold/mon_groups/web");
    tree.write(
        "gold/mon_groups/web/mon_data/mon_L3_00/llc_occupancy",
        "8192\n",
    );
    group.handles().unwrap().join_self().unwrap();
    assert_eq!(tree.read("gold/tasks"), "0");
    assert_eq!(tree.read("gold/mon_groups/web/tasks"), "0");
    let stats = group.stats();
    let occupancy: Vec<_> = stats
        .cmt_stats
        .unwrap()
        .into_iter()
        .map(|one| one.llc_occupancy)
        .collect();
    assert_eq!(occupancy, [Some(8192), Some(0)]);
    tree.empty("gold/mon_groups/web");
    group.remove().unwrap();
    assert!(!tree.path("gold/mon_groups/web").exists() && tree.path("gold").exists());
}

#[test]
fn a_monitoring_group_that_was_left_is_taken_over() {
    let tree = Tree::new();
    tree.fill("gold");
    tree.fill("gold/mon_groups/web");
    let group = tree.join(|settings| {
        named("gold")(settings);
        settings.is_monitored = true;
    });
    tree.empty("gold/mon_groups/web");
    group.remove().unwrap();
    assert!(!tree.path("gold/mon_groups/web").exists());
}

#[test]
fn statistics_have_runcs_names() {
    let tree = Tree::new();
    tree.fill("gold");
    tree.write(
        "gold/schemata",
        "    MB:0= 20;1=100\n    L3:0=0000f;1=fffff\n",
    );
    let stats = tree.join(named("gold")).stats();
    let info = stats.l3_cache_info.unwrap();
    assert_eq!(
        (info.cbm_mask.as_str(), info.min_cbm_bits, info.num_closids),
        ("fffff", 1, 4)
    );
    assert_eq!(stats.l3_cache_schema_root, "L3:0=fffff;1=fffff");
    assert_eq!(stats.l3_cache_schema, "L3:0=0000f;1=fffff");
    assert_eq!(stats.mem_bw_schema, "MB:0= 20;1=100");
    assert_eq!(stats.mem_bw_info.unwrap().bandwidth_gran, 10);
    assert_eq!(stats.schemata, ["MB:0= 20;1=100", "L3:0=0000f;1=fffff"]);
    let traffic = stats.mbm_stats.unwrap();
    assert_eq!((traffic.len(), traffic[0].mbm_total_bytes), (2, Some(70)));
    assert_eq!(
        traffic[0].mbm_local_bytes, None,
        "what is unavailable is no number"
    );
}

#[test]
fn all_threads_of_a_process_are_moved() {
    let tree = Tree::new();
    tree.fill("gold");
    let group = tree.join(named("gold"));
    group.add_process(std::process::id()).unwrap();
    let last: u32 = tree.read("gold/tasks").parse().unwrap();
    assert!(Path::new(&format!("/proc/self/task/{last}")).exists());
    assert!(group.add_process(u32::MAX).is_err());
}

#[test]
fn changes_are_made_one_at_a_time() {
    let tree = Tree::new();
    tree.fill("gold");
    let first = tree.prepare(named("gold")).unwrap();
    let (root, plan) = (tree.resctrl(), tree.plan(named("gold")));
    let second = std::thread::spawn(move || root.prepare(&plan).map(drop));
    drop(first);
    second.join().unwrap().unwrap();
}

#[test]
fn a_root_that_is_not_there_is_named() {
    let tree = Tree::new();
    let root = tree.path("no/such");
    let plan = tree.plan(named("/"));
    let text = Resctrl::at(&root).prepare(&plan).unwrap_err().to_string();
    assert_eq!(text, format!("cannot open {}", root.display()));
}
