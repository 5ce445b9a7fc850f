//! Checkpoints.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use atoll_spec::{Mount, NamespaceKind, Spec, Status};
use atoll_sys::inside;
use atoll_sys::rustix::fs::{FileType, OFlags, fstat};

use super::options::{
    CheckpointRequest, DESCRIPTORS, common, empty_namespaces, namespace_key, outside,
};
use super::place::resolve;
use super::rpc;
use super::rpc::{ExternalMount, Features, Kind, Options, Request};
use super::session::{Folders, Opening, Session, folder, kept_streams, with_log};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::plan::{ContainerPlan, file_name};
use crate::state::{self, Record};
use crate::{CreateRequest, HostFacts, plan};

/// CRIU's log of a checkpoint.
const LOG: &str = "dump.log";

impl Container {
    /// Writes the container's processes into files, by CRIU; ends them unless they are to go on.
    ///
    /// The container stays on record, stopped then; [`Self::delete`] removes it.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it runs or is paused, [`Error::NotForCriu`], [`Error::Criu`], [`Error::Plan`] and
    /// [`Error::Spec`] when its bundle's configuration has changed into one that can't be.
    pub fn checkpoint(&self, request: CheckpointRequest) -> Result<()> {
        let record = self.record()?;
        let status = self.status_of(&record);
        if !matches!(status, Status::Running | Status::Paused) {
            return Err(Error::WrongStatus {
                id: self.id().clone(),
                action: "checkpoint",
                status,
            });
        }
        let spec = Spec::load(&record.bundle.join("config.json"))?;
        let create = CreateRequest::new(self.id().clone(), PathBuf::new(), record.bundle.clone());
        let mut spec = spec;
        spec.mounts.extend(self.notify_mount(&spec));
        let facts = HostFacts::detect(&spec, &create)?;
        super::refuse(&spec, &facts)?;
        let plan = plan(&spec, &create, &facts)?;
        check_features(&request)?;
        make_folder(&request.criu.images)?;
        if let Some(work) = &request.criu.work {
            make_folder(work)?;
        }
        let folders = Folders::open(&request.criu)?;
        let mut options = common(&request.criu, &record.annotations, folders.numbers(), LOG);
        complete(&mut options, &request, &record, &plan)?;
        if !request.pre_dump {
            let streams = serde_json::to_vec(&record.streams);
            let path = request.criu.images.join(DESCRIPTORS);
            let streams = streams.map_err(|error| state::file("write", &path, error.into()))?;
            fs::write(&path, streams).map_err(|source| state::file("write", &path, source))?;
        }
        let asked = Request {
            kind: if request.pre_dump {
                Kind::PreDump.into()
            } else {
                Kind::Dump.into()
            },
            options: Some(options),
            ..Request::default()
        };
        let logs = request.criu.work.clone();
        let logs = logs.unwrap_or_else(|| request.criu.images.clone());
        self.dump(request, &asked)
            .map_err(|error| with_log(error, &logs, LOG))
    }

    /// The mount of the folder for a service's socket, which is in no bundle's configuration.
    fn notify_mount(&self, spec: &Spec) -> Option<Mount> {
        let folder = self.folder().join("notify");
        let is_there = spec
            .mounts
            .iter()
            .any(|m| m.source.as_deref() == Some(&folder));
        (folder.is_dir() && !is_there).then(|| CreateRequest::notify_mount(folder))
    }

    fn dump(&self, request: CheckpointRequest, asked: &Request) -> Result<()> {
        let mut status = request.status;
        let debug = request.criu.debug;
        let mut session = open(&request.criu.program)?;
        session.ask(asked, &mut |notify, _| {
            let script = notify.script.as_deref().unwrap_or_default();
            debug(&format!("criu: {script}"));
            if script == "status-ready"
                && let Some(status) = status.take()
            {
                // Nobody who waits for it is no reason to fail.
                let _ = File::from(status).write_all(b"\0");
            }
            Ok(())
        })?;
        session.close();
        Ok(())
    }
}

fn open(program: &Path) -> Result<Session> {
    let (streams, said) = kept_streams()?;
    Session::open(Opening {
        program,
        steps: Vec::new(),
        root: None,
        flags: 0,
        cgroup: None,
        streams,
        said: Some(said),
        streams_uid: 0,
        extra: Vec::new(),
        action: "checkpoint",
    })
}

