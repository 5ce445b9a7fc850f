//! All volumes: making, finding, removing, and who has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    ANONYMOUS_LABEL, VolumeRecord,
    options::{self, Filesystem},
    record,
};
use crate::{
    error::{Error, ErrorKind, Result},
    names, time,
};

/// The volume's own files, below its directory.
const DATA: &str = "_data";
/// Its record, beside them.
const RECORD: &str = "volume.json";
/// Where an image's content is copied to, until it takes the place of [`DATA`].
const FILLING: &str = "_new";

/// A shared volume.
pub(crate) type VolumeRef = Arc<Volume>;

/// One volume.
pub(crate) struct Volume {
    record: VolumeRecord,
    directory: PathBuf,
    filesystem: Option<Filesystem>,
    /// Containers that it is mounted for, when it is no plain folder.
    mounted: Mutex<BTreeSet<String>>,
    /// Held while content of an image is copied in.
    pub(super) filling: Mutex<()>,
}

/// A volume to make or find.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Empty for an anonymous one.
    pub(crate) name: String,
    /// Of a volume that is made.
    pub(crate) labels: BTreeMap<String, String>,
    /// Of a volume that is made.
    pub(crate) options: BTreeMap<String, String>,
}

/// All volumes. The lock is held while one is made or removed, never while one is mounted or filled.
pub(crate) struct Volumes {
    root: PathBuf,
    tmp: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
}

struct Entry {
    volume: VolumeRef,
    /// Containers that have it, also such as do not run.
    users: BTreeSet<String>,
}

impl Volume {
    /// What is known about it.
    pub(crate) fn record(&self) -> &VolumeRecord {
        &self.record
    }

    /// Its files.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    /// Where content of an image is put before it takes the place of [`Volume::data`].
    pub(super) fn staging(&self) -> PathBuf {
        self.directory.join(FILLING)
    }

    /// Whether it is to be mounted before it can be used.
    pub(crate) fn needs_mount(&self) -> bool {
        self.filesystem.is_some()
    }

    /// Mounts it for a container, unless it is mounted for another.
    ///
    /// # Errors
    /// 500 when the kernel refuses.
    pub(crate) fn mount(&self, container: &str) -> Result<()> {
        let Some(filesystem) = &self.filesystem else {
            return Ok(());
        };
        let mut mounted = lock(&self.mounted);
        if mounted.is_empty() && !options::is_mounted(&self.data()) {
            filesystem.mount(&self.data())?;
        }
        mounted.insert(container.to_owned());
        Ok(())
    }

    /// Notes that it is mounted for a container since an earlier engine.
    pub(crate) fn is_mounted_for(&self, container: &str) {
        if self.filesystem.is_some() {
            lock(&self.mounted).insert(container.to_owned());
        }
    }

    /// Unmounts it when no other container needs it.
    pub(crate) fn unmount(&self, container: &str) {
        if self.filesystem.is_none() {
            return;
        }
        let mut mounted = lock(&self.mounted);
        if mounted.remove(container) && mounted.is_empty() && options::is_mounted(&self.data()) {
            options::unmount(&self.data());
        }
    }

    /// Unmounts it if an engine that was killed left it mounted for nobody.
    fn settle(&self) {
        let mounted = lock(&self.mounted);
        if mounted.is_empty() && self.needs_mount() && options::is_mounted(&self.data()) {
            options::unmount(&self.data());
        }
    }
}

