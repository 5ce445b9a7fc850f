//! /_ping, /version, /info, /events, /system/df, /auth.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use crate::{
    container::{Status, wall},
    engine::{EngineRef, blocking},
    error::{Error, ErrorKind, Result},
    events::Event,
    http::{
        body::{Body, BodySender},
        query::Filters,
        request::Request,
        response::{self, Response},
        version::{MAX_VERSION, MIN_VERSION},
    },
    image_errors, time,
};

/// This engine's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// GET and HEAD /_ping.
pub(crate) fn ping() -> Response {
    let mut answer = response::text("OK");
    for (name, value) in [("builder-version", "1"), ("swarm", "inactive")] {
        response::set(&mut answer, HeaderName::from_static(name), value);
    }
    response::set(
        &mut answer,
        CACHE_CONTROL,
        "no-cache, no-store, must-revalidate",
    );
    response::set(&mut answer, PRAGMA, "no-cache");
    answer
}

/// GET /version.
pub(crate) fn version(engine: &EngineRef) -> Response {
    let kernel = kernel_version();
    let (api, minimum) = (MAX_VERSION.to_string(), MIN_VERSION.to_string());
    response::ok(&json!({
        "Platform": { "Name": "Atoll" },
        "Components": [{
            "Name": "Engine",
            "Version": VERSION,
            "Details": {
                "ApiVersion": api,
                "MinAPIVersion": minimum,
                "Arch": architecture(),
                "Os": "linux",
                "KernelVersion": kernel,
                "Experimental": "false",
                "DataRoot": engine.paths.data_root(),
            },
        }],
        "Version": VERSION,
        "ApiVersion": api,
        "MinAPIVersion": minimum,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
    }))
}

/// GET /info.
pub(crate) fn info(engine: &EngineRef) -> Result<Response> {
    let containers = engine.containers.all();
    let count = |status: Status| {
        containers
            .iter()
            .filter(|container| container.record().state.status == status)
            .count()
    };
    let (running, paused) = (count(Status::Running), count(Status::Paused));
    let images = engine.images.list().map_err(image_errors::convert)?.len();
    let mut info = json!({
        "ID": engine.id,
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": containers.len() - running - paused,
        "Images": images,
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "overlayfs"], ["Supports d_type", "true"]],
        "Plugins": {
            "Volume": [crate::volume::DRIVER],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": ["json-file", "none"],
        },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": !engine.host.is_cgroup_v2,
        "IPv4Forwarding": true,
        "BridgeNfIptables": false,
        "BridgeNfIp6tables": false,
        "Debug": engine.settings.log_level >= tracing::Level::DEBUG,
        "NFd": std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        "NGoroutines": 0,
        "NEventsListener": engine.events.followers(),
        "SystemTime": time::now(),
    });
    let more = host_info(engine);
    if let (Some(info), Value::Object(more)) = (info.as_object_mut(), more) {
        info.extend(more);
    }
    Ok(response::ok(&info))
}

/// The members of /info that are about the host and how the engine was set up.
fn host_info(engine: &EngineRef) -> Value {
    let cgroup_version = if engine.host.is_cgroup_v2 { "2" } else { "1" };
    json!({
        "LoggingDriver": engine.settings.log_driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroup_version,
        "KernelVersion": kernel_version(),
        "OperatingSystem": os_release("PRETTY_NAME"),
        "OSVersion": os_release("VERSION_ID"),
        "OSType": "linux",
        "Architecture": if architecture() == "amd64" { "x86_64" } else { architecture() },
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "AllowNondistributableArtifactsCIDRs": null,
            "AllowNondistributableArtifactsHostnames": null,
            "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
            "IndexConfigs": {
                "docker.io": { "Name": "docker.io", "Mirrors": [], "Secure": true, "Official": true },
            },
            "Mirrors": null,
        },
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory_total_bytes(),
        "GenericResources": null,
        "DockerRootDir": engine.paths.data_root(),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": engine.host.hostname,
        "Labels": engine.settings.labels,
        "ExperimentalBuild": false,
        "ServerVersion": VERSION,
        "Runtimes": { "atoll": { "path": engine.settings.shim } },
        "DefaultRuntime": "atoll",
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false,
            "Error": "", "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "process",
        "InitBinary": "",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "SecurityOptions": security_options(),
        "CDISpecDirs": [],
        "Warnings": null,
    })
}

