//! The process: arguments, environment, identity, limits.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::SpecInput;
use crate::{container::users::Identity, error::Result};

/// PATH of processes whose image doesn't say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The container's own process.
pub(super) fn process(
    input: &SpecInput<'_>,
    capabilities: &[String],
    hostname: &str,
) -> Result<Value> {
    let record = input.record;
    let config = &record.config;
    let host_config = &record.host_config;
    let mut args = vec![record.path.clone()];
    args.extend(record.args.iter().cloned());
    let mut process = json!({
        "terminal": config.tty,
        "user": user(input.identity),
        "args": args,
        "env": environment(config.env.as_deref().unwrap_or_default(), hostname, config.tty),
        "cwd": working_dir(&config.working_dir),
        "capabilities": capability_sets(capabilities),
        "noNewPrivileges": super::security::no_new_privileges(host_config),
    });
    if config.tty && host_config.console_size != [0, 0] {
        let [height, width] = host_config.console_size;
        process["consoleSize"] = json!({ "height": height, "width": width });
    }
    if host_config.oom_score_adj != 0 {
        process["oomScoreAdj"] = host_config.oom_score_adj.into();
    }
    let rlimits = rlimits(input);
    if !rlimits.is_empty() {
        process["rlimits"] = rlimits.into();
    }
    Ok(process)
}

/// What an exec runs.
#[derive(Debug)]
pub(crate) struct ExecProcess<'a> {
    /// Program and arguments.
    pub(crate) args: &'a [String],
    /// Variables beside the container's.
    pub(crate) env: &'a [String],
    /// Directory, empty for the container's.
    pub(crate) working_dir: &'a str,
    /// With a terminal.
    pub(crate) tty: bool,
    /// Its size: height, width.
    pub(crate) console_size: Option<[u16; 2]>,
    /// With all capabilities.
    pub(crate) privileged: bool,
}

/// The OCI process of an exec in the container of `spec`, whose own process is the pattern.
pub(crate) fn exec_process(
    spec: &Value,
    exec: &ExecProcess<'_>,
    identity: &Identity,
    host_capabilities: &[String],
) -> Value {
    let mut process = spec["process"].clone();
    process["terminal"] = exec.tty.into();
    process["args"] = exec.args.into();
    process["user"] = user(identity);
    let mut env: Vec<String> = process["env"]
        .as_array()
        .map(|list| {
            list.iter()
                .filter_map(|item| Some(item.as_str()?.to_owned()))
                .collect()
        })
        .unwrap_or_default();
    if exec.tty {
        replace(&mut env, "TERM=xterm");
    }
    for variable in exec.env {
        replace(&mut env, variable);
    }
    process["env"] = env.into();
    if !exec.working_dir.is_empty() {
        process["cwd"] = exec.working_dir.into();
    }
    if exec.privileged {
        process["capabilities"] = capability_sets(host_capabilities);
    }
    if let Some(members) = process.as_object_mut() {
        members.remove("consoleSize");
        if let (true, Some([height, width])) = (exec.tty, exec.console_size) {
            members.insert(
                "consoleSize".to_owned(),
                json!({ "height": height, "width": width }),
            );
        }
    }
    process
}

fn user(identity: &Identity) -> Value {
    json!({
        "uid": identity.uid,
        "gid": identity.gid,
        "additionalGids": identity.additional_gids,
    })
}

/// Docker gives no inheritable and no ambient capabilities.
fn capability_sets(capabilities: &[String]) -> Value {
    json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities })
}

fn working_dir(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// PATH, HOSTNAME and TERM, replaced or followed by the configured variables; `NAME` without `=` unsets.
fn environment(configured: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    for variable in configured {
        replace(&mut env, variable);
    }
    env
}

fn replace(env: &mut Vec<String>, variable: &str) {
    let name = variable.split('=').next().unwrap_or_default();
    let same = |found: &String| found.split('=').next() == Some(name);
    if !variable.contains('=') {
        env.retain(|found| !same(found));
        return;
    }
    match env.iter_mut().find(|found| same(found)) {
        Some(found) => variable.clone_into(found),
        None => env.push(variable.to_owned()),
    }
}

fn rlimits(input: &SpecInput<'_>) -> Vec<Value> {
    let mut limits: BTreeMap<String, (i64, i64)> = input.default_ulimits.clone();
    for ulimit in &input.record.host_config.resources.ulimits {
        limits.insert(ulimit.name.clone(), (ulimit.soft, ulimit.hard));
    }
    limits
        .into_iter()
        .map(|(name, (soft, hard))| {
            // -1 is infinity, which OCI writes as the largest unsigned number.
            json!({
                "type": format!("RLIMIT_{}", name.to_ascii_uppercase()),
                "soft": u64::from_ne_bytes(soft.to_ne_bytes()),
                "hard": u64::from_ne_bytes(hard.to_ne_bytes()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_has_defaults_that_can_be_replaced() {
        let configured = [
            "PATH=/x".to_owned(),
            "A=b=c".to_owned(),
            "HOSTNAME".to_owned(),
        ];
        assert_eq!(
            environment(&configured, "h", true),
            ["PATH=/x", "TERM=xterm", "A=b=c"]
        );
        assert_eq!(environment(&[], "h", false)[1], "HOSTNAME=h");
    }

    #[test]
    fn exec_inherits_and_overrides() {
        let spec = json!({ "process": {
            "terminal": true, "consoleSize": { "height": 1, "width": 2 }, "args": ["sh"],
            "env": ["A=1", "B=2"], "cwd": "/w", "capabilities": { "bounding": ["CAP_KILL"] },
        } });
        let args = ["ls".to_owned()];
        let env = ["B=3".to_owned(), "C=4".to_owned()];
        let exec = ExecProcess {
            args: &args,
            env: &env,
            working_dir: "",
            tty: false,
            console_size: None,
            privileged: false,
        };
        let identity = Identity {
            uid: 5,
            gid: 6,
            additional_gids: vec![6],
        };
        let process = exec_process(&spec, &exec, &identity, &[]);
        assert_eq!(
            process,
            json!({
                "terminal": false, "args": ["ls"], "env": ["A=1", "B=3", "C=4"], "cwd": "/w",
                "capabilities": { "bounding": ["CAP_KILL"] },
                "user": { "uid": 5, "gid": 6, "additionalGids": [6] },
            })
        );
    }
}
