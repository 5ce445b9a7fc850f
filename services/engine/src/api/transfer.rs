//! Images coming in: POST /images/create (pull, import) and POST /images/load, with progress lines as they come.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use atoll_image::{Auth, ImportOptions, LayerStatus, Platform, Progress, Reference};
use base64::Engine as _;
use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::images::event;
use crate::{
    engine::{EngineRef, blocking},
    error::{Error, Result},
    http::{
        body::{Body, BodySender},
        request::Request,
        response::{self, Response},
    },
    image_errors,
};

/// A layer's byte counts are sent this often at most.
const TICK: Duration = Duration::from_millis(100);

/// POST /images/create.
pub(crate) async fn create(engine: &EngineRef, request: Request) -> Result<Response> {
    let query = &request.query;
    match (query.text("fromImage"), query.text("fromSrc")) {
        (Some(image), _) => {
            let text = match query.text("tag") {
                Some(tag) if tag.contains(':') => format!("{image}@{tag}"),
                Some(tag) => format!("{image}:{tag}"),
                None => image.to_owned(),
            };
            let reference: Reference = text.parse().map_err(image_errors::convert)?;
            let platform = query.text("platform").map(parse_platform);
            let auth = auth(&request.headers)?;
            pull(engine, reference, platform, auth).await
        }
        (None, Some("-")) => import(engine, request).await,
        (None, Some(_)) => Err(Error::not_implemented(
            "importing from an address is not available; send the archive itself",
        )),
        (None, None) => Err(Error::invalid("neither fromImage nor fromSrc is given")),
    }
}

fn parse_platform(text: &str) -> Platform {
    let mut parts = text.split('/').map(str::to_ascii_lowercase);
    Platform {
        os: parts.next().unwrap_or_default(),
        architecture: parts
            .next()
            .unwrap_or_else(|| super::system::architecture().to_owned()),
        variant: parts.next(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RegistryAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Credentials out of `X-Registry-Auth`: JSON in URL-safe base64.
fn auth(headers: &HeaderMap) -> Result<Option<Auth>> {
    let Some(header) = headers
        .get("x-registry-auth")
        .filter(|value| !value.is_empty())
    else {
        return Ok(None);
    };
    let bad = || Error::invalid("invalid X-Registry-Auth header");
    let text = header.to_str().map_err(|_| bad())?.trim_end_matches('=');
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| bad())?;
    if bytes.iter().all(u8::is_ascii_whitespace) || bytes == b"null" {
        return Ok(None);
    }
    let mut given: RegistryAuth = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    if given.username.is_empty() && !given.auth.is_empty() {
        let pair = base64::engine::general_purpose::STANDARD
            .decode(&given.auth)
            .map_err(|_| bad())?;
        let pair = String::from_utf8(pair).map_err(|_| bad())?;
        let (username, password) = pair.split_once(':').ok_or_else(bad)?;
        (given.username, given.password) = (username.to_owned(), password.to_owned());
    }
    Ok(if !given.registrytoken.is_empty() {
        Some(Auth::RegistryToken(given.registrytoken))
    } else if !given.identitytoken.is_empty() {
        Some(Auth::IdentityToken(given.identitytoken))
    } else if !given.username.is_empty() {
        Some(Auth::Basic {
            username: given.username,
            password: given.password,
        })
    } else {
        None
    })
}

/// Pulls. An error before the first progress line is the answer's status; one after it is a line of its own.
async fn pull(
    engine: &EngineRef,
    reference: Reference,
    platform: Option<Platform>,
    auth: Option<Auth>,
) -> Result<Response> {
    let (sender, mut lines) = mpsc::channel::<Bytes>(64);
    let engine = EngineRef::clone(engine);
    let name = reference.familiar();
    let task = tokio::spawn(async move {
        let mut printer = Printer::default();
        let last = sender.clone();
        let pulled = engine
            .images
            .pull(&reference, platform.as_ref(), auth, move |progress| {
                if let Some(line) = printer.line(&progress) {
                    // A client that is too slow misses byte counts, never the end of a layer.
                    let _ = sender.try_send(line);
                }
            })
            .await
            .map_err(image_errors::convert);
        if pulled.is_ok() {
            event(&engine, "pull", &name, &name);
        } else if let Err(error) = &pulled {
            tracing::warn!(image = name, %error, "pull failed");
        }
        drop(last);
        pulled.map(drop)
    });
    let Some(first) = lines.recv().await else {
        // Ended without a word of progress.
        return match task.await {
            Ok(Ok(())) => Ok(response::body("application/json", Body::empty())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::internal("the pull failed")),
        };
    };
    let (client, body) = Body::channel();
    let stop = task.abort_handle();
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(line) = next {
            if client.send(line).await.is_err() {
                // As dockerd: a pull nobody waits for is given up.
                stop.abort();
                return;
            }
            next = tokio::select! {
                line = lines.recv() => line,
                () = client.closed() => {
                    stop.abort();
                    return;
                }
            };
        }
        if let Ok(Err(error)) = task.await {
            let _ = client.send(error_line(&error)).await;
        }
    });
    Ok(response::body("application/json", body))
}

