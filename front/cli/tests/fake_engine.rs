//! The client against an engine that is a script: order of requests, streams, exit codes, errors.
//!
//! The real engine's tests are in `tests/`; here the engine's side is under control, byte by byte.
#![expect(clippy::unwrap_used, reason = "a test that meets an error fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};

/// What the engine does with one request; `None` for what it doesn't know.
type Script = dyn Fn(&Request, &mut Connection) -> Option<()> + Send + Sync;

struct Request {
    line: String,
    body: String,
}

struct Connection {
    stream: UnixStream,
    /// Reads what follows the head, of which a part may be here already.
    reader: BufReader<UnixStream>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<String>>,
    has_exited: Mutex<bool>,
    changed: Condvar,
}

impl Connection {
    fn json(&mut self, status: &str, body: &str) {
        let length = body.len();
        self.write(&format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    }

    fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn upgrade(&mut self) {
        self.write("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n");
    }

    fn frame(&mut self, stream: u8, content: &[u8]) {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend(content);
        self.stream.write_all(&bytes).unwrap();
    }

    fn exit(&self) {
        *self.shared.has_exited.lock().unwrap() = true;
        self.shared.changed.notify_all();
    }

    /// Answers a wait: the header now, the code when the container has exited.
    fn wait(&mut self, code: i64) {
        self.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let shared = Arc::clone(&self.shared);
        let mut has_exited = shared.has_exited.lock().unwrap();
        while !*has_exited {
            has_exited = shared.changed.wait(has_exited).unwrap();
        }
        self.write(&format!("{{\"StatusCode\":{code}}}"));
    }
}

struct FakeEngine {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl FakeEngine {
    fn start(
        script: impl Fn(&Request, &mut Connection) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared::default());
        let script: Arc<Script> = Arc::new(script);
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, shared) = (Arc::clone(&script), Arc::clone(&for_thread));
                std::thread::spawn(move || serve(stream, &*script, shared));
            }
        });
        Self {
            _directory: directory,
            socket,
            shared,
        }
    }

    fn atoll(&self, arguments: &str, input: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_atoll"))
            .args(arguments.split(' '))
            .env("ATOLL_HOST", format!("unix://{}", self.socket.display()))
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Method and path of the requests so far, without version and query.
    fn requests(&self) -> Vec<String> {
        self.shared.lines.lock().unwrap().clone()
    }
}