impl Volumes {
    /// Reads all volumes.
    ///
    /// * `root`: their directories.
    /// * `tmp`: of the same file system; what is there goes when the engine starts.
    ///
    /// # Errors
    /// 500 when `root` can't be read. Single volumes that can't are left out, with a line in the log.
    pub(crate) fn open(root: &Path, tmp: &Path) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let list = fs::read_dir(root).map_err(|error| {
            Error::caused(
                ErrorKind::Internal,
                format!("cannot read {}", root.display()),
                &error,
            )
        })?;
        for entry in list.flatten() {
            match read(&entry.path()) {
                Ok(volume) => {
                    let name = volume.record.name.clone();
                    entries.insert(name, Entry::of(volume));
                }
                Err(error) => {
                    tracing::error!(path = %entry.path().display(), %error, "no volume; left out");
                }
            }
        }
        Ok(Self {
            root: root.to_owned(),
            tmp: tmp.to_owned(),
            entries: Mutex::new(entries),
        })
    }

    /// All volumes, by name.
    pub(crate) fn all(&self) -> Vec<VolumeRef> {
        let entries = lock(&self.entries);
        entries
            .values()
            .map(|entry| Arc::clone(&entry.volume))
            .collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// 404 in dockerd's words.
    pub(crate) fn get(&self, name: &str) -> Result<VolumeRef> {
        let entries = lock(&self.entries);
        let found = entries.get(name).map(|entry| Arc::clone(&entry.volume));
        found.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// The containers that have it, by id.
    pub(crate) fn users(&self, name: &str) -> Vec<String> {
        let entries = lock(&self.entries);
        let users = entries.get(name).map(|entry| entry.users.iter().cloned());
        users.into_iter().flatten().collect()
    }

    /// Finds a volume or makes it, and notes that `container` has it; answers whether it was made.
    ///
    /// # Errors
    /// 400 for a name or options that can't be, 500 when the disk is full or broken; nothing is made then.
    pub(crate) fn obtain(
        &self,
        asked: &Asked,
        container: Option<&str>,
    ) -> Result<(VolumeRef, bool)> {
        let mut asked = asked.clone();
        if asked.name.is_empty() {
            asked.name = names::random_id();
            asked
                .labels
                .insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        let mut entries = lock(&self.entries);
        let is_new = !entries.contains_key(&asked.name);
        if is_new {
            let volume = self.make(&asked)?;
            entries.insert(asked.name.clone(), Entry::of(volume));
        }
        let entry = entries.get_mut(&asked.name);
        let entry = entry.ok_or_else(|| Error::internal("a volume just made is gone"))?;
        entry.users.extend(container.map(ToOwned::to_owned));
        Ok((Arc::clone(&entry.volume), is_new))
    }

    /// Notes that a container of an earlier engine has it; answers the volume if it is there.
    pub(crate) fn note(&self, name: &str, container: &str) -> Option<VolumeRef> {
        let mut entries = lock(&self.entries);
        let entry = entries.get_mut(name)?;
        entry.users.insert(container.to_owned());
        Some(Arc::clone(&entry.volume))
    }

    /// Notes that `container` is gone.
    pub(crate) fn release(&self, name: &str, container: &str) {
        if let Some(entry) = lock(&self.entries).get_mut(name) {
            entry.users.remove(container);
        }
    }

    /// Removes a volume: from disk by one rename, then from memory; its files are deleted after that.
    ///
    /// # Errors
    /// 404, 409 when containers have it, in dockerd's words; 500 when it can't be moved away.
    pub(crate) fn remove(&self, name: &str) -> Result<VolumeRef> {
        let mut entries = lock(&self.entries);
        let entry = entries.get(name);
        let entry = entry.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))?;
        if !entry.users.is_empty() {
            let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
            return Err(Error::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        let volume = Arc::clone(&entry.volume);
        volume.settle();
        if volume.needs_mount() && options::is_mounted(&volume.data()) {
            // Deleting would reach what is mounted.
            return Err(Error::internal(format!(
                "remove {name}: {} cannot be unmounted",
                volume.data().display()
            )));
        }
        let trash = self.tmp.join(format!("volume-{}", names::random_id()));
        match fs::rename(&volume.directory, &trash) {
            Ok(()) => {}
            // Somebody took it by hand.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let context = format!("cannot remove {}", volume.directory.display());
                return Err(Error::caused(ErrorKind::Internal, context, &error));
            }
        }
        entries.remove(name);
        drop(entries);
        std::thread::spawn(move || {
            if let Err(error) = fs::remove_dir_all(&trash)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %trash.display(), %error, "cannot delete a removed volume's files");
            }
        });
        Ok(volume)
    }

    /// Unmounts what is mounted for no container; call when all containers are known.
    pub(crate) fn settle(&self) {
        for volume in self.all() {
            volume.settle();
        }
    }

    /// Runs `action` if `container` alone has the volume, and no other can get it meanwhile.
    pub(super) fn while_alone<T>(
        &self,
        name: &str,
        container: &str,
        action: impl FnOnce() -> T,
    ) -> Option<T> {
        let entries = lock(&self.entries);
        let entry = entries.get(name)?;
        let is_alone = entry.users.iter().all(|user| user == container);
        is_alone.then(action)
    }

    /// Makes a volume's directory whole, then gives it its name.
    fn make(&self, asked: &Asked) -> Result<Volume> {
        record::check_name(&asked.name)?;
        let filesystem = Filesystem::read(&asked.name, &asked.options)?;
        let record = VolumeRecord {
            version: record::VERSION,
            name: asked.name.clone(),
            created: time::now(),
            labels: asked.labels.clone(),
            options: asked.options.clone(),
        };
        let directory = self.root.join(&asked.name);
        let staging = self.tmp.join(format!("volume-{}", names::random_id()));
        let made = make_directory(&staging, &record).and_then(|()| {
            fs::rename(&staging, &directory)?;
            fs::File::open(&self.root)?.sync_all()
        });
        if let Err(error) = made {
            let _ = fs::remove_dir_all(&staging);
            let context = format!("create {}: cannot make {}", asked.name, directory.display());
            return Err(Error::caused(ErrorKind::Internal, context, &error));
        }
        tracing::info!(volume = asked.name, "created");
        Ok(Volume {
            record,
            directory,
            filesystem,
            mounted: Mutex::default(),
            filling: Mutex::default(),
        })
    }
}

