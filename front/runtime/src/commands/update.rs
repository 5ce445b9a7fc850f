//! `update`.

use std::io::Read as _;
use std::path::Path;

use atoll_container::Container;
use atoll_spec::{BlockIo, Cpu, Memory, Pids, Resources};

use crate::arguments::UpdateArguments;
use crate::commands::machine;
use crate::report::{Failure, Outcome};

/// Changes limits: those of `--resources`, with what the other options name on top.
pub(crate) fn update(
    root: &Path,
    container: &Container,
    arguments: &UpdateArguments,
) -> Outcome<()> {
    let share = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let l3_cache_schema = share(&arguments.l3_cache_schema);
    let mem_bw_schema = share(&arguments.mem_bw_schema);
    let changes_share = l3_cache_schema.is_some() || mem_bw_schema.is_some();
    if changes_share {
        container.update_share(l3_cache_schema.as_deref(), mem_bw_schema.as_deref())?;
    }
    let base = match &arguments.resources {
        Some(path) => read(path)?,
        None => Resources::default(),
    };
    let resources = changed(base, arguments);
    // A file that names nothing we know changes nothing, as with runc: properties nobody knows are no error.
    if resources == Resources::default() && arguments.resources.is_none() {
        if changes_share {
            return Ok(());
        }
        return Err(
            Failure::new("nothing to change").with_hint("name a limit, or give --resources FILE")
        );
    }
    match machine::ask(root, container, |keeper| keeper.update(&resources))? {
        Some(()) => Ok(()),
        None => Ok(container.update(&resources)?),
    }
}

fn read(path: &Path) -> Outcome<Resources> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    }
    .map_err(|error| Failure::io(format!("cannot read {}", path.display()), &error))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::io(format!("{} holds no OCI resources", path.display()), &error))
}

fn changed(mut resources: Resources, arguments: &UpdateArguments) -> Resources {
    let memory = [
        arguments.memory,
        arguments.memory_reservation,
        arguments.memory_swap,
    ];
    if memory.iter().any(Option::is_some) {
        let old = resources.memory.take().unwrap_or_default();
        resources.memory = Some(Memory {
            limit: arguments.memory.or(old.limit),
            reservation: arguments.memory_reservation.or(old.reservation),
            swap: arguments.memory_swap.or(old.swap),
            ..old
        });
    }
    let old = resources.cpu.take().unwrap_or_default();
    let cpu = Cpu {
        quota: arguments.cpu_quota.or(old.quota),
        period: arguments.cpu_period.or(old.period),
        shares: arguments.cpu_share.or(old.shares),
        burst: arguments.cpu_burst.or(old.burst),
        idle: arguments.cpu_idle.or(old.idle),
        realtime_period: arguments.cpu_rt_period.or(old.realtime_period),
        realtime_runtime: arguments.cpu_rt_runtime.or(old.realtime_runtime),
        cpus: arguments.cpuset_cpus.clone().or(old.cpus),
        mems: arguments.cpuset_mems.clone().or(old.mems),
    };
    resources.cpu = (cpu != Cpu::default()).then_some(cpu);
    if arguments.pids_limit.is_some() {
        resources.pids = Some(Pids {
            limit: arguments.pids_limit,
        });
    }
    if arguments.blkio_weight.is_some() {
        resources.block_io = Some(BlockIo {
            weight: arguments.blkio_weight,
            ..resources.block_io.unwrap_or_default()
        });
    }
    resources
}
