//! All containers, found by id, unique prefix or name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::handle::{Container, ContainerRef};
use crate::error::{Error, Result};

/// All containers. Its lock is held for look-ups only, never across anything that waits.
#[derive(Default)]
pub(crate) struct Registry {
    maps: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    by_id: BTreeMap<String, ContainerRef>,
    names: HashMap<String, String>,
}

impl Registry {
    /// Reserves `name` for `id`, before the container exists.
    ///
    /// # Errors
    /// 409 in dockerd's words when another container has it.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut maps = self.write();
        if let Some(holder) = maps.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        maps.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Whether somebody has `name`.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.read().names.contains_key(name)
    }

    /// Gives `name` back if `id` has it.
    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut maps = self.write();
        if maps.names.get(name).is_some_and(|holder| holder == id) {
            maps.names.remove(name);
        }
    }

    /// Adds a container whose name is reserved.
    pub(crate) fn insert(&self, container: ContainerRef) {
        self.write()
            .by_id
            .insert(container.id().to_owned(), container);
    }

    /// Takes a container and its name out.
    pub(crate) fn remove(&self, id: &str) {
        let mut maps = self.write();
        maps.by_id.remove(id);
        maps.names.retain(|_, holder| holder != id);
    }

    /// All containers, by id.
    pub(crate) fn all(&self) -> Vec<ContainerRef> {
        self.read().by_id.values().map(Arc::clone).collect()
    }

    /// The container that `name` means: full id, name with or without slash, or unique id prefix.
    ///
    /// # Errors
    /// 404 in dockerd's words; 400 when a prefix means several.
    pub(crate) fn find(&self, name: &str) -> Result<ContainerRef> {
        let maps = self.read();
        if let Some(container) = maps.by_id.get(name) {
            return Ok(Arc::clone(container));
        }
        let bare = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = maps.names.get(bare).and_then(|id| maps.by_id.get(id)) {
            return Ok(Arc::clone(container));
        }
        let is_prefix = !name.is_empty() && name.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_prefix {
            let mut found = maps
                .by_id
                .range(name.to_owned()..)
                .take_while(|(id, _)| id.starts_with(name))
                .map(|(_, container)| container);
            if let Some(container) = found.next() {
                if found.next().is_some() {
                    return Err(Error::invalid(format!(
                        "Multiple IDs found with provided prefix: {name}"
                    )));
                }
                return Ok(Arc::clone(container));
            }
        }
        Err(Error::not_found(format!("No such container: {name}")))
    }

    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::container::record::{Record, State, VERSION};

    /// A record of nothing in particular.
    pub(crate) fn record(id: &str, name: &str) -> Record {
        Record {
            version: VERSION,
            id: id.to_owned(),
            name: name.to_owned(),
            created: crate::time::now(),
            image_id: String::new(),
            chain_ids: Vec::new(),
            path: String::new(),
            args: Vec::new(),
            config: Default::default(),
            host_config: Default::default(),
            networks: Default::default(),
            ends: Default::default(),
            published: None,
            mounts: Vec::new(),
            state: State::default(),
            machine: None,
            id_range: None,
            restart_count: 0,
            stopped_by_user: false,
            exits: 0,
            is_removed: false,
        }
    }

    fn container(id: &str, name: &str) -> ContainerRef {
        Arc::new(Container::new(
            record(id, name),
            "/nonexistent/config.json".into(),
        ))
    }

    fn registry() -> Registry {
        let registry = Registry::default();
        for (id, name) in [("abc1", "one"), ("abc2", "two"), ("b0b", "abc")] {
            registry.reserve(name, id).unwrap();
            registry.insert(container(id, name));
        }
        registry
    }

    #[test]
    fn finds_by_id_name_and_unique_prefix() {
        let registry = registry();
        let id = |name: &str| registry.find(name).map(|found| found.id().to_owned());
        assert_eq!(id("abc1").unwrap(), "abc1");
        assert_eq!(id("/two").unwrap(), "abc2");
        assert_eq!(id("b0").unwrap(), "b0b");
        assert_eq!(id("abc").unwrap(), "b0b", "a name goes before a prefix");
        assert!(
            id("ab")
                .unwrap_err()
                .to_string()
                .starts_with("Multiple IDs found")
        );
        assert_eq!(id("zz").unwrap_err().to_string(), "No such container: zz");
        assert!(id("").is_err());
    }

    #[test]
    fn name_conflict_is_in_dockers_words() {
        let registry = registry();
        let error = registry.reserve("one", "new").unwrap_err().to_string();
        assert_eq!(
            error,
            "Conflict. The container name \"/one\" is already in use by container \"abc1\". You have to remove (or rename) that container to be able to reuse that name."
        );
        registry.release("one", "someone else");
        assert!(registry.has_name("one"));
        registry.remove("abc1");
        assert!(!registry.has_name("one"));
    }
}
