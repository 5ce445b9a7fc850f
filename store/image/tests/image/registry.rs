//! `docker pull`, from Debian's docker-registry and from registries that misbehave.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use atoll_image::{Auth, Digest, ImageError, LayerStatus, Progress, Pulled, RegistryErrorKind};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    server::{Answer, Asked, Server},
    support::{Packing, Sandbox, TestImage, tar_of},
};

fn pull(
    sandbox: &Sandbox,
    name: &str,
    auth: Option<Auth>,
) -> (Result<Pulled, ImageError>, Vec<Progress>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut told = Vec::new();
    let reference = name.parse().unwrap();
    let result = runtime.block_on(
        sandbox
            .store
            .pull(&reference, None, auth, |step| told.push(step)),
    );
    (result, told)
}

/// Pulls, expects a failure, and that nothing stays.
fn refused(name: &str) -> ImageError {
    let sandbox = Sandbox::new();
    let before = sandbox.paths();
    let error = pull(&sandbox, name, None).0.expect_err("must be refused");
    assert_eq!(sandbox.paths(), before, "{error}");
    error
}

/// Debian's docker-registry on a free port.
struct Registry {
    child: Child,
    address: String,
    dir: TempDir,
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n",
            dir.path().join("data").display()
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            child,
            address,
            dir,
        }
    }

    /// Pushes with skopeo, as an outside judge of what a registry holds.
    fn push(&self, image: &TestImage, name: &str, format: &str) {
        let archive = self.dir.path().join("push.tar");
        fs::write(
            &archive,
            image.oci_named("org.opencontainers.image.ref.name", "x:1"),
        )
        .unwrap();
        let output = Command::new("skopeo")
            .args([
                "copy",
                "-q",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--format",
                format,
            ])
            .arg(format!("oci-archive:{}:x:1", archive.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn dockers_registry_serves_both_manifest_kinds() {
    let registry = Registry::start();
    let image = TestImage::small(Packing::Gzip);
    for format in ["oci", "v2s2"] {
        registry.push(&image, &format!("bb:{format}"), format);
        let name = format!("{}/bb:{format}", registry.address);
        let sandbox = Sandbox::new();
        let (pulled, told) = pull(&sandbox, &name, None);
        let pulled = pulled.unwrap();
        assert!(!pulled.is_up_to_date);
        assert_eq!(sandbox.file(&name, "b").as_deref(), Some("3"));
        let stored = sandbox.store.resolve(&name).unwrap();
        assert_eq!(stored.repo_tags, [name.as_str()]);
        assert_eq!(
            stored.repo_digests,
            [format!("{}/bb@{}", registry.address, pulled.digest)]
        );
        assert_eq!(
            told[0],
            Progress::Pulling {
                repository: "bb".to_owned(),
                selector: format.to_owned()
            }
        );
        assert_eq!(told[told.len() - 2], Progress::Digest(pulled.digest));
        assert_eq!(
            told[told.len() - 1],
            Progress::Status(format!("Downloaded newer image for {name}"))
        );
        let of_first: Vec<LayerStatus> = told
            .iter()
            .filter_map(|step| match step {
                Progress::Layer { id, status } if *id == image.layers[0].short() => Some(*status),
                _ => None,
            })
            .collect();
        assert_eq!(of_first[0], LayerStatus::PullingFsLayer);
        assert!(of_first.contains(&LayerStatus::VerifyingChecksum));
        assert_eq!(of_first[of_first.len() - 1], LayerStatus::PullComplete);

        let (again, told) = pull(&sandbox, &name, None);
        assert!(again.unwrap().is_up_to_date);
        assert_eq!(
            told[told.len() - 1],
            Progress::Status(format!("Image is up to date for {name}"))
        );
        let by_digest = format!("{}/bb@{}", registry.address, pulled.digest);
        let other = Sandbox::new();
        pull(&other, &by_digest, None).0.unwrap();
        assert_eq!(other.store.resolve(&by_digest).unwrap().id, pulled.image_id);
    }
    let error = refused(&format!("{}/bb:missing", registry.address));
    assert_eq!(
        error.to_string(),
        format!(
            "manifest for {}/bb:missing not found: manifest unknown: manifest unknown",
            registry.address
        )
    );
    assert!(error.is_not_found());
}

#[test]
fn layers_in_the_store_are_not_fetched_again() {
    let registry = Registry::start();
    let base = tar_of([("base", &b"1"[..])]);
    let small = TestImage::new(std::slice::from_ref(&base), Packing::Gzip);
    let large = TestImage::new(&[base, tar_of([("more", &b"2"[..])])], Packing::Gzip);
    registry.push(&small, "small:1", "oci");
    registry.push(&large, "large:1", "oci");
    let sandbox = Sandbox::new();
    pull(&sandbox, &format!("{}/small:1", registry.address), None)
        .0
        .unwrap();
    let (pulled, told) = pull(&sandbox, &format!("{}/large:1", registry.address), None);
    pulled.unwrap();
    let id = large.layers[0].short();
    let statuses: Vec<_> = told
        .iter()
        .filter(|step| matches!(step, Progress::Layer { id: found, .. } if *found == id))
        .collect();
    assert_eq!(
        statuses,
        [&Progress::Layer {
            id,
            status: LayerStatus::AlreadyExists
        }]
    );
}

#[test]
fn many_layers_and_several_pulls_at_once_give_whole_images() {
    let registry = Registry::start();
    let big = vec![7; 1_000_000];
    let layers: Vec<Vec<u8>> = (0..8)
        .map(|number| {
            tar_of([
                (format!("f{number}").as_str(), &big[..]),
                ("last", &[number][..]),
            ])
        })
        .collect();
    let image = TestImage::new(
        &[layers.clone(), vec![layers[2].clone()]].concat(),
        Packing::Gzip,
    );
    registry.push(&image, "many:1", "oci");
    let name = format!("{}/many:1", registry.address);
    let sandbox = Sandbox::new();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| pull(&sandbox, &name, None).0))
            .collect();
        for pulled in pulls {
            assert_eq!(pulled.join().unwrap().unwrap().image_id, image.id);
        }
    });
    assert_eq!(sandbox.store.layers().list().unwrap().len(), 9);
    assert_eq!(sandbox.file(&name, "last").as_deref(), Some("\u{2}"));
    assert_eq!(
        fs::read_dir(sandbox.dir.path().join("tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_registry_that_is_not_there_is_said_in_dockers_words() {
    let error = refused("127.0.0.1:1/bb");
    assert_eq!(
        error.to_string(),
        "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
    assert!(matches!(
        error,
        ImageError::Registry {
            kind: RegistryErrorKind::Network,
            ..
        }
    ));
    assert!(error.hint().is_some());
}

/// Answers as a right registry would.
fn right(image: &TestImage, asked: &Asked) -> Answer {
    let last = asked.target.rsplit('/').next().unwrap();
    let digest = if last == "1" {
        image.manifest
    } else {
        last.parse().unwrap()
    };
    match image.blobs.get(&digest) {
        Some(bytes) => Answer::ok(bytes),
        None => Answer::status("404 Not Found", ""),
    }
}

#[test]
fn broken_transfers_go_on_where_they_stopped() {
    let noise: Vec<u8> = (0..400_000u32)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
        .collect();
    let image = TestImage::new(&[tar_of([("noise", &noise[..])])], Packing::Gzip);
    for knows_ranges in [true, false] {
        let made = image.clone();
        let tries = AtomicUsize::new(0);
        let layer = image.layers[0];
        let server = Server::start(move |asked| {
            let mut answer = right(&made, asked);
            if !asked.target.ends_with(&layer.to_string()) {
                return answer;
            }
            let range = asked.headers.get("range").map(|range| {
                range
                    .trim_start_matches("bytes=")
                    .trim_end_matches('-')
                    .parse::<usize>()
                    .unwrap()
            });
            if let Some(offset) = range.filter(|_| knows_ranges) {
                answer.status = "206 Partial Content";
                let total = answer.body.len();
                answer.headers.push((
                    "Content-Range",
                    format!("bytes {offset}-{}/{total}", total - 1),
                ));
                answer.body.drain(..offset);
            }
            // Three hang-ups, each a little further.
            let number = tries.fetch_add(1, Ordering::SeqCst);
            if number < 3 {
                answer.cut_at = Some((200_000 * (number + 1)).min(answer.body.len() / 2));
            }
            answer
        });
        let sandbox = Sandbox::new();
        pull(&sandbox, &format!("{}/bb:1", server.address), None)
            .0
            .unwrap();
        assert_eq!(
            fs::read_dir(sandbox.dir.path().join("tmp"))
                .unwrap()
                .count(),
            0
        );
        assert_eq!(
            server.targets().len(),
            6,
            "manifest, configuration, layer four times"
        );
    }
}

#[test]
fn wrong_content_is_refused() {
    let wrong_layer = |packing: Packing| {
        let mut image = TestImage::small(packing);
        let other = packing.pack(&tar_of([("b", &b"4"[..])]));
        let layer = image.layers[1];
        let size = image.blobs[&layer].len();
        assert!(other.len() == size || packing == Packing::Gzip);
        image.blobs.insert(layer, other);
        image
    };
    let image = wrong_layer(Packing::Plain);
    let server = Server::start(move |asked| right(&image, asked));
    let error = refused(&format!("{}/bb:1", server.address));
    assert!(matches!(error, ImageError::BlobDigest { .. }), "{error:?}");

    // The digest is named also when the bytes are no gzip at all.
    let mut image = TestImage::small(Packing::Gzip);
    let layer = image.layers[1];
    image.blobs.get_mut(&layer).unwrap().fill(b'x');
    let server = Server::start(move |asked| right(&image, asked));
    let error = refused(&format!("{}/bb:1", server.address));
    assert!(matches!(error, ImageError::BlobDigest { .. }), "{error:?}");

    let mut image = TestImage::small(Packing::Gzip);
    image
        .blobs
        .get_mut(&TestImage::small(Packing::Gzip).id)
        .unwrap()
        .push(b'\n');
    let server = Server::start(move |asked| right(&image, asked));
    refused(&format!("{}/bb:1", server.address));

    // The manifest asked for by digest is another one.
    let image = TestImage::small(Packing::Gzip);
    let wanted = Digest::of(b"other");
    let bytes = image.blobs[&image.manifest].clone();
    let server = Server::start(move |_| Answer::ok(&bytes));
    let error = refused(&format!("{}/bb@{wanted}", server.address));
    assert!(matches!(error, ImageError::BlobDigest { .. }), "{error:?}");

    // A body longer than its descriptor says.
    let mut image = TestImage::small(Packing::Gzip);
    let layer = image.layers[0];
    image.blobs.get_mut(&layer).unwrap().extend([0; 100]);
    let server = Server::start(move |asked| right(&image, asked));
    let error = refused(&format!("{}/bb:1", server.address));
    assert!(
        error.to_string().contains("longer than its size"),
        "{error}"
    );
}

#[test]
fn manifests_that_are_too_large_or_nonsense_are_refused() {
    for body in [
        vec![b' '; (4 << 20) + 1],
        b"{}".to_vec(),
        b"<html>".to_vec(),
        Vec::new(),
    ] {
        let server = Server::start(move |_| Answer::ok(&body));
        refused(&format!("{}/bb:1", server.address));
    }
    let chart = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": Digest::of(b""), "size": 0},
        "layers": [],
    });
    let server = Server::start(move |_| Answer::ok(chart.to_string().as_bytes()));
    let error = refused(&format!("{}/bb:1", server.address));
    assert!(
        error
            .to_string()
            .contains("is not an image's configuration"),
        "{error}"
    );
}

#[test]
fn an_index_leads_to_this_machines_image() {
    let mut image = TestImage::small(Packing::Zstd);
    let mut entry = image.descriptor(&image.manifest);
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = image.put(&json!({"schemaVersion": 2, "manifests": [entry]}));
    image.manifest = index;
    let id = image.id;
    let server = Server::start(move |asked| right(&image, asked));
    let sandbox = Sandbox::new();
    let pulled = pull(&sandbox, &format!("{}/bb:1", server.address), None)
        .0
        .unwrap();
    assert_eq!((pulled.image_id, pulled.digest), (id, index));
}

#[test]
fn tokens_are_fetched_when_the_registry_wants_them() {
    let image = TestImage::small(Packing::Gzip);
    let address: std::sync::Arc<std::sync::Mutex<String>> = std::sync::Arc::default();
    let realm = std::sync::Arc::clone(&address);
    let server = Server::start(move |asked| {
        if let Some(query) = asked.target.strip_prefix("/token?") {
            assert_eq!(query, "service=reg&scope=repository%3Abb%3Apull");
            return match asked.headers.get("authorization").map(String::as_str) {
                // me:secret
                Some("Basic bWU6c2VjcmV0") => Answer::ok(br#"{"token":"good"}"#),
                _ => Answer::status("401 Unauthorized", ""),
            };
        }
        if asked.headers.get("authorization").map(String::as_str) == Some("Bearer good") {
            return right(&image, asked);
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"reg\"",
            realm.lock().unwrap()
        );
        Answer::status("401 Unauthorized", "").header("WWW-Authenticate", challenge)
    });
    address.lock().unwrap().clone_from(&server.address);
    let name = format!("{}/bb:1", server.address);
    let auth = |password: &str| {
        Some(Auth::Basic {
            username: "me".to_owned(),
            password: password.to_owned(),
        })
    };
    pull(&Sandbox::new(), &name, auth("secret")).0.unwrap();
    for auth in [auth("wrong"), None] {
        let error = pull(&Sandbox::new(), &name, auth).0.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "pull access denied for {}/bb, repository does not exist or may require \
                 'docker login': unauthorized: unauthorized",
                server.address
            )
        );
    }
}

