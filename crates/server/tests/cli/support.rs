//! A running engine on a free port, and the commands that are run against it.

use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspace-engine");

/// Timeout of each wait, long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The outcome of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the program to its end, with all `WORKSPACE_ENGINE_…` variables of the tests removed.
pub(crate) fn run(arguments: &[&str], input: &str) -> Ran {
    let mut child = program()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // The program may end before it has read all input.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The program, with all `WORKSPACE_ENGINE_…` variables of the tests removed.
pub(crate) fn program() -> Command {
    program_as(PROGRAM)
}

fn program_as(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WORKSPACE_ENGINE_") {
            command.env_remove(name);
        }
    }
    command
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// Its `WWW-Authenticate` header.
    pub(crate) challenge: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An address that no other process gets and on which nothing answers: its socket is bound but never listens. An
/// engine can still listen there, because both sockets allow reuse of the address.
pub(crate) struct Reserved {
    pub(crate) address: SocketAddr,
    _socket: tokio::net::TcpSocket,
}

impl Reserved {
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            _socket: socket,
        }
    }
}

/// A running engine; killed when dropped.
pub(crate) struct Engine {
    child: Child,
    pub(crate) url: String,
    directory: PathBuf,
    flags: Vec<String>,
    /// Commands of a shell that then executes the engine, such as to lower a limit.
    before: Option<String>,
    temporary: Option<TempDir>,
}

impl Engine {
    /// An engine in its own directory.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut engine = Self::start_in(&temporary.path().join("data"), flags);
        engine.temporary = Some(temporary);
        engine
    }

    /// An engine in its own directory; does not wait until it is open.
    pub(crate) fn begin(flags: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("data");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (child, url) = spawn(&directory, &flags, None);
        Self {
            child,
            url,
            directory,
            flags,
            before: None,
            temporary: Some(temporary),
        }
    }

    pub(crate) fn start_in(directory: &Path, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::start_as(directory, flags, None)
    }

    /// An engine in its own directory, with a limit that a shell sets first.
    pub(crate) fn start_limited(limit: &str, flags: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let directory = temporary.path().join("data");
        let mut engine = Self::start_as(&directory, flags, Some(limit.to_owned()));
        engine.temporary = Some(temporary);
        engine
    }

    fn start_as(directory: &Path, flags: Vec<String>, before: Option<String>) -> Self {
        let (child, url) = spawn(directory, &flags, before.as_deref());
        let mut engine = Self {
            child,
            url,
            directory: directory.to_owned(),
            flags,
            before,
            temporary: None,
        };
        engine.wait_until_open();
        engine
    }

    /// The socket answers before the log is open.
    fn wait_until_open(&mut self) {
        wait_until("the engine is ready", || {
            assert!(self.child.try_wait().unwrap().is_none(), "the engine ended");
            self.get("/readyz").status == 200
        });
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Sends SIGTERM and waits until it ends.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL, so that it saves nothing more.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again in the same directory, on another port.
    pub(crate) fn restart(&mut self) {
        (self.child, self.url) = spawn(&self.directory, &self.flags, self.before.as_deref());
        self.wait_until_open();
    }

    /// Runs a command against this engine.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Ran {
        run(&[arguments, &["--url", &self.url]].concat(), input)
    }

    /// Sends events that must be accepted.
    pub(crate) fn produce(&self, input: &str) {
        let ran = self.run(&["produce", "-"], input);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Sends events that must be accepted although the workspace type cannot apply them.
    pub(crate) fn produce_unchecked(&self, input: &str) {
        let ran = self.run(&["produce", "-", "--no-check"], input);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Waits until a workspace is in a state.
    pub(crate) fn wait_for(&self, id: &str, state: &str) {
        let arguments = ["wait", id, "--for", state, "--fail-on", "none"];
        let ran = self.run(&arguments, "");
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        get(&format!("{}{path}", self.url))
    }

    /// Sends a request with any method.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> Answer {
        send(method, &format!("{}{path}", self.url), headers, body)
    }

    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = agent().post(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send(body))
    }

    pub(crate) fn post_json(&self, path: &str, document: &Value) -> Answer {
        let body = document.to_string();
        let headers = [("content-type", "application/json")];
        self.post(path, &headers, body.as_bytes())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        answer(agent().delete(format!("{}{path}", self.url)).call())
    }

    /// Polls until a document is as expected, and returns it.
    pub(crate) fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(path, || {
            let document = self.get(path).json();
            if is_so(&document) {
                Ok(document)
            } else {
                Err(document)
            }
        })
    }

    pub(crate) fn post_events(&self, body: &str) -> Answer {
        self.post(
            "/api/v1/events",
            &[("content-type", "application/x-ndjson")],
            body.as_bytes(),
        )
    }
}

impl Engine {
    /// Resident memory of the process.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib << 10
    }
}

/// A connection on which a test controls the exact bytes sent, and when it reads.
pub(crate) struct Raw(BufReader<TcpStream>);

/// An answer received over a [`Raw`] connection.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl RawAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        Some(value)
    }
}

impl Raw {
    pub(crate) fn open(engine: &Engine) -> Self {
        let address = engine.url.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).unwrap();
        // A test that waits for longer has failed.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The answer to a request without a body, such as `GET /livez`.
    pub(crate) fn request(&mut self, request: &str) -> RawAnswer {
        self.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        self.answer()
    }