async fn import(engine: &EngineRef, request: Request) -> Result<Response> {
    let query = &request.query;
    let reference = match (query.text("repo"), query.text("tag")) {
        (None, _) => None,
        (Some(repository), None) => Some(repository.to_owned()),
        (Some(repository), Some(tag)) => Some(format!("{repository}:{tag}")),
    };
    let reference: Option<Reference> = reference
        .map(|text| text.parse().map_err(image_errors::convert))
        .transpose()?;
    let options = ImportOptions {
        reference: reference.clone(),
        changes: query.all("changes").map(ToOwned::to_owned).collect(),
        message: query
            .text("message")
            .unwrap_or("Imported from -")
            .to_owned(),
    };
    let images = engine.images.clone();
    let (reader, feed) = request.into_reader();
    let work = blocking(move || {
        images
            .import(reader, options)
            .map_err(image_errors::convert)
    });
    let (id, ()) = tokio::join!(work, feed);
    let id = id?.to_string();
    event(
        engine,
        "import",
        &id,
        reference
            .map_or(id.clone(), |name| name.familiar())
            .as_str(),
    );
    let line = json!({ "status": id });
    Ok(response::body(
        "application/json",
        Body::full(format!("{line}\r\n")),
    ))
}

/// POST /images/load.
pub(crate) async fn load(engine: &EngineRef, request: Request) -> Result<Response> {
    let images = engine.images.clone();
    let quiet = request.query.flag_or("quiet", true);
    let (reader, feed) = request.into_reader();
    let (client, body) = Body::channel();
    let engine = EngineRef::clone(engine);
    let lines = client.clone();
    let work = blocking(move || {
        let mut printer = Printer::default();
        images
            .load(reader, &mut |progress| {
                if !quiet && let Some(line) = printer.line(&progress) {
                    let _ = lines.try_send(line);
                }
            })
            .map_err(image_errors::convert)
    });
    tokio::spawn(async move {
        let (loaded, ()) = tokio::join!(work, feed);
        finish_load(&engine, &client, loaded).await;
    });
    Ok(response::body("application/json", body))
}

async fn finish_load(
    engine: &EngineRef,
    client: &BodySender,
    loaded: Result<Vec<atoll_image::Loaded>>,
) {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::warn!(%error, "load failed");
            let _ = client.send(error_line(&error)).await;
            return;
        }
    };
    for image in loaded {
        let id = image.id.to_string();
        let words = match &image.reference {
            Some(name) => format!("Loaded image: {name}\n"),
            None => format!("Loaded image ID: {id}\n"),
        };
        event(
            engine,
            "load",
            &id,
            image.reference.as_deref().unwrap_or(&id),
        );
        let _ = client.send(line(&json!({ "stream": words }))).await;
    }
}