#[test]
fn credentials_do_not_follow_redirects_to_other_hosts() {
    let image = TestImage::small(Packing::Gzip);
    let blobs = image.blobs.clone();
    let storage = Server::start(move |asked| {
        let digest: Digest = asked
            .target
            .trim_start_matches("/storage/")
            .parse()
            .unwrap();
        Answer::ok(&blobs[&digest])
    });
    let target = storage.address.clone();
    let server = Server::start(move |asked| {
        if asked.headers.get("authorization").map(String::as_str) != Some("Basic bWU6c2VjcmV0") {
            return Answer::status("401 Unauthorized", "")
                .header("WWW-Authenticate", "Basic realm=x");
        }
        match asked.target.rsplit_once("/blobs/") {
            Some((_, digest)) => Answer::status("307 Temporary Redirect", "")
                .header("Location", format!("http://{target}/storage/{digest}")),
            None => right(&image, asked),
        }
    });
    let auth = Auth::Basic {
        username: "me".to_owned(),
        password: "secret".to_owned(),
    };
    let name = format!("{}/bb:1", server.address);
    pull(&Sandbox::new(), &name, Some(auth)).0.unwrap();
    let asked = storage.asked.lock().unwrap();
    assert_eq!(asked.len(), 3);
    assert!(
        asked
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
}

#[test]
fn a_dropped_pull_leaves_nothing() {
    let image = TestImage::new(&[tar_of([("a", &[7; 100_000][..])])], Packing::Plain);
    let layer = image.layers[0];
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = Server::start(move |asked| {
        if asked.target.ends_with(&layer.to_string()) {
            // Until the test has dropped the pull.
            let _released = held.lock().unwrap().recv();
        }
        right(&image, asked)
    });
    let sandbox = Sandbox::new();
    let before = sandbox.paths();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reference = format!("{}/bb:1", server.address).parse().unwrap();
    runtime.block_on(async {
        let pull = sandbox.store.pull(&reference, None, None, |_| {});
        let timeout = tokio::time::timeout(Duration::from_millis(500), pull).await;
        assert!(timeout.is_err(), "the server holds the layer back");
    });
    drop(release);
    // Waits for the threads that were feeding the layer.
    drop(runtime);
    assert_eq!(sandbox.paths(), before);
}
