//! Getting layers onto the disk without making the user wait.
//!
//! A layer is used as soon as it is renamed into place. Its files reach the disk a little later,
//! with one `syncfs` for all layers of an image; until then the layer's directory holds a mark
//! with the boot's ID. A mark from another boot at open means that the machine went down in
//! between: the layer may have empty files, so it is removed and the image is fetched again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::fs::{CWD, Mode, OFlags};

/// The mark's name in the layer's directory.
pub(crate) const UNSYNCED_MARK: &str = "unsynced";

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
}

#[derive(Debug, Default)]
struct State {
    marks: Vec<PathBuf>,
    is_running: bool,
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
        while state.is_running {
            state = self
                .shared
                .is_idle
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn run(directory: &Path, shared: &Shared) {
    loop {
        let marks = {
            let mut state = shared.lock();
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
