//! Which handler answers which request.

use http::Method;

use super::{request::Request, response::Response};
use crate::{
    api::{
        archive, attach, containers, exec, images, inspect, lifecycle, logs, networks, process,
        system, transfer, volumes,
    },
    engine::EngineRef,
    error::{Error, Result},
};

/// Answers a request.
///
/// # Errors
/// 404 `page not found` for unknown routes, as dockerd; else the handler's.
pub(crate) async fn route(engine: EngineRef, request: Request) -> Result<Response> {
    let method = request.method.clone();
    let segments = request.segments.clone();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let name = |from: usize, to: usize| segments[from..to].join("/");
    let (get, post, delete) = (
        method == Method::GET,
        method == Method::POST,
        method == Method::DELETE,
    );
    let head = method == Method::HEAD;
    let put = method == Method::PUT;
    let engine = &engine;
    match segments.as_slice() {
        ["_ping"] if get || head => Ok(system::ping()),
        ["version"] if get => Ok(system::version(engine)),
        ["info"] if get => system::info(engine),
        ["events"] if get => system::events(engine, &request),
        ["system", "df"] if get => system::disk_usage(engine).await,
        ["auth"] if post => system::auth(request).await,
        ["containers", "json"] if get => containers::list(engine, &request).await,
        ["containers", "create"] if post => containers::create(engine, request).await,
        ["containers", "prune"] if post => containers::prune(engine, &request).await,
        ["containers", id] if delete => containers::remove(engine, &request, id).await,
        ["containers", id, action] => container(engine, request, id, action).await,
        ["exec", id, "json"] if get => exec::inspect(engine, id),
        ["exec", id, "start"] if post => exec::start(engine, request, id).await,
        ["exec", id, "resize"] if post => exec::resize(engine, &request, id).await,
        ["images", "json"] if get => images::list(engine, &request),
        ["images", "create"] if post => transfer::create(engine, request).await,
        ["images", "load"] if post => transfer::load(engine, request).await,
        ["images", "prune"] if post => images::prune(engine, &request).await,
        ["images", "search"] if get => Err(Error::not_implemented(
            "searching a registry is not available; pull an image by its name",
        )),
        ["images", "get"] if get => {
            Err(Error::not_implemented("saving images is not available yet"))
        }
        ["images", .., last] if segments.len() >= 3 && !delete => {
            let name = name(1, segments.len() - 1);
            match *last {
                "json" if get => images::inspect(engine, &request, &name),
                "history" if get => images::history(engine, &name),
                "tag" if post => images::tag(engine, &request, &name).await,
                "push" if post => Err(Error::not_implemented(
                    "pushing images is not available yet",
                )),
                "get" if get => Err(Error::not_implemented("saving images is not available yet")),
                _ => Err(not_found()),
            }
        }
        ["images", ..] if segments.len() >= 2 && delete => {
            images::remove(engine, &request, &name(1, segments.len())).await
        }
        ["networks"] if get => networks::list(engine, &request),
        ["networks", "create"] if post => networks::create(engine, request).await,
        ["networks", "prune"] if post => networks::prune(engine, &request).await,
        ["networks", id] if get => networks::inspect(engine, &request, id),
        ["networks", id] if delete => networks::remove(engine, id).await,
        ["networks", id, "connect"] if post => networks::connect(engine, request, id).await,
        ["networks", id, "disconnect"] if post => networks::disconnect(engine, request, id).await,
        ["volumes"] if get => volumes::list(engine, &request),
        ["volumes", "create"] if post => volumes::create(engine, request).await,
        ["volumes", "prune"] if post => volumes::prune(engine, &request).await,
        ["volumes", name] if get => volumes::inspect(engine, name),
        ["volumes", name] if delete => volumes::remove(engine, &request, name).await,
        ["volumes", _] if put => Err(volumes::no_cluster()),
        ["build", ..] | ["session"] | ["grpc"] if post => Err(Error::not_implemented(
            "building images is not available yet",
        )),
        ["commit"] if post => Err(Error::not_implemented(
            "committing containers is not available yet",
        )),
        ["plugins"] if get => Ok(super::response::ok::<[(); 0]>(&[])),
        ["plugins", name, ..] => Err(Error::not_found(format!("plugin {name:?} not found"))),
        ["distribution", ..] if get => Err(Error::not_implemented(
            "asking registries about images is not available yet",
        )),
        [
            "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs",
            ..,
        ] => Err(Error::new(
            crate::error::ErrorKind::Unavailable,
            "This node is not a swarm manager. Atoll has no swarm mode.",
        )),
        _ => Err(not_found()),
    }
}

async fn container(
    engine: &EngineRef,
    request: Request,
    id: &str,
    action: &str,
) -> Result<Response> {
    let method = request.method.as_str().to_owned();
    match (method.as_str(), action) {
        ("GET", "json") => inspect::container(engine, &request, id).await,
        ("GET", "logs") => logs::logs(engine, &request, id),
        ("GET", "top") => process::top(engine, &request, id).await,
        ("GET", "stats") => process::stats(engine, &request, id).await,
        ("GET", "changes") => archive::changes(engine, id).await,
        ("GET" | "HEAD" | "PUT", "archive") => archive::archive(engine, request, id).await,
        ("GET", "export") => archive::export(engine, id).await,
        ("POST", "start") => lifecycle::start(engine, &request, id).await,
        ("POST", "stop") => lifecycle::stop(engine, &request, id).await,
        ("POST", "restart") => lifecycle::restart(engine, &request, id).await,
        ("POST", "kill") => lifecycle::kill(engine, &request, id).await,
        ("POST", "pause") => lifecycle::pause(engine, id, true).await,
        ("POST", "unpause") => lifecycle::pause(engine, id, false).await,
        ("POST", "wait") => lifecycle::wait(engine, &request, id),
        ("POST", "resize") => lifecycle::resize(engine, &request, id).await,
        ("POST", "rename") => lifecycle::rename(engine, &request, id),
        ("POST", "update") => lifecycle::update(engine, request, id).await,
        ("POST", "attach") => attach::attach(engine, request, id).await,
        ("POST", "exec") => exec::create(engine, request, id).await,
        ("GET", "attach") => Err(Error::not_implemented(
            "attaching by websocket is not available yet",
        )),
        _ => Err(not_found()),
    }
}

fn not_found() -> Error {
    Error::not_found("page not found")
}
