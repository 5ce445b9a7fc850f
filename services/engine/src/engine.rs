//! The engine's parts, joined.

use std::{collections::BTreeMap, sync::Arc};

use atoll_image::ImageStore;
use tokio::sync::RwLock;

use crate::{
    container::{Record, registry::Registry, spec::HostFacts},
    error::{Error, ErrorKind, Result},
    events::EventBus,
    exec::Execs,
    network::Networks,
    paths::Paths,
    settings::Settings,
    volume::Volumes,
};

/// A shared engine.
pub(crate) type EngineRef = Arc<Engine>;

/// Everything a request may need.
pub(crate) struct Engine {
    /// What the engine was told.
    pub(crate) settings: Settings,
    /// Where things lie.
    pub(crate) paths: Paths,
    /// Images and layers.
    pub(crate) images: ImageStore,
    /// Volumes.
    pub(crate) volumes: Volumes,
    /// Containers.
    pub(crate) containers: Registry,
    /// Processes beside the containers' own.
    pub(crate) execs: Execs,
    /// The networks, and which ports of the host are whose.
    pub(crate) network: Networks,
    /// What happens.
    pub(crate) events: EventBus,
    /// What the host offers.
    pub(crate) host: HostFacts,
    /// Parent of the containers' cgroups.
    pub(crate) cgroup_parent: String,
    /// An id that stays with the data root.
    pub(crate) id: String,
    /// Locked from the choice of a container's range of ids to its record.
    pub(crate) id_ranges: std::sync::Mutex<()>,
    /// Read-locked while an ended container's shim is put away; stopping waits for that.
    pub(crate) put_aways: Arc<RwLock<()>>,
}

impl Engine {
    /// Publishes a container's event with the attributes Docker gives: image, name, labels, then `more`.
    pub(crate) fn container_event(&self, record: &Record, action: &str, more: &[(&str, String)]) {
        let mut attributes: BTreeMap<String, String> = record.config.labels.clone();
        attributes.insert("image".to_owned(), record.config.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        for (key, value) in more {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.events
            .publish("container", action, &record.id, attributes);
    }
}

/// Runs `operation` to its end, even if who waits for it goes away.
///
/// # Errors
/// The operation's, and 500 if it panics.
pub(crate) async fn uninterrupted<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(operation).await {
        Ok(result) => result,
        Err(_) => Err(Error::internal(
            "the engine failed on this request; its log says where",
        )),
    }
}

/// Runs blocking `work` on a thread for such things.
///
/// # Errors
/// The work's, and 500 if it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(
            ErrorKind::Internal,
            format!("the engine failed on this request: {error}"),
        )),
    }
}
