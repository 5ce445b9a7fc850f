//! Making a container: everything is checked, then written down; nothing runs yet.

use std::{collections::BTreeMap, fs, os::unix::fs::DirBuilderExt as _, path::PathBuf, sync::Arc};

use atoll_image::Image;
use atoll_layer::{ChainId, WritableKind, WritableLayer};
use serde::Deserialize;

use super::{
    defaults, ends,
    handle::{Container, ContainerRef, Durability},
    host_wall, id_range, mounts,
    record::{EndRecord, Record, State, VERSION},
    start, volumes,
};
use crate::{
    engine::{EngineRef, blocking},
    error::{Error, ErrorKind, Result},
    image_errors, names,
    network::ports,
    time,
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
    let planned = volumes::plan(engine, &host, &config)?;
    let mut warnings = Vec::new();
    if has_own_check {
        warnings.push("Health checks are recorded but not run yet.".to_owned());
    }
    let (networks, ends) = networks(engine, &config, &mut host, networking_config)?;
    ports::wishes(&config, &host)?;
    mounts::prepare(planned.iter().map(|planned| &planned.point))?;

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
    let mounts = volumes::obtain(engine, &id, planned).inspect_err(|_| {
        engine.containers.release(&name, &id);
    })?;
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
        ends,
        published: None,
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
        volumes::release(engine, &id, &container.record().mounts, true);
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
    let record = container.record();
    volumes::fill(engine, &record, || start::rootfs(engine, &record), false)?;
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

type Networks = (
    BTreeMap<String, EndpointConfig>,
    BTreeMap<String, EndRecord>,
);

/// The networks a container is to join: that of its mode, and those the client lists.
fn networks(
    engine: &EngineRef,
    config: &ContainerConfig,
    host: &mut HostConfig,
    asked: NetworkingConfig,
) -> Result<Networks> {
    let mut networks = BTreeMap::new();
    let mut ends = BTreeMap::new();
    if let Some(other) = host.network_mode.strip_prefix("container:") {
        engine
            .containers
            .find(other)
            .map_err(|error| Error::invalid(error.to_string()))?;
        return Ok((networks, ends));
    }
    let mode = find_network(engine, &host.network_mode)?
        .record
        .name
        .clone();
    for (name, wanted) in asked.endpoints_config {
        let name = match name.as_str() {
            "default" => mode.clone(),
            name => find_network(engine, name)?.record.name.clone(),
        };
        networks.insert(name, wanted);
    }
    networks.entry(mode.clone()).or_default();
    if networks.len() > 1
        && networks
            .keys()
            .any(|name| matches!(name.as_str(), "host" | "none"))
    {
        return Err(Error::invalid(
            "the networks host and none exclude every other network",
        ));
    }
    super::wall::check_networks(host, networks.len())?;
    for (name, end) in &mut networks {
        let net = find_network(engine, name)?;
        end.network_id.clone_from(&net.record.id);
        check_end(&net, name, end)?;
        let of_config = match *name == mode {
            true => config.mac_address.as_str(),
            false => "",
        };
        let mac = match end.mac_address.as_str() {
            "" => of_config,
            mac => mac,
        };
        if !mac.is_empty() {
            ends.insert(name.clone(), EndRecord::with_mac(mac)?);
        }
    }
    // The name it has here, whatever prefix of an id the client gave.
    host.network_mode = mode;
    Ok((networks, ends))
}

/// Not a 404: clients take that for a missing image and pull.
fn find_network(engine: &EngineRef, name: &str) -> Result<crate::network::NetRef> {
    engine
        .network
        .find(name)
        .map_err(|error| Error::invalid(error.to_string()))
}

/// Checks what a client wants of one end.
///
/// # Errors
/// 400 in dockerd's words.
pub(crate) fn check_end(net: &crate::network::Net, name: &str, end: &EndpointConfig) -> Result<()> {
    let address = ends::wanted_address(end)?;
    let has_aliases = end.aliases.as_ref().is_some_and(|list| !list.is_empty());
    if net.is_builtin() {
        if let Some(address) = address {
            return Err(Error::invalid(format!(
                "invalid config for network {name}: invalid endpoint settings:\nuser specified IP address {address} is supported on user defined networks only"
            )));
        }
        if has_aliases && name != "bridge" {
            return Err(Error::invalid(format!(
                "invalid config for network {name}: invalid endpoint settings:\nnetwork-scoped alias is supported only for containers in user defined networks"
            )));
        }
        return Ok(());
    }
    let Some(address) = address else {
        return Ok(());
    };
    match &net.record.pool {
        Some(pool) if pool.subnet.is_host(address) && address != pool.gateway => Ok(()),
        _ => Err(Error::invalid(format!(
            "invalid config for network {name}: invalid endpoint settings:\nno configured subnet contains IP address {address}"
        ))),
    }
}
