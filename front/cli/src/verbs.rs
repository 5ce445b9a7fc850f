//! What each verb does.

mod attach;
mod compare;
mod cp;
mod doctor;
mod exec;
mod images;
mod inspect;
mod kernel;
mod lifecycle;
mod logs;
mod machine;
mod network;
mod ps;
mod run;
mod system;
mod volume;

use crate::arguments::Verb;
use crate::arguments::machine::KernelVerb;
use crate::client::Client;
use crate::error::Error;

/// Runs a verb and gives the exit code.
///
/// # Errors
/// Whatever the verb meets; nothing was reported yet but for [`Error::Partial`].
pub(crate) async fn dispatch(client: &Client, verb: Verb) -> Result<u8, Error> {
    match verb {
        Verb::Run(args) => return run::run(client, &args).await,
        Verb::Create(args) => run::create(client, &args.create).await?,
        Verb::Exec(args) => return exec::exec(client, &args).await,
        Verb::Attach(args) => return attach::attach(client, &args).await,
        Verb::Start(args) => return attach::start(client, &args).await,
        Verb::Ps(args) => ps::ps(client, &args).await?,
        Verb::Logs(args) => logs::logs(client, &args).await?,
        Verb::Stop(args) => lifecycle::stop(client, &args).await?,
        Verb::Kill(args) => lifecycle::kill(client, &args).await?,
        Verb::Wait(args) => lifecycle::wait(client, &args).await?,
        Verb::Rm(args) => lifecycle::rm(client, &args).await?,
        Verb::Cp(args) => cp::cp(client, &args).await?,
        Verb::Volume(args) => volume::volume(client, &args.verb).await?,
        Verb::Images(args) => images::list(client, &args).await?,
        Verb::Pull(args) => images::pull(client, &args).await?,
        Verb::Load(args) => images::load(client, &args).await?,
        Verb::Import(args) => images::import(client, &args).await?,
        Verb::Rmi(args) => images::rmi(client, &args).await?,
        Verb::Inspect(args) => inspect::inspect(client, &args).await?,
        Verb::Port(args) => network::port(client, &args).await?,
        Verb::Network(args) => network::network(client, &args.verb).await?,
        Verb::Compare(args) => return compare::compare(client, &args).await,
        Verb::Version(args) => system::version(client, &args).await?,
        Verb::Info(args) => system::info(client, &args).await?,
        // Served before there is a client.
        Verb::Engine(_) | Verb::Machine(_) | Verb::Kernel(_) | Verb::Doctor(_) => {}
    }
    Ok(0)
}

/// Runs a verb that needs no engine, and gives the exit code; `None` for the others.
///
/// # Errors
/// Whatever the verb meets.
pub(crate) fn without_engine(verb: &Verb) -> Option<Result<u8, Error>> {
    let done = match verb {
        Verb::Machine(args) => return Some(machine::perform(&args.verb)),
        Verb::Doctor(args) => return Some(doctor::doctor(args)),
        Verb::Kernel(args) => match &args.verb {
            KernelVerb::List(args) => kernel::list(args),
            KernelVerb::Install(args) => kernel::install(args),
            KernelVerb::Initramfs(args) => kernel::initramfs(args),
        },
        _ => return None,
    };
    Some(done.map(|()| 0))
}

/// Docker's exit codes for a process that can't be started.
///
/// 127: no such program; 126: there, but not executable; 125: anything else.
fn start_failure_code(error: &Error) -> u8 {
    let message = error.api_message().unwrap_or_default();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["executable file not found", "no such file or directory"]) {
        127
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        125
    }
}
