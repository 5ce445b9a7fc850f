//! Making a container: everything is checked, then written down; nothing runs yet.

use std::{collections::BTreeMap, fs, os::unix::fs::DirBuilderExt as _, path::PathBuf, sync::Arc};

use atoll_image::Image;
use atoll_layer::{ChainId, WritableKind, WritableLayer};
use serde::Deserialize;

use super::{
    defaults,
    handle::{Container, ContainerRef, Durability},
    host_wall, id_range, mounts,
    record::{Record, State, VERSION},
};
use crate::{
    engine::{EngineRef, blocking},
    error::{Error, ErrorKind, Result},
    image_errors, names, time,
    types::{ContainerConfig, EndpointConfig, HostConfig, NetworkingConfig},
};

/// Directories of the running system that the image `host` shows empty: people's files, temporary files, other engines'.
/// Other file systems mounted below `/` aren't part of the layer anyway.
const HIDDEN_OF_HOST: &[&str] = &[
    "/home",
    "/root",
    "/tmp",
    "/var/tmp",
    "/run",
    "/var/lib/docker",
    "/var/lib/containerd",
];

/// The body of POST /containers/create.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct CreateBody {
    #[serde(flatten)]
    pub(crate) config: ContainerConfig,
    pub(crate) host_config: HostConfig,
    pub(crate) networking_config: NetworkingConfig,
}

/// Creates a container; answers it and what the user should know.
///
/// # Errors
/// 400, 404 (no such image, network), 409 (name taken), 501, in dockerd's words; nothing is left behind then.
pub(crate) async fn create(
    engine: &EngineRef,
    name: Option<String>,
    body: CreateBody,
) -> Result<(ContainerRef, Vec<String>)> {
    let engine = EngineRef::clone(engine);
    blocking(move || create_now(&engine, name, body)).await
}