impl Entry {
    fn of(volume: Volume) -> Self {
        Self {
            volume: Arc::new(volume),
            users: BTreeSet::new(),
        }
    }
}

fn make_directory(path: &Path, record: &VolumeRecord) -> io::Result<()> {
    use io::Write as _;

    fs::DirBuilder::new().mode(0o701).create(path)?;
    let data = path.join(DATA);
    fs::DirBuilder::new().mode(0o755).create(&data)?;
    // The engine's umask does not count.
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut file = fs::File::create_new(path.join(RECORD))?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::File::open(path)?.sync_all()
}

fn read(directory: &Path) -> Result<Volume> {
    let path = directory.join(RECORD);
    let bytes = fs::read(&path).map_err(|error| {
        let context = format!("cannot read {}", path.display());
        Error::caused(ErrorKind::Internal, context, &error)
    })?;
    let record: VolumeRecord = serde_json::from_slice(&bytes)
        .map_err(|error| Error::caused(ErrorKind::Internal, "invalid record", &error))?;
    if record.version != record::VERSION {
        return Err(Error::internal(format!(
            "its record has version {}, this engine reads {}",
            record.version,
            record::VERSION
        )));
    }
    if directory
        .file_name()
        .is_none_or(|name| *name != *record.name)
    {
        return Err(Error::internal(format!("its record is of {}", record.name)));
    }
    let filesystem = Filesystem::read(&record.name, &record.options)?;
    let volume = Volume {
        record,
        directory: directory.to_owned(),
        filesystem,
        mounted: Mutex::default(),
        filling: Mutex::default(),
    };
    // What an engine that was killed had half copied.
    let staging = volume.staging();
    if staging.exists() {
        let _ = fs::remove_dir_all(&staging);
    }
    Ok(volume)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["volumes", "tmp"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let volumes = reopened(folder.path());
        (folder, volumes)
    }

    fn reopened(folder: &Path) -> Volumes {
        Volumes::open(&folder.join("volumes"), &folder.join("tmp")).unwrap()
    }

    fn named(name: &str) -> Asked {
        Asked {
            name: name.to_owned(),
            ..Asked::default()
        }
    }

    #[test]
    fn they_are_made_once_and_found_by_the_next_engine() {
        let (folder, volumes) = volumes();
        let (data, is_new) = volumes.obtain(&named("data"), Some("c1")).unwrap();
        assert!(is_new && data.data().is_dir());
        assert!(!volumes.obtain(&named("data"), Some("c2")).unwrap().1);
        assert_eq!(volumes.users("data"), ["c1", "c2"]);
        let (anonymous, _) = volumes.obtain(&Asked::default(), None).unwrap();
        assert!(anonymous.record().is_anonymous());
        let again = reopened(folder.path());
        let mut names: Vec<_> = again
            .all()
            .iter()
            .map(|one| one.record().name.clone())
            .collect();
        names.sort_by_key(String::len);
        assert_eq!(names, ["data", &anonymous.record().name]);
        assert!(again.users("data").is_empty());
    }

    #[test]
    fn one_that_is_used_stays() {
        let (_folder, volumes) = volumes();
        volumes.obtain(&named("data"), Some("c1")).unwrap();
        let refused = volumes.remove("data").err().unwrap();
        assert_eq!(refused.to_string(), "remove data: volume is in use - [c1]");
        volumes.release("data", "c1");
        let gone = volumes.remove("data").unwrap();
        assert!(!gone.data().exists());
        let missing = volumes.remove("data").err().unwrap();
        assert_eq!(missing.to_string(), "get data: no such volume");
    }

    #[test]
    fn what_is_damaged_is_left_alone() {
        let (folder, volumes) = volumes();
        volumes.obtain(&named("good"), None).unwrap();
        let place = |name: &str| folder.path().join("volumes").join(name);
        fs::create_dir_all(place("bare/_data")).unwrap();
        for (name, text) in [
            ("text", "not JSON"),
            ("other", r#"{"version":1,"name":"good","created":""}"#),
            ("later", r#"{"version":9,"name":"later","created":""}"#),
        ] {
            fs::create_dir(place(name)).unwrap();
            fs::write(place(name).join(RECORD), text).unwrap();
        }
        fs::create_dir(place("good/_new")).unwrap();
        let again = reopened(folder.path());
        assert_eq!(again.all().len(), 1);
        assert!(!place("good/_new").exists());
        assert!(place("bare/_data").exists());
        // Its place is taken, and stays so.
        assert!(again.obtain(&named("bare"), None).is_err());
        assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }
}
