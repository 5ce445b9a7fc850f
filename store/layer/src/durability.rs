//! Getting layers onto the disk without making the user wait.
//!
//! A layer is used as soon as it is renamed into place. Its files reach the disk a little later,
//! when the kernel writes them of its own accord; then one `syncfs` for all new layers makes
//! sure. (Syncing at once would make every small `fsync` of the engine in the meantime wait for
//! all the layers' data: that is how ext4's journal works.) Until then the layer's directory
//! holds a mark with the boot's ID. A mark from another boot at open means that the machine went
//! down in between: the layer may have empty files, so it is removed, and the image is to be
//! fetched again. A killed engine loses nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags};

/// The mark's name in the layer's directory.
pub(crate) const UNSYNCED_MARK: &str = "unsynced";

/// How long the kernel is left to write by itself.
const DELAY: Duration = Duration::from_secs(10);

/// Identifies this run of the kernel.
pub(crate) fn boot_id() -> String {
    // Without /proc every layer counts as synced by this boot, as with any other engine.
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Syncs layers on a thread that lives only while there are some.
#[derive(Debug)]
pub(crate) struct Syncer {
    directory: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    is_idle: Condvar,
    is_urgent: Condvar,
}

#[derive(Debug, Default)]
struct State {
    marks: Vec<PathBuf>,
    is_running: bool,
    /// Somebody waits: no delay.
    is_urgent: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while holding it, and a list of paths has no invariant to break.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Syncer {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            shared: Arc::default(),
        }
    }

    /// Queues a mark for removal after the next sync.
    pub(crate) fn add(&self, mark: PathBuf) {
        let mut state = self.shared.lock();
        state.marks.push(mark);
        if state.is_running {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let directory = self.directory.clone();
        let thread = thread::Builder::new().name("layer-sync".to_owned());
        match thread.spawn(move || run(&directory, &shared)) {
            Ok(_) => state.is_running = true,
            // The marks stay, which is safe: the next open in this boot tries again.
            Err(error) => tracing::warn!(%error, "cannot start the thread that syncs layers"),
        }
    }

    /// Waits until the queue is empty.
    pub(crate) fn wait(&self) {
        let mut state = self.shared.lock();
        state.is_urgent = true;
        self.shared.is_urgent.notify_all();
        while state.is_running {
            state = self
                .shared
                .is_idle
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.is_urgent = false;
    }
}

fn run(directory: &Path, shared: &Shared) {
    loop {
        let marks = {
            let state = shared.lock();
            let (mut state, _) = shared
                .is_urgent
                .wait_timeout_while(state, DELAY, |state| !state.is_urgent)
                .unwrap_or_else(PoisonError::into_inner);
            if state.marks.is_empty() {
                state.is_running = false;
                shared.is_idle.notify_all();
                return;
            }
            std::mem::take(&mut state.marks)
        };
        if let Err(errno) = sync_file_system(directory) {
            tracing::warn!(%errno, path = %directory.display(), "cannot sync layers");
            continue;
        }
        for mark in marks {
            // The layer may have been removed meanwhile.
            let _removed = fs::remove_file(mark);
        }
    }
}

fn sync_file_system(directory: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::syncfs(rustix::fs::openat(CWD, directory, flags, Mode::empty())?)
}
