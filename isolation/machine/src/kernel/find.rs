//! Kernels on this host.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

/// A kernel file, and where its modules are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The kernel itself.
    pub kernel: PathBuf,
    /// `…/lib/modules/RELEASE`, when it is there.
    pub modules: Option<PathBuf>,
}

/// The kernels under each of `roots`, newest release last: `ROOT/boot/vmlinuz-*` with `ROOT/lib/modules`.
///
/// Roots that cannot be read have none.
pub fn find(roots: &[PathBuf]) -> Vec<Found> {
    let mut found = Vec::new();
    for root in roots {
        let Ok(entries) = fs::read_dir(root.join("boot")) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let release = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-"));
            if let Some(release) = release {
                found.push(Found {
                    release: release.to_owned(),
                    kernel: entry.path(),
                    modules: modules(root, release),
                });
            }
        }
    }
    found.sort_by(|a, b| by_release(&a.release, &b.release));
    found
}

/// The kernel to take when nobody names one: the newest with modules, cloud kernels before others.
pub fn newest(found: &[Found]) -> Option<&Found> {
    let usable = || found.iter().filter(|found| found.modules.is_some());
    let cloud = usable().rfind(|found| found.release.contains("cloud"));
    cloud.or_else(|| usable().next_back()).or(found.last())
}

fn modules(root: &Path, release: &str) -> Option<PathBuf> {
    let candidates = ["lib/modules", "usr/lib/modules"];
    candidates
        .iter()
        .map(|folder| root.join(folder).join(release))
        .find(|folder| folder.is_dir())
}

/// Compares runs of digits as numbers.
fn by_release(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.is_empty(), b.is_empty()) {
            (false, false) => {}
            (a, b) => return b.cmp(&a),
        }
        let (number_a, rest_a) = number(a);
        let (number_b, rest_b) = number(b);
        let order = match (number_a, number_b) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_bytes()[0].cmp(&b.as_bytes()[0]),
        };
        if order != Ordering::Equal {
            return order;
        }
        let skip = |text: &str| text.chars().next().map_or(0, char::len_utf8);
        a = if number_a.is_some() {
            rest_a
        } else {
            &a[skip(a)..]
        };
        b = if number_b.is_some() {
            rest_b
        } else {
            &b[skip(b)..]
        };
    }
}

/// The number at the beginning, if there is one, and what follows it.
fn number(text: &str) -> (Option<u64>, &str) {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    (text[..end].parse().ok(), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(kernels: &[(&str, bool)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("boot")).unwrap();
        for (release, modules) in kernels {
            fs::write(root.path().join(format!("boot/vmlinuz-{release}")), "").unwrap();
            if *modules {
                fs::create_dir_all(root.path().join("lib/modules").join(release)).unwrap();
            }
        }
        root
    }

    #[test]
    fn the_newest_cloud_kernel_with_modules_is_taken() {
        let root = root(&[
            ("6.1.0-9-cloud-amd64", true),
            ("6.1.0-10-cloud-amd64", true),
            ("6.12.0-1-cloud-amd64", false),
            ("6.12.0-1-amd64", true),
        ]);
        let found = find(&[root.path().into(), "/nonexistent".into()]);
        let releases: Vec<_> = found.iter().map(|found| &found.release[..]).collect();
        assert_eq!(
            releases,
            [
                "6.1.0-9-cloud-amd64",
                "6.1.0-10-cloud-amd64",
                "6.12.0-1-amd64",
                "6.12.0-1-cloud-amd64"
            ]
        );
        assert_eq!(newest(&found).unwrap().release, "6.1.0-10-cloud-amd64");
        assert_eq!(newest(&found[2..]).unwrap().release, "6.12.0-1-amd64");
        assert_eq!(newest(&[]), None);
    }

    #[test]
    fn releases_compare_by_their_numbers() {
        assert_eq!(by_release("6.1", "6.1"), Ordering::Equal);
        assert_eq!(by_release("6.1", "6.1.1"), Ordering::Less);
        assert_eq!(by_release("6.1-é2", "6.1-é10"), Ordering::Less);
        assert_eq!(
            by_release("99999999999999999999999", "1"),
            Ordering::Greater
        );
    }
}