/// Refuses what the kernel or CRIU can't: CRIU itself would go on without.
fn check_features(request: &CheckpointRequest) -> Result<()> {
    let wanted = Features {
        mem_track: request.pre_dump.then_some(true),
        lazy_pages: request.criu.lazy_pages.then_some(true),
    };
    if wanted == Features::default() {
        return Ok(());
    }
    let mut session = open(&request.criu.program)?;
    let asked = Request {
        kind: Kind::FeatureCheck.into(),
        features: Some(wanted),
        ..Request::default()
    };
    let found = session.ask(&asked, &mut |_, _| Ok(()))?;
    session.close();
    let found = found.features.unwrap_or_default();
    let lacks = |wanted: Option<bool>, found: Option<bool>| wanted.is_some() && found != Some(true);
    let missing = if lacks(wanted.mem_track, found.mem_track) {
        "MemTrack: this kernel doesn't track changes of memory (CONFIG_MEM_SOFT_DIRTY), which --pre-dump needs"
    } else if lacks(wanted.lazy_pages, found.lazy_pages) {
        "LazyPages: this kernel has no userfaultfd(2) as --lazy-pages needs it"
    } else {
        return Ok(());
    };
    Err(Error::Criu {
        action: "checkpoint",
        reason: format!("CRIU is missing features: {missing}"),
        log: None,
    })
}

/// Adds what only a checkpoint has.
fn complete(
    options: &mut Options,
    request: &CheckpointRequest,
    record: &Record,
    plan: &ContainerPlan,
) -> Result<()> {
    options.pid = i32::try_from(record.pid).ok();
    options.root = Some(record.rootfs.to_string_lossy().into_owned());
    options.leave_running = Some(request.leave_running);
    options.tcp_skip_in_flight = Some(request.tcp_skip_in_flight);
    options.link_remap = Some(request.link_remap);
    options.empty_ns = Some(empty_namespaces(plan));
    options.page_server = request.page_server.as_ref().map(|server| rpc::PageServer {
        address: Some(server.address.clone()),
        port: Some(server.port.into()),
    });
    if let Some(parent) = &request.parent {
        options.parent_img = Some(parent.to_string_lossy().into_owned());
    }
    options.track_mem = (request.parent.is_some() || request.pre_dump).then_some(true);
    let freezer = record.cgroup.get("freezer").or(record.cgroup.get(""));
    options.freeze_cgroup = freezer.map(|path| path.to_string_lossy().into_owned());
    for kind in [NamespaceKind::Network, NamespaceKind::Pid] {
        let mut joined = plan.namespaces.joined.iter();
        if let Some((_, path)) = joined.find(|(joined, _)| *joined == kind) {
            let number = fs::metadata(path)
                .map_err(|source| state::file("look at namespace", path, source))?
                .ino();
            let (name, key) = (file_name(kind), namespace_key(kind));
            options.external.push(format!("{name}[{number}]:{key}"));
        }
    }
    if !request.pre_dump {
        options.external_mounts = external_mounts(record, plan)?;
    }
    Ok(())
}

fn external_mounts(record: &Record, plan: &ContainerPlan) -> Result<Vec<ExternalMount>> {
    let path = PathBuf::from(format!("/proc/{}/root", record.pid));
    let root = folder(&path)?;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut mounts = Vec::new();
    for mount in outside(plan) {
        let place = text(resolve(root.as_fd(), &mount.destination));
        mounts.push(ExternalMount {
            key: place.clone(),
            value: place,
        });
    }
    for path in &plan.masked_paths {
        // Folders are under a tmpfs of the container's own, files under the host's null device.
        let is_file = inside::open(root.as_fd(), path, OFlags::PATH)
            .and_then(fstat)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory);
        if is_file {
            mounts.push(ExternalMount {
                key: text(super::options::path(path)),
                value: "/dev/null".to_owned(),
            });
        }
    }
    Ok(mounts)
}

/// The folder may be there of an earlier checkpoint.
fn make_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| state::file("make", path, source))
}