fn create_now(
    engine: &EngineRef,
    name: Option<String>,
    body: CreateBody,
) -> Result<(ContainerRef, Vec<String>)> {
    let CreateBody {
        mut config,
        host_config: mut host,
        networking_config,
    } = body;
    if let Some(name) = &name
        && !names::is_valid(name)
    {
        return Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    if config.image.is_empty() {
        return Err(Error::invalid("no image specified"));
    }
    let image = engine
        .images
        .resolve(&config.image)
        .map_err(image_errors::convert)?;
    let has_own_check = config.healthcheck.is_some();
    host_wall::check(&config, &host)?;
    defaults::merge_image(&mut config, &host, &image.config.config)?;
    defaults::fill_host_config(&mut host, &engine.settings, engine.host.is_cgroup_v2);
    defaults::check(&config, &host, &engine.host.capabilities)?;
    let mounts = mounts::collect(&host)?;
    let mut warnings = Vec::new();
    if has_own_check {
        warnings.push("Health checks are recorded but not run yet.".to_owned());
    }
    let networks = networks(engine, &host, networking_config)?;
    mounts::prepare(&mounts)?;

    let id = names::random_id();
    if config.hostname.is_empty() {
        config.hostname = match host.network_mode.as_str() {
            "host" => engine.host.hostname.clone(),
            _ => id[..12].to_owned(),
        };
    }
    let name = reserve_name(engine, name, &id)?;
    // Held until the choice is recorded.
    let _choosing = engine.id_ranges.lock();
    let id_range = match host_wall::has_own_users(&host) {
        true => Some(id_range::choose(&id, &engine.containers).inspect_err(|_| {
            engine.containers.release(&name, &id);
        })?),
        false => None,
    };
    let (path, args) = defaults::command(&config);
    let record = Record {
        version: VERSION,
        id: id.clone(),
        name: name.clone(),
        created: time::now(),
        image_id: image.id.to_string(),
        chain_ids: image.chain_ids.iter().map(ToString::to_string).collect(),
        path,
        args,
        config,
        host_config: host,
        networks,
        mounts,
        state: State::default(),
        machine: None,
        id_range,
        restart_count: 0,
        stopped_by_user: false,
        exits: 0,
        is_removed: false,
    };
    let durability = match record.host_config.auto_remove {
        // Gone after a power cut either way.
        true => Durability::Process,
        false => Durability::Disk,
    };
    let container = Arc::new(Container::new(record, engine.paths.record(&id)));
    if let Err(error) = make(engine, &container, &image, durability) {
        let _ = fs::remove_dir_all(engine.paths.container(&id));
        engine.containers.release(&name, &id);
        return Err(error);
    }
    engine.containers.insert(Arc::clone(&container));
    engine.container_event(&container.record(), "create", &[]);
    tracing::info!(container = &id[..12], name, "created");
    Ok((container, warnings))
}

/// Makes the directory, the writable layer, and the record, in this order: a directory without a record was never acknowledged.
fn make(
    engine: &EngineRef,
    container: &ContainerRef,
    image: &Image,
    durability: Durability,
) -> Result<()> {
    let directory = engine.paths.container(container.id());
    fs::DirBuilder::new()
        .mode(0o710)
        .create(&directory)
        .map_err(|error| {
            Error::caused(
                ErrorKind::Internal,
                format!("cannot make {}", directory.display()),
                &error,
            )
        })?;
    let lowers = lowers(engine, &container.record());
    let kind = if image.is_host {
        let mut hidden: Vec<PathBuf> = HIDDEN_OF_HOST.iter().map(PathBuf::from).collect();
        hidden.push(engine.paths.data_root().to_owned());
        WritableKind::Host { hidden }
    } else {
        WritableKind::Empty
    };
    WritableLayer::create(&directory, &lowers, &kind)
        .map_err(|error| Error::caused(ErrorKind::Internal, "", &error))?;
    container.save(durability)
}

/// The image's directories, top first.
pub(crate) fn lowers(engine: &EngineRef, record: &Record) -> Vec<PathBuf> {
    if record.chain_ids.is_empty() {
        return vec![PathBuf::from("/")];
    }
    engine.images.layers().dirs(&chain_ids(record))
}

/// The layers of its image, top first; none for the image `host`.
pub(crate) fn chain_ids(record: &Record) -> Vec<ChainId> {
    let bottom_first = record.chain_ids.iter().rev();
    let parsed = bottom_first.filter_map(|id| id.parse().ok());
    parsed.map(ChainId::from_digest).collect()
}

fn reserve_name(engine: &EngineRef, name: Option<String>, id: &str) -> Result<String> {
    if let Some(name) = name {
        let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
        engine.containers.reserve(&name, id)?;
        return Ok(name);
    }
    loop {
        let name = names::random(|name| engine.containers.has_name(name));
        // Somebody may have been faster.
        if engine.containers.reserve(&name, id).is_ok() {
            return Ok(name);
        }
    }
}

fn networks(
    engine: &EngineRef,
    host: &HostConfig,
    asked: NetworkingConfig,
) -> Result<BTreeMap<String, EndpointConfig>> {
    let mode = host.network_mode.as_str();
    if let Some(other) = mode.strip_prefix("container:") {
        engine
            .containers
            .find(other)
            .map_err(|error| Error::invalid(error.to_string()))?;
        return Ok(BTreeMap::new());
    }
    let mut endpoint = EndpointConfig::default();
    for (name, wanted) in asked.endpoints_config {
        let name = if name == "default" { mode } else { &name };
        if name != mode {
            return Err(Error::invalid(format!("network {name} not found")));
        }
        endpoint = wanted;
    }
    if let Some(wanted) = endpoint
        .ipam_config
        .as_ref()
        .filter(|ipam| !ipam.ipv4_address.is_empty())
    {
        return Err(Error::invalid(format!(
            "invalid config for network {mode}: user specified IP address {} is supported on user defined networks only",
            wanted.ipv4_address
        )));
    }
    endpoint.network_id = engine.network.id(mode).to_owned();
    Ok(BTreeMap::from([(mode.to_owned(), endpoint)]))
}
