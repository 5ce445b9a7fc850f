//! Seccomp, sysctls, no-new-privileges: what `--security-opt` and `--privileged` change.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    container::record::Record,
    error::{Error, ErrorKind, Result},
    types::HostConfig,
};

/// Whether set-user-ID programs stay harmless.
pub(super) fn no_new_privileges(config: &HostConfig) -> bool {
    options(config).any(|option| {
        matches!(
            option,
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true"
        )
    })
}

/// The seccomp profile, none when unconfined or privileged.
///
/// # Errors
/// 400 when a profile isn't valid JSON.
pub(super) fn seccomp(
    config: &HostConfig,
    capabilities: &[String],
    kernel: (u32, u32),
) -> Result<Option<Value>> {
    if config.privileged {
        return Ok(None);
    }
    let chosen = options(config).find_map(|option| {
        option
            .strip_prefix("seccomp=")
            .or_else(|| option.strip_prefix("seccomp:"))
    });
    match chosen {
        Some("unconfined") => Ok(None),
        None | Some("builtin") => {
            let names: Vec<&str> = capabilities.iter().map(String::as_str).collect();
            let profile = atoll_seccomp::docker_default(&names, kernel);
            serde_json::to_value(profile).map(Some).map_err(|error| {
                Error::caused(
                    ErrorKind::Internal,
                    "cannot write the seccomp profile",
                    &error,
                )
            })
        }
        Some(text) => {
            let profile = serde_json::from_str(text).map_err(|error| {
                Error::caused(
                    ErrorKind::InvalidParameter,
                    "Decoding seccomp profile failed",
                    &error,
                )
            })?;
            Ok(Some(profile))
        }
    }
}

/// Refuses options nobody here would honour.
///
/// # Errors
/// 400 naming the option.
pub(crate) fn check_options(config: &HostConfig) -> Result<()> {
    for option in options(config) {
        let key = option.split(['=', ':']).next().unwrap_or_default();
        let known = match key {
            "no-new-privileges" | "seccomp" | "systempaths" | "writable-cgroups" => true,
            // Neither is in force here, so "none of it" is honoured.
            "apparmor" | "label" => option.ends_with("unconfined") || option.ends_with("disable"),
            _ => false,
        };
        if !known {
            return Err(Error::invalid(format!(
                "invalid --security-opt: {option:?}"
            )));
        }
    }
    Ok(())
}

/// The configured sysctls and Docker's own: unprivileged ports and ping.
pub(super) fn sysctls(record: &Record) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    let owns_network =
        !record.is_host_network() && !record.network_mode().starts_with("container:");
    if owns_network {
        sysctls.insert(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        );
        // Only groups that the container has can be named.
        let last = record
            .id_range
            .map_or(2_147_483_647, |range| range.size - 1);
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
    }
    sysctls.extend(record.host_config.sysctls.clone());
    sysctls
}

fn options(config: &HostConfig) -> impl Iterator<Item = &str> {
    config.security_opt.iter().flatten().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let config = |options: &[&str]| HostConfig {
            security_opt: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            ..HostConfig::default()
        };
        assert!(no_new_privileges(&config(&["no-new-privileges"])));
        assert!(!no_new_privileges(&config(&["no-new-privileges:false"])));
        assert!(check_options(&config(&["seccomp=unconfined", "label=disable"])).is_ok());
        assert!(check_options(&config(&["apparmor=my-profile"])).is_err());
        assert!(check_options(&config(&["nonsense"])).is_err());
        let unconfined = seccomp(&config(&["seccomp=unconfined"]), &[], (6, 1));
        assert_eq!(unconfined.unwrap(), None);
        assert!(seccomp(&config(&["seccomp={"]), &[], (6, 1)).is_err());
    }
}