fn serve(stream: UnixStream, script: &Script, shared: Arc<Shared>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let Some(first) = head.first() else { return };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let path = target.split('?').next().unwrap();
    let path = path.strip_prefix("/v1.51").unwrap_or(path);
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let line = format!("{method} {path}");
    shared.lines.lock().unwrap().push(line.clone());
    let mut connection = Connection {
        stream,
        reader,
        shared,
    };
    if line == "GET /_ping" {
        connection.write("HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK");
        return;
    }
    let request = Request {
        line: format!("{method} {}", &target[6..]),
        body: String::from_utf8(body).unwrap(),
    };
    if script(&request, &mut connection).is_none() {
        connection.json(
            "404 Not Found",
            &format!("{{\"message\":\"no route {line}\"}}"),
        );
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn run_attaches_and_waits_before_it_starts_and_demultiplexes() {
    let engine = FakeEngine::start(|request, connection| {
        let (line, _) = request.line.split_once('?').unwrap_or((&request.line, ""));
        match line {
            "POST /containers/create" => {
                assert!(request.body.contains("\"Cmd\":[\"x\"]"), "{}", request.body);
                connection.json("201 Created", "{\"Id\":\"abc\",\"Warnings\":[\"careful\"]}");
            }
            "POST /containers/abc/attach" => {
                connection.upgrade();
                let mut input = Vec::new();
                connection.reader.read_to_end(&mut input).unwrap();
                connection.frame(2, b"to stderr");
                connection.frame(1, &input);
                connection.exit();
            }
            "POST /containers/abc/wait" => {
                assert!(
                    request.line.ends_with("condition=removed"),
                    "{}",
                    request.line
                );
                connection.wait(42);
            }
            "POST /containers/abc/start" => connection.json("204 No Content", ""),
            _ => return None,
        }
        Some(())
    });
    let input: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let output = engine.atoll("run --rm -i image x", &input);
    assert_eq!(text(&output.stderr), "warning: careful\nto stderr");
    assert!(
        output.stdout == input,
        "{} of {} bytes",
        output.stdout.len(),
        input.len()
    );
    assert_eq!(output.status.code(), Some(42));
    let expected = [
        "GET /_ping",
        "POST /containers/create",
        "POST /containers/abc/attach",
        "POST /containers/abc/wait",
        "POST /containers/abc/start",
    ];
    assert_eq!(engine.requests(), expected);
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let cases = [
        ("exec: \\\"x\\\": executable file not found in $PATH", 127),
        ("exec: \\\"/x\\\": stat /x: no such file or directory", 127),
        ("exec: \\\"/etc\\\": permission denied", 126),
        ("exec: \\\"/etc\\\": is a directory", 126),
        ("no cgroup", 125),
    ];
    for (message, code) in cases {
        let engine = FakeEngine::start(move |request, connection| {
            match request.line.split('?').next().unwrap() {
                "POST /containers/create" => connection.json("201 Created", "{\"Id\":\"abc\"}"),
                "POST /containers/abc/start" => {
                    let body = format!("{{\"message\":\"{message}\"}}");
                    connection.json("400 Bad Request", &body);
                }
                _ => return None,
            }
            Some(())
        });
        let output = engine.atoll("run -d image x", b"");
        assert_eq!(output.status.code(), Some(code), "{message}");
        let expected = format!("error: cannot start container\n  because: {message}\n");
        assert_eq!(text(&output.stderr), expected.replace('\\', ""));
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn a_missing_image_is_fetched_and_the_failure_told() {
    let engine = FakeEngine::start(|request, connection| {
        match request.line.split('?').next().unwrap() {
            "POST /containers/create" => {
                connection.json("404 Not Found", "{\"message\":\"No such image: a:latest\"}");
            }
            "POST /images/create" => {
                assert!(
                    request.line.ends_with("fromImage=a&tag=latest"),
                    "{}",
                    request.line
                );
                let events = "{\"status\":\"Pulling\",\"id\":\"latest\"}\r\n\
                              {\"error\":\"digest mismatch\"}\r\n";
                connection.json("200 OK", events);
            }
            _ => return None,
        }
        Some(())
    });
    let output = engine.atoll("run a", b"");
    let expected = "image a is not here: fetching it\nlatest: Pulling\n\
                    error: cannot pull image a\n  because: digest mismatch\n";
    assert_eq!(
        (text(&output.stderr), output.status.code()),
        (expected, Some(125))
    );
    assert_eq!(
        text(&engine.atoll("run --pull never a", b"").stderr)
            .lines()
            .count(),
        3
    );
}

#[test]
fn exec_gives_the_commands_code() {
    let engine = FakeEngine::start(|request, connection| {
        match request.line.split('?').next().unwrap() {
            "POST /containers/web/exec" => connection.json("201 Created", "{\"Id\":\"e1\"}"),
            "POST /exec/e1/start" => {
                connection.upgrade();
                connection.frame(1, b"done\n");
            }
            "GET /exec/e1/json" => connection.json("200 OK", "{\"ExitCode\":3}"),
            _ => return None,
        }
        Some(())
    });
    let output = engine.atoll("exec web -- sh -c x", b"");
    assert_eq!(
        (text(&output.stdout), output.status.code()),
        ("done\n", Some(3))
    );
}

#[test]
fn lists_print_as_tables_json_and_templates() {
    let engine = FakeEngine::start(|request, connection| {
        assert!(
            request.line.starts_with("GET /containers/json"),
            "{}",
            request.line
        );
        connection.json(
            "200 OK",
            "[{\"Id\":\"0123456789abcdef\",\"Names\":[\"/web\"],\"Image\":\"bb\",\
              \"Command\":\"sh\",\"Created\":0,\"State\":\"running\",\"Status\":\"Up 1 second\"}]",
        );
        Some(())
    });
    let table = engine.atoll("ps", b"");
    let lines: Vec<&str> = text(&table.stdout).lines().collect();
    assert!(
        lines[0].starts_with("CONTAINER ID   IMAGE     COMMAND   CREATED"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("0123456789ab   bb        \"sh\""),
        "{}",
        lines[1]
    );
    assert!(
        lines[1].ends_with("Up 1 second             web"),
        "{}",
        lines[1]
    );
    assert_eq!(text(&engine.atoll("ps -q", b"").stdout), "0123456789ab\n");
    assert_eq!(
        text(&engine.atoll("ps -q --no-trunc", b"").stdout),
        "0123456789abcdef\n"
    );
    let line = engine.atoll("ps --format {{.Names}}={{.State}}", b"");
    assert_eq!(text(&line.stdout), "web=running\n");
    let json: serde_json::Value =
        serde_json::from_slice(&engine.atoll("ps --json", b"").stdout).unwrap();
    assert_eq!(json["Names"], "web");
    let wrong = engine.atoll("ps --format {{.Nothing}}", b"");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("there is no field .Nothing"));
}

#[test]
fn several_names_are_each_told() {
    let engine = FakeEngine::start(|request, connection| {
        match request.line.as_str() {
            "DELETE /containers/a?force=1" => connection.json("204 No Content", ""),
            _ => connection.json("404 Not Found", "{\"message\":\"No such container: b\"}"),
        }
        Some(())
    });
    let output = engine.atoll("rm -f a b", b"");
    assert_eq!(
        (text(&output.stdout), output.status.code()),
        ("a\n", Some(1))
    );
    let expected = "error: cannot remove container b\n  because: No such container: b\n\
                    hint: list all containers with `atoll ps -a`\n";
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn an_archive_streams_to_the_engine() {
    let engine = FakeEngine::start(|request, connection| {
        assert_eq!(request.line, "POST /images/load?quiet=1");
        // The body is chunked: read its end mark.
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while !bytes.ends_with(b"0\r\n\r\n") {
            let length = connection.reader.read(&mut buffer).unwrap();
            bytes.extend_from_slice(&buffer[..length]);
        }
        connection.json("200 OK", "{\"stream\":\"Loaded image: bb:latest\\n\"}\r\n");
        Some(())
    });
    let output = engine.atoll("load -q", &[7; 5000]);
    assert_eq!(
        text(&output.stdout),
        "Loaded image: bb:latest\n",
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn nobody_at_the_address_is_told_with_a_hint() {
    let output = Command::new(env!("CARGO_BIN_EXE_atoll"))
        .args(["-H", "tcp://127.0.0.1:1", "ps"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(
        errors.starts_with("error: cannot reach the engine at tcp://127.0.0.1:1\n"),
        "{errors}"
    );
    assert!(
        errors.contains("hint: start one with `atoll engine`"),
        "{errors}"
    );
}
