//! What a group has and what is measured of it, by runc's names.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::{Group, Resctrl};

/// What a container's group has and uses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Stats {
    /// What the caches can be divided into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<CacheInfo>,
    /// The share of caches of processes without a group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    /// The group's share of caches.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// What bandwidth can be divided into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<BandwidthInfo>,
    /// The bandwidth of processes without a group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    /// The group's bandwidth.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// Every line of the group's share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// Bytes moved, by domain in the order of their names; of the container alone if its group is measured for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<Traffic>>,
    /// Bytes in caches, in the same order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<Occupancy>>,
}

/// What caches can be divided into.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CacheInfo {
    /// All bits of a mask, hexadecimal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cbm_mask: String,
    /// Fewest bits of one.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_cbm_bits: u64,
    /// Most groups.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_closids: u64,
}

/// What bandwidth can be divided into.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BandwidthInfo {
    /// Steps, percent.
    #[serde(skip_serializing_if = "is_zero")]
    pub bandwidth_gran: u64,
    /// Whether delays grow with what is taken away.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay_linear: u64,
    /// Least share, percent.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_bandwidth: u64,
    /// Most groups.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_closids: u64,
}

/// Bytes moved between one domain's caches and memory; absent when the hardware has no number at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// All of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_total_bytes: Option<u64>,
    /// Those to the domain's own memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_local_bytes: Option<u64>,
}

/// Bytes in one domain's caches; absent when the hardware has no number at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Occupancy {
    /// All of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llc_occupancy: Option<u64>,
}

impl Group {
    /// What it has and uses. What can't be read is left out.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let resctrl = Resctrl::at(self.root());
        let of_root = text(&self.root().join("schemata"));
        let own = text(&self.folder().join("schemata"));
        let mut stats = Stats {
            schemata: own.lines().map(|line| line.trim().to_owned()).collect(),
            ..Stats::default()
        };
        if resctrl.has("L3") {
            let info = self.root().join("info/L3");
            stats.l3_cache_info = Some(CacheInfo {
                cbm_mask: text(&info.join("cbm_mask")),
                min_cbm_bits: number(&info.join("min_cbm_bits")).unwrap_or(0),
                num_closids: number(&info.join("num_closids")).unwrap_or(0),
            });
            stats.l3_cache_schema_root = line(&of_root, "L3:");
            stats.l3_cache_schema = line(&own, "L3:");
        }
        if resctrl.has("MB") {
            let info = self.root().join("info/MB");
            stats.mem_bw_info = Some(BandwidthInfo {
                bandwidth_gran: number(&info.join("bandwidth_gran")).unwrap_or(0),
                delay_linear: number(&info.join("delay_linear")).unwrap_or(0),
                min_bandwidth: number(&info.join("min_bandwidth")).unwrap_or(0),
                num_closids: number(&info.join("num_closids")).unwrap_or(0),
            });
            stats.mem_bw_schema_root = line(&of_root, "MB:");
            stats.mem_bw_schema = line(&own, "MB:");
        }
        self.measure(&mut stats);
        stats
    }

    fn measure(&self, stats: &mut Stats) {
        let features = text(&self.root().join("info/L3_MON/mon_features"));
        let has = |name: &str| features.lines().any(|feature| feature == name);
        let place = self.monitor().unwrap_or(self.folder()).join("mon_data");
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        let mut domains: Vec<_> = entries.map(|entry| entry.path()).collect();
        domains.sort();
        let (total, local) = (has("mbm_total_bytes"), has("mbm_local_bytes"));
        let read = |domain: &Path, name: &str| number(&domain.join(name));
        if total || local {
            let of = |domain: &std::path::PathBuf| Traffic {
                mbm_total_bytes: read(domain, "mbm_total_bytes").filter(|_| total),
                mbm_local_bytes: read(domain, "mbm_local_bytes").filter(|_| local),
            };
            stats.mbm_stats = Some(domains.iter().map(of).collect());
        }
        if has("llc_occupancy") {
            let of = |domain: &std::path::PathBuf| Occupancy {
                llc_occupancy: read(domain, "llc_occupancy"),
            };
            stats.cmt_stats = Some(domains.iter().map(of).collect());
        }
    }
}

fn line(file: &str, start: &str) -> String {
    let mut lines = file.lines().map(str::trim);
    let found = lines.find(|line| line.starts_with(start));
    found.unwrap_or_default().to_owned()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn number(path: &Path) -> Option<u64> {
    text(path).parse().ok()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
