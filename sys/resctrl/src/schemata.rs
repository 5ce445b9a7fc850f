//! Lines of a `schemata` file: a resource, and what of it the group may use in each domain. Pure.
//!
//! Format: `L3:0=7f0;1=1f`, `MB:0=20;1=70`; caches are bit masks in hexadecimal, bandwidth is decimal. The kernel writes
//! what it reads in its own way (leading zeros, order, spaces in front), so lines are compared by what they mean.

/// Whether `text` is not several lines.
pub(crate) fn is_line(text: &str) -> bool {
    !text.contains('\n')
}

/// What a file has of the resource of `line`, in the kernel's own words.
pub(crate) fn found_of(line: &str, file: &str) -> String {
    let name = line.split(':').next().unwrap_or_default().trim();
    let mut same = file.lines().filter(|found| resource(found) == Some(name));
    let found = same.next().map(str::trim).unwrap_or_default();
    if found.is_empty() {
        "nothing".to_owned()
    } else {
        found.to_owned()
    }
}

/// Whether a group with `file` has what `line` asks for, in each domain that it names.
///
/// * `step`: what the kernel rounds bandwidth up to; percent.
pub(crate) fn has(line: &str, file: &str, step: u64) -> bool {
    let Some((name, wanted)) = parse(line) else {
        return false;
    };
    let found: Vec<_> = file
        .lines()
        .filter(|line| resource(line) == Some(name))
        .filter_map(|line| Some(parse(line)?.1))
        .flatten()
        .collect();
    !wanted.is_empty()
        && wanted.iter().all(|(domain, value)| {
            let mut same = found.iter().filter(|(other, _)| other == domain);
            same.any(|(_, found)| {
                found == value || (name == "MB" && *found == rounded(*value, step))
            })
        })
}

fn rounded(value: u64, step: u64) -> u64 {
    value.checked_next_multiple_of(step.max(1)).unwrap_or(value)
}

fn resource(line: &str) -> Option<&str> {
    line.split_once(':').map(|(name, _)| name.trim())
}

/// Resource, and domains with their values; `None` for what no kernel takes.
fn parse(line: &str) -> Option<(&str, Vec<(u32, u64)>)> {
    let (name, rest) = line.split_once(':')?;
    let name = name.trim();
    let is_bandwidth = name == "MB" || name == "SMBA";
    let radix = if is_bandwidth { 10 } else { 16 };
    let domains = rest.trim().split(';').filter(|part| !part.is_empty());
    let domains = domains.map(|part| {
        let (domain, value) = part.split_once('=')?;
        let value = value.trim();
        let digits = match radix {
            16 => value.trim_start_matches("0x"),
            _ => value,
        };
        Some((
            domain.trim().parse().ok()?,
            u64::from_str_radix(digits, radix).ok()?,
        ))
    });
    Some((name, domains.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "    MB:0= 20;1=100\n    L3:0=007f0;1=0001f\nL2:0=ff\n";

    #[test]
    fn lines_are_compared_by_what_they_mean() {
        for line in [
            "L3:0=7f0;1=1f",
            "L3:1=1f;0=7F0",
            "L3:1=0x1f",
            "MB:0=20",
            "L2:0=ff;",
        ] {
            assert!(has(line, FILE, 10), "{line}");
        }
        for line in [
            "L3:0=7f1",
            "L3:2=7f0",
            "MB:0=30",
            "L2:0=fff",
            "L3CODE:0=1",
            "L3:",
            "L3",
            "L3:0=x",
        ] {
            assert!(!has(line, FILE, 10), "{line}");
        }
    }

    #[test]
    fn bandwidth_is_rounded_up_as_the_kernel_does() {
        assert!(has("MB:0=11;1=95", FILE, 10));
        assert!(!has("MB:0=21", FILE, 10) && !has("MB:0=11", FILE, 0));
        // Masks are not.
        assert!(!has("L3:0=7ef", FILE, 16));
    }

    #[test]
    fn what_is_found_is_named() {
        assert_eq!(found_of("L3:0=1", FILE), "L3:0=007f0;1=0001f");
        assert_eq!(found_of("L4:0=1", FILE), "nothing");
    }
}
