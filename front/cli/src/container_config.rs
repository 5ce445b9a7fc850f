//! Flags of `run` and `create` as the body of `POST /containers/create`. Pure.
//!
//! Docker Engine API v1.51, ContainerCreate.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::arguments::container::ContainerArgs;
use crate::error::Error;
use crate::ports;
use crate::values::{self, Volume};

/// What the body depends on besides the flags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Whether the client stays attached (`run` without `-d`).
    pub(crate) is_attached: bool,
    /// Rows and columns of the client's terminal.
    pub(crate) console: Option<(u16, u16)>,
    /// The client's working directory, for relative sources of mounts.
    pub(crate) directory: &'a Path,
}

/// Translates flags into the request's body.
///
/// # Errors
/// [`Error::Value`] for a flag that can't be used, [`Error::Io`] for an unreadable `--env-file`.
pub(crate) fn create_body(args: &ContainerArgs, around: &Surroundings<'_>) -> Result<Value, Error> {
    let mut env = values::environment_files(&args.env_file)?;
    env.extend(values::environment(&args.env));
    let stdin = args.interactive;
    let mut body = json!({
        "Image": args.image(),
        "Tty": args.tty,
        "OpenStdin": stdin,
        "StdinOnce": stdin && around.is_attached,
        "AttachStdin": stdin && around.is_attached,
        "AttachStdout": around.is_attached,
        "AttachStderr": around.is_attached,
        "Env": env,
        "Labels": values::pairs(&args.label),
    });
    if !args.command().is_empty() {
        body["Cmd"] = args.command().into();
    }
    if let Some(program) = &args.entrypoint {
        // An empty one resets the image's, as with Docker.
        body["Entrypoint"] = json!([program]);
    }
    set(&mut body, "Hostname", args.hostname.clone());
    set(&mut body, "User", args.user.clone());
    set(&mut body, "WorkingDir", args.workdir.clone());
    set(&mut body, "StopSignal", args.stop_signal.clone());
    set(&mut body, "StopTimeout", args.stop_timeout);

    set(&mut body, "MacAddress", args.mac_address.clone());
    let exposed = ports::exposed(&args.expose, &args.publish)?;
    if !exposed.is_empty() {
        body["ExposedPorts"] = Value::Object(exposed);
    }
    if let Some(networks) = networks(args)? {
        body["NetworkingConfig"] = json!({ "EndpointsConfig": networks });
    }
    let mut volumes = Map::new();
    body["HostConfig"] = host_config(args, around, &mut volumes)?;
    if !volumes.is_empty() {
        body["Volumes"] = Value::Object(volumes);
    }
    Ok(body)
}

/// What is wanted of each network; none when nothing is.
fn networks(args: &ContainerArgs) -> Result<Option<Value>, Error> {
    let mut first = Map::new();
    if let Some(ip) = &args.ip {
        first.insert("IPAMConfig".to_owned(), json!({ "IPv4Address": ip }));
    }
    if !args.network_alias.is_empty() {
        first.insert("Aliases".to_owned(), json!(args.network_alias));
    }
    let Some((mode, others)) = args.network.split_first() else {
        return match first.is_empty() {
            true => Ok(None),
            false => Err(Error::value(
                "--network",
                "",
                "--ip and --network-alias need a network of your own",
            )),
        };
    };
    if first.is_empty() && others.is_empty() {
        return Ok(None);
    }
    let mut networks = Map::new();
    networks.insert(mode.clone(), Value::Object(first));
    for other in others {
        networks.insert(other.clone(), json!({}));
    }
    Ok(Some(Value::Object(networks)))
}

fn host_config(
    args: &ContainerArgs,
    around: &Surroundings<'_>,
    volumes: &mut Map<String, Value>,
) -> Result<Value, Error> {
    let mut host = json!({ "AutoRemove": args.rm, "Privileged": args.privileged });
    if let (true, Some((rows, columns))) = (args.tty, around.console) {
        host["ConsoleSize"] = json!([rows, columns]);
    }
    set(&mut host, "Isolation", args.isolation.clone());
    set(&mut host, "Runtime", args.runtime.clone());
    set(&mut host, "NetworkMode", args.network.first().cloned());
    set_list(&mut host, "Dns", &args.dns);
    set_list(&mut host, "DnsSearch", &args.dns_search);
    set_list(&mut host, "DnsOptions", &args.dns_option);
    set_list(&mut host, "Links", &args.link);
    set(
        &mut host,
        "PublishAllPorts",
        args.publish_all.then_some(true),
    );
    if !args.publish.is_empty() {
        host["PortBindings"] = ports::bindings(&args.publish)?;
    }
    set_list(&mut host, "ExtraHosts", &args.add_host);
    set_list(&mut host, "CapAdd", &args.cap_add);
    set_list(&mut host, "CapDrop", &args.cap_drop);
    set_list(&mut host, "SecurityOpt", &args.security_opt);
    set_list(&mut host, "GroupAdd", &args.group_add);
    set(&mut host, "Init", args.init.then_some(true));
    set(&mut host, "ReadonlyRootfs", args.read_only.then_some(true));
    set(&mut host, "CpuShares", args.cpu_shares);
    set(&mut host, "CpusetCpus", args.cpuset_cpus.clone());
    set(&mut host, "PidsLimit", args.pids_limit);
    if let Some(text) = &args.restart {
        host["RestartPolicy"] = values::restart_policy(text)?;
    }
    if let Some(text) = &args.memory {
        host["Memory"] = values::bytes("--memory", text)?.into();
    }
    match args.memory_swap.as_deref() {
        Some("-1") => host["MemorySwap"] = (-1).into(),
        Some(text) => host["MemorySwap"] = values::bytes("--memory-swap", text)?.into(),
        None => {}
    }
    if let Some(text) = &args.cpus {
        host["NanoCpus"] = values::nano_cpus(text)?.into();
    }
    if let Some(text) = &args.shm_size {
        host["ShmSize"] = values::bytes("--shm-size", text)?.into();
    }
    mounts(args, around.directory, &mut host, volumes)?;
    Ok(host)
}

