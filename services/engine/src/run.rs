//! Starting and stopping the engine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use atoll_image::ImageStore;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::EngineArgs,
    container::{
        registry::Registry,
        remove, restore,
        spec::{HostFacts, capabilities},
        volumes,
    },
    engine::{Engine, EngineRef, blocking},
    error::{Error, chain},
    events::EventBus,
    exec::Execs,
    http::server::{self, Listener},
    lock::{LOCK_FILE, LockError, RootLock},
    names,
    network::{Networks, dns},
    paths::Paths,
    settings::{Listen, Settings, SettingsError},
    volume::Volumes,
};

/// Threads that serve requests; blocking work has its own.
const WORKERS: usize = 2;

/// How long stopping waits for shims of containers that have ended.
const PUT_AWAY_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the engine can't run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot make {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}")]
    Listen { address: String, source: io::Error },
    #[error("cannot open the image store")]
    Images(#[source] atoll_image::ImageError),
    #[error("cannot start")]
    Engine(#[source] Error),
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
}

impl RunError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Settings(error) => error.hint(),
            Self::Lock(error) => error.hint(),
            Self::Images(error) => error.hint(),
            Self::Engine(error) => error.hint().map(ToOwned::to_owned),
            Self::Directory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or choose other --data-root and --exec-root".to_owned())
            }
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("stop what listens there, or choose another address with -H".to_owned())
            }
            _ => None,
        }
    }
}

/// Runs the engine until SIGTERM or SIGINT; containers go on without it.
///
/// Prints an error to stderr and answers 1 when the engine can't run.
pub fn run(args: EngineArgs) -> ExitCode {
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the one place that tells the person who started the engine"
)]
fn report(error: &RunError) {
    eprintln!("error: {}", chain(error));
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}

fn start(args: &EngineArgs) -> Result<(), RunError> {
    let settings = Settings::load(args)?;
    tracing_subscriber::fmt()
        .with_max_level(settings.log_level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let paths = Paths::new(&settings.data_root, &settings.exec_root);
    let _locks = take_roots(&paths)?;
    make_directories(&paths)?;
    let left_volumes = volumes::of_removed(&paths.tmp());
    empty(&paths.tmp());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(64)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .map_err(RunError::Threads)?;
    let result = runtime.block_on(serve(settings, paths, left_volumes));
    // Blocking work that is under way has nobody to answer to.
    runtime.shutdown_background();
    result
}

async fn serve(
    settings: Settings,
    paths: Paths,
    left_volumes: Vec<String>,
) -> Result<(), RunError> {
    let images = ImageStore::open(paths.data_root()).map_err(RunError::Images)?;
    let volumes = Volumes::open(&paths.volumes(), &paths.tmp()).map_err(RunError::Engine)?;
    let network = Networks::open(&settings).map_err(RunError::Engine)?;
    let engine = Arc::new(Engine {
        cgroup_parent: settings
            .cgroup_parent
            .clone()
            .unwrap_or_else(|| "atoll".to_owned()),
        id: engine_id(&paths),
        host: host_facts(),
        images,
        volumes,
        containers: Registry::default(),
        execs: Execs::default(),
        network,
        put_aways: Arc::default(),
        id_ranges: std::sync::Mutex::default(),
        events: EventBus::new(),
        settings,
        paths,
    });
    restore::load(&engine).map_err(RunError::Engine)?;
    serve_networks(&engine);
    restore::reconcile(&engine).await;
    volumes::remove_left(&engine, &left_volumes);
    engine.volumes.settle();
    // Listened on only now: whoever connects sees the true state.
    let mut listeners = Vec::new();
    for listen in &engine.settings.listen {
        listeners.push(bind(listen).await?);
    }
    write_pid(&engine)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Threads)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Threads)?;
    for listener in listeners {
        tokio::spawn(server::serve(listener, EngineRef::clone(&engine)));
    }
    tracing::info!(
        data_root = %engine.paths.data_root().display(),
        listen = ?engine.settings.listen,
        containers = engine.containers.all().len(),
        "ready"
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; containers go on");
    let _ = tokio::time::timeout(PUT_AWAY_LIMIT, engine.put_aways.write()).await;
    for listen in &engine.settings.listen {
        if let Listen::Unix(path) = listen {
            let _ = fs::remove_file(path);
        }
    }
    let _ = fs::remove_file(engine.paths.pid());
    if let Some(path) = &engine.settings.pidfile {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

async fn bind(listen: &Listen) -> Result<Listener, RunError> {
    let (address, listener) = match listen {
        Listen::Unix(path) => (format!("unix://{}", path.display()), Listener::unix(path)),
        Listen::Tcp(address) => (format!("tcp://{address}"), Listener::tcp(*address).await),
    };
    listener.map_err(|source| RunError::Listen { address, source })
}

/// Does what the first container would otherwise wait for: bridges, name servers.
fn serve_networks(engine: &EngineRef) {
    let engine = EngineRef::clone(engine);
    tokio::spawn(async move {
        let all = EngineRef::clone(&engine);
        let up = blocking(move || {
            all.network.ensure_all();
            Ok(())
        });
        if up.await.is_ok() {
            dns::serve_all(&engine).await;
        }
    });
}

/// Makes and locks both roots. Refused, it leaves no root behind that was not there before.
fn take_roots(paths: &Paths) -> Result<[RootLock; 2], RunError> {
    let data_root = paths.data_root();
    let is_new = !data_root.exists();
    make_directory(data_root)?;
    let data = RootLock::take("data root", data_root)?;
    let exec = make_directory(paths.exec_root())
        .and_then(|()| Ok(RootLock::take("exec root", paths.exec_root())?));
    if exec.is_err() && is_new {
        let _ = fs::remove_file(data_root.join(LOCK_FILE));
        let _ = fs::remove_dir(data_root);
    }
    Ok([data, exec?])
}

fn make_directories(paths: &Paths) -> Result<(), RunError> {
    [
        paths.containers(),
        paths.volumes(),
        paths.tmp(),
        paths.bundles(),
        paths.runtime(),
    ]
    .iter()
    .try_for_each(|path| make_directory(path))
}

fn make_directory(path: &Path) -> Result<(), RunError> {
    use std::os::unix::fs::DirBuilderExt as _;

    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| RunError::Directory {
            path: path.to_owned(),
            source,
        })
}

/// Removes what an engine that was killed had half done.
fn empty(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove::delete(&path);
        } else if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a leftover");
        }
    }
}

fn write_pid(engine: &EngineRef) -> Result<(), RunError> {
    let paths = engine
        .settings
        .pidfile
        .iter()
        .cloned()
        .chain([engine.paths.pid()]);
    for path in paths {
        fs::write(&path, format!("{}\n", std::process::id()))
            .map_err(|source| RunError::Directory { path, source })?;
    }
    Ok(())
}

/// An id that stays with the data root.
fn engine_id(paths: &Paths) -> String {
    let path = paths.data_root().join("engine-id");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        _ => {
            let id = names::random_id();
            if let Err(error) = fs::write(&path, &id) {
                tracing::warn!(%error, "cannot keep the engine's id");
            }
            id
        }
    }
}

fn host_facts() -> HostFacts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // With any controller on a v1 hierarchy, v1 is what limits work with.
    let has_v1 = read("/proc/self/mountinfo")
        .lines()
        .any(|line| line.contains(" - cgroup "));
    HostFacts {
        capabilities: capabilities::from_status(&read("/proc/self/status")),
        kernel,
        is_cgroup_v2: !has_v1,
        hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
    }
}
