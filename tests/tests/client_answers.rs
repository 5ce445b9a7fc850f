//! Issue line 1: version, info and empty lists, version negotiation, headers, errors as JSON.

use atoll_tests::Engine;

#[test]
fn docker_cli_gets_sensible_answers_from_an_empty_engine() {
    let engine = Engine::start(&[]);
    let version = engine
        .docker(&["version", "--format", "{{json .Server}}"])
        .ok();
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    assert_eq!(version["ApiVersion"], "1.51");
    assert_eq!(version["MinAPIVersion"], "1.24");
    assert_eq!(version["Os"], "linux");
    let info: serde_json::Value =
        serde_json::from_str(&engine.docker(&["info", "--format", "{{json .}}"]).ok()).unwrap();
    assert_eq!(info["Containers"], 0);
    assert_eq!(info["OSType"], "linux");
    assert_eq!(
        info["DockerRootDir"],
        engine.path("data").display().to_string()
    );
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
    assert_eq!(engine.docker(&["images", "-q"]).ok(), "");
    assert!(
        engine
            .docker(&["ps", "-a"])
            .ok()
            .starts_with("CONTAINER ID")
    );
}

#[test]
fn every_served_version_is_accepted_and_others_get_a_clear_400() {
    let engine = Engine::start(&[]);
    let get = |path: &str| {
        engine.sh(&format!(
            "curl -s -o $T/body -w '%{{http_code}} %{{content_type}}' --unix-socket $SOCKET http://d{path}; echo; cat $T/body"
        ))
        .ok()
    };
    for minor in 24..=51 {
        assert!(
            get(&format!("/v1.{minor}/version")).starts_with("200"),
            "1.{minor}"
        );
    }
    for (version, words) in [("1.23", "too old"), ("1.52", "too new"), ("9.9", "too new")] {
        let answer = get(&format!("/v{version}/version"));
        assert!(answer.starts_with("400 application/json"), "{answer}");
        assert!(
            answer.contains("{\"message\":") && answer.contains(words),
            "{answer}"
        );
    }
    let unknown = get("/v1.51/no/such/thing");
    assert!(unknown.starts_with("404 application/json"), "{unknown}");
    assert!(
        unknown.contains("{\"message\":\"page not found\"}"),
        "{unknown}"
    );
}

#[test]
fn ping_carries_the_headers_the_cli_reads() {
    let engine = Engine::start(&[]);
    for method in ["-X GET", "-I"] {
        let head = engine
            .sh(&format!(
                "curl -s {method} -D - --unix-socket $SOCKET http://d/_ping | tr -d '\\r'"
            ))
            .ok()
            .to_lowercase();
        for wanted in [
            "api-version: 1.51",
            "ostype: linux",
            "docker-experimental: false",
            "builder-version: 1",
            "swarm: inactive",
            "cache-control: no-cache, no-store, must-revalidate",
            "server: ",
        ] {
            assert!(head.contains(wanted), "{method}: no {wanted:?} in {head}");
        }
        assert_eq!(head.ends_with("ok"), method == "-X GET", "{head}");
    }
}

#[test]
fn malformed_requests_get_an_error_and_the_engine_lives_on() {
    let engine = Engine::start(&[]);
    let post = |path: &str, body: &str| {
        engine
            .sh(&format!(
                "curl -s -w ' %{{http_code}}' -H 'Content-Type: application/json' --data-binary '{body}' --unix-socket $SOCKET http://d{path}"
            ))
            .ok()
    };
    assert!(post("/v1.51/containers/create", "{\"Image\": ").ends_with(" 400"));
    assert!(post("/v1.51/containers/create", "[]").ends_with(" 400"));
    assert!(post("/v1.51/containers/create", "{}").ends_with(" 400"));
    assert!(post("/v1.51/containers/create?name=../x", "{\"Image\":\"bb\"}").ends_with(" 400"));
    assert!(post("/v1.51/containers/nosuch/start", "").ends_with(" 404"));
    assert!(engine.raw("GARBAGE\r\n\r\n").contains("400"));
    engine.docker(&["version"]).ok();
}