    /// As [`Raw::request`], with a token; `None` where the connection is closed.
    pub(crate) fn try_request_as(&mut self, token: &str, request: &str) -> Option<RawAnswer> {
        let request = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n",
            bearer(token)
        );
        self.0.get_mut().write_all(request.as_bytes()).ok()?;
        self.try_answer()
    }

    /// Waits for the first bytes of an answer, and leaves the rest unread.
    pub(crate) fn wait_for_answer(&mut self) {
        assert!(!self.0.fill_buf().unwrap().is_empty(), "no answer");
    }

    /// As [`Raw::request`]; `None` where the connection is closed.
    pub(crate) fn try_request(&mut self, request: &str) -> Option<RawAnswer> {
        let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).ok()?;
        self.try_answer()
    }

    /// Reads the next answer.
    pub(crate) fn answer(&mut self) -> RawAnswer {
        self.try_answer().unwrap()
    }

    fn try_answer(&mut self) -> Option<RawAnswer> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim_end().is_empty() {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let status = lines.first()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .iter()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = RawAnswer {
            status,
            headers,
            body: String::new(),
        };
        let length = answer
            .header("content-length")
            .unwrap_or("0")
            .parse()
            .ok()?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        answer.body = String::from_utf8(body).ok()?;
        Some(answer)
    }
}

/// A tokens file in its own directory.
pub(crate) struct TokensFile {
    directory: TempDir,
    lines: BTreeMap<String, String>,
}

impl TokensFile {
    pub(crate) fn new() -> Self {
        let file = Self {
            directory: tempfile::tempdir().unwrap(),
            lines: BTreeMap::new(),
        };
        file.write();
        file
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("tokens.toml")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its lines, by caller name.
    pub(crate) fn lines(&self) -> &BTreeMap<String, String> {
        &self.lines
    }

    pub(crate) fn text(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    /// Creates a token with the command and adds its line.
    pub(crate) fn add(&mut self, name: &str, flags: &[&str]) -> String {
        let ran = run(&[&["token", name, "-o", "json"], flags].concat(), "");
        assert_eq!(ran.code, 0, "{ran:?}");
        let document = ran.json();
        let line = document["line"].as_str().unwrap().to_owned();
        self.lines.insert(name.to_owned(), line);
        self.write();
        document["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.lines.remove(name);
        self.write();
    }

    fn write(&self) {
        let lines: String = self.lines.values().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        });
        fs::write(self.path(), lines).unwrap();
    }
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path, flags: &[String], before: Option<&str>) -> (Child, String) {
    let mut command = match before {
        None => program(),
        Some(before) => {
            let mut shell = program_as("sh");
            shell.args(["-c", &format!("{before} && exec \"$0\" \"$@\""), PROGRAM]);
            shell
        }
    };
    let listen: &[&str] = if flags.iter().any(|flag| flag == "--listen") {
        &[]
    } else {
        &["--listen", "127.0.0.1:0"]
    };
    let mut child = command
        .arg("serve")
        .args(listen)
        .args([
            "--log-level",
            "error,workspace_engine::audit=off",
            // Other tests need the CPU as much as this engine does.
            "--engine-nice",
            "0",
            "--data-dir",
        ])
        .arg(directory)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let url = first_url(&mut child);
    (child, url)
}

/// The URL on which a program listens, from its first line.
pub(crate) fn first_url(child: &mut Child) -> String {
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    let url = first
        .trim()
        .strip_prefix("workspace-engine listens on ")
        .unwrap_or_else(|| panic!("no URL in {first:?}"))
        .to_owned();
    // Further output is not expected, but a full pipe would block the program.
    std::thread::spawn(move || std::io::copy(&mut stdout.by_ref(), &mut std::io::sink()));
    url
}

/// Sends a request with any method to a URL.
pub(crate) fn send(method: &str, url: &str, headers: &[(&str, String)], body: &[u8]) -> Answer {
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    if method == "GET" {
        return answer(agent().run(request.body(()).unwrap()));
    }
    answer(agent().run(request.body(body.to_vec()).unwrap()))
}

/// Gets a URL without borrowing the engine.
pub(crate) fn get(url: &str) -> Answer {
    answer(agent().get(url).call())
}

/// The answer at a URL, where one arrives.
pub(crate) fn try_get(url: &str) -> Option<Answer> {
    let response = agent().get(url).call().ok()?;
    Some(answer(Ok(response)))
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .proxy(None)
        .build()
        .into()
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = response.unwrap();
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    Answer {
        status: response.status().as_u16(),
        content_type: header("content-type").unwrap_or_default(),
        challenge: header("www-authenticate").unwrap_or_default(),
        text: response.body_mut().read_to_string().unwrap(),
    }
}

/// A line that sets a resource of a workspace.
pub(crate) fn event(workspace: &str, id: &str) -> String {
    format!(
        "{{\"eventType\":\"resource.created\",\"workspaceId\":\"{workspace}\",\"timestamp\":1,\"data\":{{\"id\":\"{id}\"}}}}\n"
    )
}

/// Polls until `poll` succeeds; its last error is shown where it never does.
pub(crate) fn eventually<T, E: Debug>(what: &str, mut poll: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match poll() {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < deadline, "never: {what}: {last:?}"),
        }
        // Polling without a pause would take CPU time from the engine.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As [`eventually`], for an answer that is as expected or not.
pub(crate) fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    eventually(what, || poll().ok_or("it is not so"))
}

/// As [`until`], for a condition.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || is_so().then_some(()));
}