/// The seccomp profile, and the walls that work on this host.
fn security_options() -> Vec<String> {
    let walls = wall::available().into_iter();
    let isolation = walls.map(|wall| format!("name=isolation={wall}"));
    std::iter::once("name=seccomp,profile=builtin".to_owned())
        .chain(isolation)
        .collect()
}

/// GET /events.
pub(crate) fn events(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    let moment = |key: &str| -> Result<Option<i64>> {
        request
            .query
            .text(key)
            .map(|text| {
                time::parse_nanos(text)
                    .ok_or_else(|| Error::invalid(format!("invalid {key}: {text}")))
            })
            .transpose()
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let (sender, body) = Body::channel();
    let engine = EngineRef::clone(engine);
    tokio::spawn(async move { send_events(&engine, &sender, &filters, since, until).await });
    Ok(response::body("application/json", body))
}

async fn send_events(
    engine: &EngineRef,
    sender: &BodySender,
    filters: &Filters,
    since: Option<i64>,
    until: Option<i64>,
) {
    let (past, mut future) = engine.events.follow();
    let is_early = |event: &Event| until.is_none_or(|until| event.time_nanos() <= until);
    if let Some(since) = since {
        for event in past
            .iter()
            .filter(|event| event.time_nanos() >= since && is_early(event))
        {
            if event.matches(filters) && !send_event(sender, event).await {
                return;
            }
        }
    }
    let deadline = until.map(|until| {
        let left = u64::try_from(until - time::now_nanos()).unwrap_or(0);
        Instant::now() + std::time::Duration::from_nanos(left)
    });
    loop {
        let end = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = future.recv() => event,
            () = end => return,
            () = sender.closed() => return,
        };
        match event {
            Ok(event) if event.matches(filters) => {
                if !send_event(sender, &event).await {
                    return;
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "a slow client missed events"),
            Err(RecvError::Closed) => return,
        }
    }
}

async fn send_event(sender: &BodySender, event: &Event) -> bool {
    let Ok(mut line) = serde_json::to_vec(event) else {
        return true;
    };
    line.push(b'\n');
    sender.send(Bytes::from(line)).await.is_ok()
}

/// GET /system/df.
pub(crate) async fn disk_usage(engine: &EngineRef) -> Result<Response> {
    let images = super::images::summaries(engine, &Filters::default(), true)?;
    let layers_bytes: u64 = engine
        .images
        .layers()
        .list()
        .map_err(|error| Error::caused(ErrorKind::Internal, "", &error))?
        .iter()
        .map(|layer| layer.size_bytes)
        .sum();
    let mut containers = Vec::new();
    for container in engine.containers.all() {
        let record = container.record();
        let writable = super::containers::writable_bytes(engine, &record.id).await;
        containers.push(super::containers::summary(engine, &record, Some(writable)));
    }
    Ok(response::ok(&json!({
        "LayersSize": layers_bytes,
        "Images": images,
        "Containers": containers,
        "Volumes": super::volumes::with_usage(engine).await,
        "BuildCache": [],
        "BuilderSize": 0,
    })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthBody {
    username: String,
    serveraddress: String,
}

/// POST /auth: credentials are checked by the registry when they are used; only their form is looked at here.
pub(crate) async fn auth(mut request: Request) -> Result<Response> {
    let body: AuthBody = request.json().await?;
    if body.username.is_empty() && body.serveraddress.is_empty() {
        return Err(Error::invalid("no credentials given"));
    }
    Err(
        Error::not_implemented("logging in to registries is not available yet")
            .with_hint(Some("pull from registries that need no login".to_owned())),
    )
}

/// The Go name of this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The kernel's release, as uname(2) has it.
pub(crate) fn kernel_version() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The machine's memory.
pub(crate) fn memory_total_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0);
    kibibytes * 1024
}

fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let values: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    values
        .get(key)
        .map_or("", |value| value.trim_matches('"'))
        .to_owned()
}

/// Bytes of all files below `path`, as they lie on disk.
pub(crate) async fn tree_bytes(path: std::path::PathBuf) -> u64 {
    blocking(move || Ok(walk(&path))).await.unwrap_or(0)
}

fn walk(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;

    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.blocks() * 512,
            _ => 0,
        })
        .sum()
}
