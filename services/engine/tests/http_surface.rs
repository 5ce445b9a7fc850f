//! What every client of the API sees before any container runs. Needs root, for the layer store.
#![expect(clippy::unwrap_used, reason = "tests")]

mod engine;

use engine::Engine;

#[test]
fn ping_has_dockers_headers() {
    let engine = Engine::start();
    for method in ["GET", "HEAD"] {
        let (head, body) = engine.request(method, "/_ping");
        assert!(head.starts_with("http/1.1 200 ok"), "{head}");
        for header in [
            "api-version: 1.51",
            "ostype: linux",
            "docker-experimental: false",
            "builder-version: 1",
            "swarm: inactive",
            "cache-control: no-cache, no-store, must-revalidate",
            "pragma: no-cache",
            "server: atoll/",
        ] {
            assert!(
                head.contains(header),
                "{method}: {header} is missing in {head}"
            );
        }
        assert_eq!(body, if method == "GET" { "OK" } else { "" });
    }
}

#[test]
fn versions_outside_are_refused_and_unknown_routes_are_json() {
    let engine = Engine::start();
    assert!(engine.request("GET", "/v1.24/version").0.contains(" 200 "));
    let (head, body) = engine.request("GET", "/v1.99/version");
    assert!(head.starts_with("http/1.1 400"));
    assert_eq!(
        body,
        "{\"message\":\"client version 1.99 is too new. Maximum supported API version is 1.51\"}\n"
    );
    assert!(
        engine
            .request("GET", "/v1.23/version")
            .1
            .contains("is too old")
    );
    for (method, target) in [
        ("GET", "/nonsense"),
        ("PUT", "/version"),
        ("GET", "/"),
        ("GET", "/%ff"),
    ] {
        let (head, body) = engine.request(method, target);
        assert!(head.starts_with("http/1.1 404"), "{target}: {head}");
        assert!(head.contains("content-type: application/json"));
        assert_eq!(body, "{\"message\":\"page not found\"}\n");
    }
}

#[test]
fn bad_requests_are_answered_and_nothing_is_left() {
    let engine = Engine::start();
    let (head, body) = engine.post("/containers/create", "{\"Image\":\"nosuch\"}");
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert!(body.contains("No such image: nosuch:latest"), "{body}");
    for (json, status) in [
        ("{", "400"),
        ("[]", "400"),
        ("{}", "400"),
        ("{\"Image\":5}", "400"),
        (
            "{\"Image\":\"host\",\"HostConfig\":{\"Isolation\":\"hyperv\"}}",
            "400",
        ),
        (
            "{\"Image\":\"host\",\"HostConfig\":{\"Isolation\":\"chroot\",\"PidMode\":\"private\"}}",
            "400",
        ),
        (
            "{\"Image\":\"host\",\"HostConfig\":{\"NetworkMode\":\"web\"}}",
            "400",
        ),
        (
            "{\"Image\":\"host\",\"HostConfig\":{\"Binds\":[\"../data:/d\"]}}",
            "400",
        ),
        (
            "{\"Image\":\"host\",\"HostConfig\":{\"CapAdd\":[\"NOPE\"]}}",
            "400",
        ),
        ("{\"Image\":\"host\",\"HostConfig\":{\"Memory\":1}}", "400"),
    ] {
        let (head, body) = engine.post("/containers/create", json);
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{json}: {head} {body}"
        );
        assert!(body.starts_with("{\"message\":"), "{body}");
    }
    assert_eq!(engine.request("GET", "/containers/json?all=1").1, "[]\n");
    let left = std::fs::read_dir(engine.roots().join("data/containers"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn hostile_bytes_do_no_harm() {
    let engine = Engine::start();
    for bytes in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "POST /containers/x/attach\r\n\r\n",
        "POST /containers/x/attach HTTP/1.1\r\n: x\r\n\r\n",
        "GET /containers/json?filters=%7B HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /events?since=99999999999999999999&until=-1 HTTP/1.1\r\nConnection: close\r\n\r\n",
        "POST /containers/create HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        engine.raw(bytes);
    }
    let long = "x".repeat(5 << 20);
    let (head, _) = engine.post("/containers/create", &format!("{{\"Image\":\"{long}\"}}"));
    assert!(head.starts_with("http/1.1 400"), "{head}");
    assert_eq!(engine.request("GET", "/_ping").1, "OK");
}

#[test]
fn plain_hijack_of_nothing_is_an_error() {
    let engine = Engine::start();
    let (head, body) = engine.request("POST", "/containers/nosuch/attach?stream=1");
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert_eq!(body, "{\"message\":\"No such container: nosuch\"}\n");
}

#[test]
fn second_engine_on_the_same_root_is_refused() {
    let engine = Engine::start();
    let refused = Engine::command(engine.roots()).output().unwrap();
    assert!(!refused.status.success());
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        words.contains(&format!("in use by another engine (pid {})", engine.pid())),
        "{words}"
    );
    assert!(words.contains("hint: "), "{words}");
}