fn error_line(error: &Error) -> Bytes {
    let message = error.client_message();
    line(&json!({ "errorDetail": { "message": message }, "error": message }))
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

/// Turns progress into dockerd's lines, byte counts not more often than [`TICK`] per layer.
#[derive(Debug, Default)]
struct Printer {
    counted: HashMap<String, Instant>,
}

impl Printer {
    fn line(&mut self, progress: &Progress) -> Option<Bytes> {
        let value = match progress {
            Progress::Pulling {
                repository,
                selector,
            } => {
                json!({ "status": format!("Pulling from {repository}"), "id": selector })
            }
            Progress::Layer { id, status } => return self.layer(id, *status),
            Progress::Digest(digest) => json!({ "status": format!("Digest: {digest}") }),
            Progress::Status(text) => json!({ "status": format!("Status: {text}") }),
            _ => return None,
        };
        Some(line(&value))
    }

    fn layer(&mut self, id: &str, status: LayerStatus) -> Option<Bytes> {
        let (words, counts) = match status {
            LayerStatus::PullingFsLayer => ("Pulling fs layer", None),
            LayerStatus::Waiting => ("Waiting", None),
            LayerStatus::Downloading {
                current_bytes,
                total_bytes,
            } => ("Downloading", Some((current_bytes, total_bytes))),
            LayerStatus::VerifyingChecksum => ("Verifying Checksum", None),
            LayerStatus::DownloadComplete => ("Download complete", None),
            LayerStatus::Extracting {
                current_bytes,
                total_bytes,
            } => ("Extracting", Some((current_bytes, total_bytes))),
            LayerStatus::Loading {
                current_bytes,
                total_bytes,
            } => ("Loading layer", Some((current_bytes, total_bytes))),
            LayerStatus::PullComplete => ("Pull complete", None),
            LayerStatus::AlreadyExists => ("Already exists", None),
            _ => return None,
        };
        let Some((current, total)) = counts else {
            self.counted.remove(id);
            return Some(line(
                &json!({ "status": words, "progressDetail": {}, "id": id }),
            ));
        };
        let now = Instant::now();
        let is_due = self
            .counted
            .get(id)
            .is_none_or(|last| now.duration_since(*last) >= TICK);
        if !is_due && current < total {
            return None;
        }
        self.counted.insert(id.to_owned(), now);
        Some(line(&json!({
            "status": words,
            "progressDetail": { "current": current, "total": total },
            "progress": progress_bar(current, total),
            "id": id,
        })))
    }
}

/// `[=====>   ]  5MB/10MB`, for clients that print it as it is.
fn progress_bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    if total == 0 {
        return size(current);
    }
    let done = usize::try_from(current.min(total) * WIDTH / total).unwrap_or(0);
    let arrow = if current < total { ">" } else { "" };
    let bar = format!("{}{arrow}", "=".repeat(done));
    format!("[{bar:<50}]  {}/{}", size(current), size(total))
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1000.0 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = if scaled >= 100.0 || unit == 0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_thinned_out_but_ends_are_not() {
        let mut printer = Printer::default();
        let mut downloading = |current_bytes| {
            let status = LayerStatus::Downloading {
                current_bytes,
                total_bytes: 10,
            };
            printer.layer("a", status).is_some()
        };
        assert!(downloading(1));
        assert!(!downloading(2));
        assert!(downloading(10));
        let done = printer.layer("a", LayerStatus::PullComplete).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&done).unwrap(),
            json!({ "status": "Pull complete", "progressDetail": {}, "id": "a" })
        );
    }

    #[test]
    fn credentials_are_read() {
        let header = |json: &str| {
            let text = base64::engine::general_purpose::URL_SAFE.encode(json);
            HeaderMap::from_iter([("x-registry-auth".parse().unwrap(), text.parse().unwrap())])
        };
        assert_eq!(auth(&HeaderMap::new()).unwrap(), None);
        assert_eq!(auth(&header("{}")).unwrap(), None);
        let basic = Auth::Basic {
            username: "u".into(),
            password: "p".into(),
        };
        assert_eq!(
            auth(&header(r#"{"username":"u","password":"p"}"#)).unwrap(),
            Some(basic)
        );
        assert!(auth(&header("{")).is_err());
    }

    #[test]
    fn sizes_read_as_dockers() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(1_500_000), "1.50MB");
        assert!(progress_bar(5, 10).starts_with("[=========================>"));
    }
}