fn mounts(
    args: &ContainerArgs,
    directory: &Path,
    host: &mut Value,
    volumes: &mut Map<String, Value>,
) -> Result<(), Error> {
    let mut binds = Vec::new();
    for text in &args.volume {
        match values::volume(text, directory)? {
            Volume::Bind(bind) => binds.push(bind),
            Volume::Anonymous(target) => {
                volumes.insert(target, json!({}));
            }
        }
    }
    set_list(host, "Binds", &binds);
    let entries: Result<Vec<_>, _> = args
        .mount
        .iter()
        .map(|text| values::mount(text, directory))
        .collect();
    let entries = entries?;
    if !entries.is_empty() {
        host["Mounts"] = entries.into();
    }
    if !args.tmpfs.is_empty() {
        let entry = |text: &String| match text.split_once(':') {
            Some((target, options)) => (target.to_owned(), Value::from(options)),
            None => (text.clone(), Value::from("")),
        };
        host["Tmpfs"] = Value::Object(args.tmpfs.iter().map(entry).collect());
    }
    Ok(())
}

fn set(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[key] = value.into();
    }
}

fn set_list(object: &mut Value, key: &str, list: &[String]) {
    if !list.is_empty() {
        object[key] = list.into();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Cli, Verb};

    fn body(line: &str) -> Result<Value, Error> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Verb::Run(run) = cli.verb else {
            panic!("not run")
        };
        let around = Surroundings {
            is_attached: !run.detach,
            console: Some((24, 80)),
            directory: Path::new("/w"),
        };
        create_body(&run.create, &around)
    }

    #[test]
    fn a_plain_run_is_attached_to_output_only() {
        let expected = json!({
            "Image": "bb", "Cmd": ["echo", "hi"], "Tty": false, "OpenStdin": false,
            "StdinOnce": false, "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
            "Env": [], "Labels": {}, "HostConfig": {"AutoRemove": true, "Privileged": false},
        });
        assert_eq!(body("atoll run --rm bb echo hi").unwrap(), expected);
    }

    #[test]
    fn an_interactive_terminal_has_stdin_once_and_a_size() {
        let body = body("atoll run -it bb").unwrap();
        assert_eq!(body["StdinOnce"], true);
        assert_eq!(body["AttachStdin"], true);
        assert_eq!(body["HostConfig"]["ConsoleSize"], json!([24, 80]));
        assert!(body.get("Cmd").is_none());
    }

    #[test]
    fn a_detached_container_keeps_its_stdin_open() {
        let body = body("atoll run -di bb").unwrap();
        assert_eq!(
            (&body["OpenStdin"], &body["StdinOnce"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(body["AttachStdout"], false);
    }

    #[test]
    fn flags_reach_the_host_configuration() {
        let body = body(
            "atoll run -m 64m --cpus 0.5 --pids-limit -1 --cap-drop ALL --cap-add NET_RAW \
             --read-only --network none --isolation process -v ./a:/b --tmpfs /t:size=1m \
             --restart on-failure:2 --init -v /data -l k=v -u 1:2 --entrypoint sh bb -c true",
        )
        .unwrap();
        let expected = json!({
            "AutoRemove": false, "Privileged": false, "Memory": 64 << 20, "NanoCpus": 500_000_000,
            "PidsLimit": -1, "CapDrop": ["ALL"], "CapAdd": ["NET_RAW"], "ReadonlyRootfs": true,
            "NetworkMode": "none", "Isolation": "process", "Binds": ["/w/a:/b"],
            "Tmpfs": {"/t": "size=1m"}, "Init": true,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
        });
        assert_eq!(body["HostConfig"], expected);
        assert_eq!(body["Volumes"], json!({"/data": {}}));
        assert_eq!(body["Entrypoint"], json!(["sh"]));
        assert_eq!(body["Cmd"], json!(["-c", "true"]));
        assert_eq!(body["Labels"], json!({"k": "v"}));
    }

    #[test]
    fn networks_and_ports_reach_the_engine() {
        let body = body(
            "atoll run --network a --network b --ip 10.0.0.7 --network-alias db -p 8080:80 -P \
             --expose 9/udp bb",
        )
        .unwrap();
        assert_eq!(
            body["NetworkingConfig"]["EndpointsConfig"],
            json!({"a": {"IPAMConfig": {"IPv4Address": "10.0.0.7"}, "Aliases": ["db"]}, "b": {}})
        );
        assert_eq!(body["ExposedPorts"], json!({"80/tcp": {}, "9/udp": {}}));
        assert_eq!(body["HostConfig"]["NetworkMode"], "a");
        assert_eq!(body["HostConfig"]["PublishAllPorts"], true);
        assert_eq!(
            body["HostConfig"]["PortBindings"],
            json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]})
        );
    }

    #[test]
    fn a_bad_value_names_its_flag() {
        let error = body("atoll run --memory lots bb").unwrap_err();
        assert_eq!(error.to_string(), "invalid --memory \"lots\"");
    }
}
