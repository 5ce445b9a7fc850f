//! One function a command.

mod create;
mod criu;
mod events;
mod exec;
mod lifecycle;
mod machine;
mod machine_exec;
mod show;
mod spec;
mod statistics;
mod update;

use std::path::Path;
use std::process::ExitCode;

use atoll_container::{Container, ContainerId};

use crate::arguments::{Arguments, Command};
use crate::report::{Failure, Outcome};

/// Carries out `arguments`; the exit code is the program's for `run` and `exec`.
pub(crate) fn run(arguments: Arguments) -> Outcome<ExitCode> {
    let root = arguments.root();
    let Arguments {
        systemd_cgroup,
        criu,
        command,
        ..
    } = arguments;
    let done = match command {
        Command::Create(create) => create::create(&root, systemd_cgroup, &create),
        Command::Run(run) => return create::run(&root, systemd_cgroup, &run),
        Command::Start(id) => lifecycle::start(&root, &find(&root, &id.id)?),
        Command::State(id) => show::state(&root, &find(&root, &id.id)?),
        Command::Kill(kill) => lifecycle::kill(&root, &find(&root, &kill.id)?, &kill),
        Command::Delete(delete) => lifecycle::delete(&root, &delete),
        Command::Exec(exec) => return exec::exec(&root, exec),
        Command::List(list) => show::list(&root, &list),
        Command::Ps(ps) => show::ps(&root, &find(&root, &ps.id)?, &ps),
        Command::Spec(arguments) => spec::write_example(&arguments),
        Command::Pause(id) => lifecycle::pause(&root, &find(&root, &id.id)?),
        Command::Resume(id) => lifecycle::resume(&root, &find(&root, &id.id)?),
        Command::Update(update) => update::update(&root, &find(&root, &update.id)?, &update),
        Command::Events(events) => events::print(&find(&root, &events.id)?, &events),
        Command::Checkpoint(arguments) => {
            criu::checkpoint(&root, &find(&root, &arguments.id)?, criu, arguments)
        }
        Command::Restore(restore) => {
            return criu::restore(&root, systemd_cgroup, criu, restore);
        }
        Command::Features => spec::print_features(),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Opens the container `id` below `root`.
fn find(root: &Path, id: &str) -> Outcome<Container> {
    let id: ContainerId = id.parse()?;
    Ok(Container::load(root, &id)?)
}

/// Writes `text` and a line end to standard output.
fn print(text: &str) -> Outcome<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .map_err(|error| Failure::io("cannot write to standard output", &error))
}

/// Writes `value` as indented JSON to standard output.
fn print_json(value: &impl serde::Serialize) -> Outcome<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::io("cannot write JSON", &error))?;
    print(&text)
}
