//! Which group a container gets. Pure.

use std::fmt;

use crate::schemata::is_line;
use crate::{Error, Resctrl, Result};

/// What is asked for, as `linux.intelRdt` has it; empty texts are absent ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Name of the group; `/` is the root of the file system.
    pub clos_id: Option<String>,
    /// Lines for caches of level three.
    pub l3_cache_schema: Option<String>,
    /// One line for memory bandwidth.
    pub mem_bw_schema: Option<String>,
    /// Any lines.
    pub schemata: Vec<String>,
    /// Whether it is measured apart from others of its group.
    pub is_monitored: bool,
}

/// A container's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The group.
    pub clos: Clos,
    /// Lines written first; a group that is there already must have them instead.
    pub schemas: Vec<String>,
    /// Lines written then, on top of these.
    pub schemata: Vec<String>,
    /// Name of the group by which it is measured apart.
    pub monitor: Option<String>,
}

/// A class of service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clos {
    /// The one of all processes that have no other.
    Default,
    /// One by the name given, which outlives the container.
    Named(String),
    /// One by the container's id, which goes with it.
    Own(String),
}

/// Names that the kernel has taken in every group.
const TAKEN: [&str; 3] = ["info", "mon_groups", "mon_data"];

/// Plans the group of container `id`.
///
/// * `on`: the file system, which says what it can share out.
///
/// # Errors
/// [`Error::Setting`], in runc's words where it has some.
pub fn plan(settings: &Settings, id: &str, on: &Resctrl) -> Result<Plan> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let clos = match given(&settings.clos_id) {
        None => Clos::Own(id.to_owned()),
        Some(name) if name == "/" => Clos::Default,
        Some(name) => Clos::Named(name),
    };
    if let Clos::Own(name) | Clos::Named(name) = &clos {
        let is_folder = matches!(name.as_str(), "." | "..") || name.contains(['/', '\n', '\0']);
        if is_folder || TAKEN.contains(&name.as_str()) {
            return fault("closID", format!("{name:?} is no name of a CLOS"));
        }
    }
    let l3_cache = given(&settings.l3_cache_schema);
    if l3_cache.is_some() && !on.has("L3") {
        return fault(
            "l3CacheSchema",
            "is specified in config, but Intel RDT/CAT is not enabled",
        );
    }
    let mem_bw = given(&settings.mem_bw_schema);
    if mem_bw.is_some() && !on.has("MB") {
        return fault(
            "memBwSchema",
            "is specified in config, but Intel RDT/MBA is not enabled",
        );
    }
    if let Some(line) = mem_bw
        .as_ref()
        .filter(|line| !line.starts_with("MB:") || !is_line(line))
    {
        return fault(
            "memBwSchema",
            format!("{line:?} is not one line that begins with MB:"),
        );
    }
    let schemata: Vec<String> = settings.schemata.clone();
    if let Some(line) = schemata.iter().find(|line| !is_line(line)) {
        return fault("schemata", format!("{line:?} is not one line"));
    }
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    Ok(Plan {
        clos,
        schemas: l3_cache.into_iter().chain(mem_bw).flat_map(lines).collect(),
        schemata: schemata
            .into_iter()
            .filter(|line| !line.is_empty())
            .collect(),
        monitor: settings.is_monitored.then(|| id.to_owned()),
    })
}

fn fault<T>(setting: &'static str, reason: impl Into<String>) -> Result<T> {
    let reason = reason.into();
    Err(Error::Setting { setting, reason })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.clos {
            Clos::Default => writeln!(f, "join the default group")?,
            Clos::Named(name) => writeln!(f, "join {name:?}")?,
            Clos::Own(name) => writeln!(f, "make and join {name:?}")?,
        }
        for line in self.schemas.iter().chain(&self.schemata) {
            writeln!(f, "schema {line}")?;
        }
        if let Some(name) = &self.monitor {
            writeln!(f, "monitor as {name:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(change: impl FnOnce(&mut Settings)) -> Result<Plan> {
        let mut settings = Settings::default();
        change(&mut settings);
        plan(
            &settings,
            "web",
            &Resctrl::with_resources("/r", ["L3", "MB"]),
        )
    }

    fn refusal(change: impl FnOnce(&mut Settings)) -> String {
        planned(change).unwrap_err().to_string()
    }

    #[test]
    fn without_a_name_the_group_is_the_containers() {
        let plan = planned(|_| ()).unwrap();
        assert_eq!(plan.clos, Clos::Own("web".to_owned()));
        assert_eq!((plan.monitor, plan.schemas.len()), (None, 0));
    }

    #[test]
    fn schemata_come_after_the_others_and_caches_before_bandwidth() {
        let plan = planned(|settings| {
            settings.clos_id = Some("gold".to_owned());
            settings.mem_bw_schema = Some("MB:0=20".to_owned());
            settings.l3_cache_schema = Some("L3:0=f".to_owned());
            settings.schemata = vec!["L2:0=1".to_owned(), String::new()];
            settings.is_monitored = true;
        });
        let shown =
            "join \"gold\"\nschema L3:0=f\nschema MB:0=20\nschema L2:0=1\nmonitor as \"web\"\n";
        assert_eq!(plan.unwrap().to_string(), shown);
    }

    #[test]
    fn the_root_is_a_group_and_other_paths_are_none() {
        let named = |name: &str| planned(|settings| settings.clos_id = Some(name.to_owned()));
        assert_eq!(named("/").unwrap().clos, Clos::Default);
        assert_eq!(named("").unwrap().clos, Clos::Own("web".to_owned()));
        for name in [
            ".",
            "..",
            "a/b",
            "/a",
            "../x",
            "info",
            "mon_groups",
            "mon_data",
            "a\nb",
        ] {
            let text = named(name).unwrap_err().to_string();
            assert_eq!(text, format!("closID {name:?} is no name of a CLOS"));
        }
    }

    #[test]
    fn lines_that_can_not_be_are_refused() {
        let text = refusal(|settings| settings.mem_bw_schema = Some("L3:0=f".to_owned()));
        assert_eq!(
            text,
            "memBwSchema \"L3:0=f\" is not one line that begins with MB:"
        );
        let text = refusal(|settings| settings.mem_bw_schema = Some("MB:0=1\nL3:0=f".to_owned()));
        assert!(text.starts_with("memBwSchema"), "{text}");
        let text = refusal(|settings| settings.schemata = vec!["L3:0=f\nMB:0=1".to_owned()]);
        assert!(text.ends_with("is not one line"), "{text}");
    }

    #[test]
    fn what_the_host_can_not_share_out_is_refused() {
        let none = Resctrl::with_resources("/r", []);
        let settings = Settings {
            l3_cache_schema: Some("L3:0=f".to_owned()),
            ..Settings::default()
        };
        let text = plan(&settings, "web", &none).unwrap_err().to_string();
        assert!(text.ends_with("Intel RDT/CAT is not enabled"), "{text}");
        let settings = Settings {
            mem_bw_schema: Some("MB:0=20".to_owned()),
            ..Settings::default()
        };
        let text = plan(&settings, "web", &none).unwrap_err().to_string();
        assert!(text.ends_with("Intel RDT/MBA is not enabled"), "{text}");
    }
}