#[tokio::test]
async fn bollard_understands_the_answers() {
    let engine = Engine::start();
    let client = engine.client();
    assert_eq!(client.version().await.unwrap().api_version.unwrap(), "1.51");
    let info = client.info().await.unwrap();
    assert_eq!(info.containers, Some(0));
    assert_eq!(info.os_type.unwrap(), "linux");
    let networks = client.list_networks(None).await.unwrap();
    let mut names: Vec<_> = networks
        .into_iter()
        .filter_map(|network| network.name)
        .collect();
    names.sort();
    assert_eq!(names, ["bridge", "host", "none"]);
    assert!(
        client
            .list_volumes(None::<bollard::query_parameters::ListVolumesOptions>)
            .await
            .unwrap()
            .volumes
            .unwrap_or_default()
            .is_empty()
    );
    client.df(None).await.unwrap();
}

#[tokio::test]
async fn containers_are_made_listed_inspected_and_removed() {
    let engine = Engine::start();
    let client = engine.client();
    let (head, body) = engine.post(
        "/containers/create?name=one",
        "{\"Image\":\"host\",\"Cmd\":[\"true\"],\"Env\":null,\"Labels\":{\"a\":\"b\"},\"HostConfig\":{\"NetworkMode\":\"none\"}}",
    );
    assert!(head.starts_with("http/1.1 201"), "{head} {body}");
    let (head, body) = engine.post("/containers/create?name=one", "{\"Image\":\"host\"}");
    assert!(head.starts_with("http/1.1 409"), "{head}");
    assert!(body.contains("The container name \\\"/one\\\" is already in use by container"));

    let inspected = client.inspect_container("one", None).await.unwrap();
    assert_eq!(inspected.name.as_deref(), Some("/one"));
    assert_eq!(
        inspected.state.unwrap().status.unwrap().to_string(),
        "created"
    );
    let list = engine
        .request(
            "GET",
            "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%22%5D%7D",
        )
        .1;
    assert!(list.contains("\"Status\":\"Created\""), "{list}");
    assert_eq!(engine.request("GET", "/containers/json").1, "[]\n");
    assert!(
        engine
            .request("POST", "/containers/one/stop")
            .0
            .starts_with("http/1.1 304")
    );
    assert!(
        engine
            .request("POST", "/containers/one/kill")
            .0
            .starts_with("http/1.1 409")
    );
    assert!(
        engine
            .request("GET", "/containers/one/archive?path=/none")
            .0
            .starts_with("http/1.1 404")
    );
    assert!(
        engine
            .request("POST", "/containers/one/rename?name=two")
            .0
            .starts_with("http/1.1 204")
    );
    assert!(
        engine
            .request("DELETE", "/containers/two")
            .0
            .starts_with("http/1.1 204")
    );
    assert!(
        engine
            .request("GET", "/containers/two/json")
            .0
            .starts_with("http/1.1 404")
    );
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let target = format!(
        "/events?since=1&until={}.{:09}",
        now.as_secs(),
        now.subsec_nanos()
    );
    let events = engine.request("GET", &target).1;
    let actions: Vec<&str> = ["create", "rename", "destroy", "start"]
        .into_iter()
        .filter(|action| events.contains(&format!("\"Action\":\"{action}\"")))
        .collect();
    assert_eq!(actions, ["create", "rename", "destroy"]);
}
