//! The small commands: what packages, containers and editors ask of the binary.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::egret::command;
use crate::support::peer::{command_at, packaged, run};
use crate::support::{Egret, Folder, client, egret};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn printed(args: &[&str]) -> String {
    let output = egret(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn healthcheck_says_what_readyz_says() {
    let mut egret = Egret::start();
    let admin = egret.admin().to_string();
    let healthcheck = |admin: &str| super::support::egret(&["healthcheck", "--admin", admin]);
    let output = healthcheck(&admin);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "ready\n"));
    let by_variable = command(&["healthcheck"]).env("EGRET_ADMIN", &admin).output().unwrap();
    assert_eq!(by_variable.status.code(), Some(0), "{}", text(&by_variable));
    // A tunnel keeps the drain going.
    let origin = super::support::origin::Origin::echo();
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    egret.signal(rustix::process::Signal::QUIT);
    super::support::eventually("healthcheck says no", || healthcheck(&admin).status.code() == Some(1));
    assert!(text(&healthcheck(&admin)).contains("not ready: 503 draining"), "{}", text(&healthcheck(&admin)));
    assert!(client::echoes(&mut tunnel, b"still there"));
    drop(tunnel);
    assert_eq!(egret.wait().code(), Some(0));
    let output = healthcheck(&admin);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("refused"), "{}", text(&output));
}

#[test]
fn healthcheck_finds_the_port_in_the_settings_and_does_not_wait_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = Folder::with_settings(&format!("admin: {{ address: \"{address}\" }}\n"));
    let settings = folder.settings();
    let answer = std::thread::spawn(move || {
        let (mut ready, _) = listener.accept().unwrap();
        let mut request = [0; 512];
        let read = ready.read(&mut request).unwrap();
        ready.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        drop(ready);
        let (silent, _) = listener.accept().unwrap();
        (String::from_utf8_lossy(&request[..read]).into_owned(), silent, listener)
    });
    let args = ["healthcheck".as_ref(), "-c".as_ref(), settings.as_os_str()];
    assert_eq!(egret(&args).status.code(), Some(0));
    let started = std::time::Instant::now();
    let late = egret(&[&args[..], &["--timeout".as_ref(), "200ms".as_ref()]].concat());
    assert_eq!(late.status.code(), Some(1), "{}", text(&late));
    assert!(text(&late).contains("no answer in time") && started.elapsed() < super::support::PATIENCE);
    let (request, ..) = answer.join().unwrap();
    assert!(request.starts_with("GET /readyz HTTP/1.0\r\n"), "{request}");
    assert_eq!(egret(&["healthcheck", "--timeout", "0s"]).status.code(), Some(64));
    assert_eq!(egret(&["healthcheck", "--admin", "off"]).status.code(), Some(1));
}

/// Debian's jsonschema, for Debian's Python: nobody's own Python has it.
const VALIDATE: &str = "
import json, sys, yaml
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
for path in sys.argv[2:]:
    for error in Draft202012Validator(schema).iter_errors(yaml.safe_load(open(path)) or {}):
        print(path.rsplit('/', 1)[-1], error.json_path, error.validator)
";

#[test]
fn the_schema_takes_every_example_and_finds_mistakes() {
    let folder = Folder::new();
    let schema = folder.write("schema.json", &printed(&["schema"]));
    let validate = |files: &[&Path]| {
        let mut python = command_at(packaged("/usr/bin/python3"));
        run(python.args(["-c", VALIDATE]).arg(&schema).args(files)).succeeded()
    };
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let examples = ["egret.yaml", "registry-only.yaml", "parent-proxy.yaml", "container.yaml"];
    let examples = examples.map(|name| conf.join(name));
    assert_eq!(validate(&examples.each_ref().map(|path| path.as_path())), "");
    let wrong = folder.write(
        "wrong.yaml",
        "thread: 1\nthreads: many\ndrain: soon\nlimits: { headBytes: 32kb, tunnels: 0, idlePool: 0 }\nonRevoke: shut\n\
         listeners: [{ name: 7 }]\nadmin: on\ndns: { servers: system, family: v5 }\nsecrets: [{ name: a }]\n",
    );
    let mut found: Vec<String> = validate(&[&wrong]).lines().map(ToOwned::to_owned).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "wrong.yaml $ additionalProperties",
            "wrong.yaml $.admin anyOf",
            "wrong.yaml $.dns.family enum",
            "wrong.yaml $.drain anyOf",
            "wrong.yaml $.limits.headBytes anyOf",
            "wrong.yaml $.limits.tunnels minimum",
            "wrong.yaml $.listeners[0].name type",
            "wrong.yaml $.onRevoke enum",
            "wrong.yaml $.secrets[0] required",
            "wrong.yaml $.threads type",
        ]
    );
}

#[test]
fn completions_are_scripts_that_their_shell_takes() {
    let folder = Folder::new();
    let script = folder.write("egret.bash", &printed(&["completions", "bash"]));
    let complete =
        "source \"$1\"; COMP_WORDS=(egret heal); COMP_CWORD=1; _egret egret heal egret; echo \"${COMPREPLY[@]}\"";
    let mut bash = command_at(packaged("/bin/bash"));
    let ran = run(bash.args(["--norc", "-c", complete, "bash"]).arg(&script));
    assert_eq!(ran.succeeded().trim(), "healthcheck");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(printed(&["completions", shell]).contains("healthcheck"), "{shell}");
    }
    assert_eq!(egret(&["completions", "tcsh"]).status.code(), Some(64));
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH egret 1") && page.contains("egret\\-explain(1)"), "{page}");
    let folder = Folder::new();
    let pages = folder.path().join("man1");
    let output = egret(&["man".as_ref(), "--dir".as_ref(), pages.as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let run_page = std::fs::read_to_string(pages.join("egret-run.1")).unwrap();
    assert!(run_page.contains("EGRET_LISTEN") && run_page.contains("\\-\\-allow\\-address"), "{run_page}");
    assert!(pages.join("egret.1").is_file() && pages.join("egret-healthcheck.1").is_file());
    let occupied = folder.write("file", "");
    let output = egret(&["man".as_ref(), "--dir".as_ref(), occupied.as_os_str()]);
    assert_eq!(output.status.code(), Some(73), "{}", text(&output));
}

#[test]
fn the_version_is_said_to_people_and_to_programs() {
    assert_eq!(printed(&["version"]), printed(&["--version"]));
    let json: Value = serde_json::from_str(&printed(&["version", "--json"])).unwrap();
    assert_eq!((&json["name"], &json["version"]), (&"egret".into(), &env!("CARGO_PKG_VERSION").into()));
    assert!(json["features"].is_array() && json["arch"] == std::env::consts::ARCH, "{json}");
}

#[test]
fn flags_can_be_said_by_the_environment() {
    let mut run = command(&["run"]);
    run.envs([
        ("EGRET_LISTEN", "127.0.0.1:0"),
        ("EGRET_ADMIN", "127.0.0.1:0"),
        ("EGRET_ALLOW_ADDRESS", "127.0.0.0/8,::1"),
    ]);
    let egret = Egret::spawn_command(run);
    let origin = super::support::origin::Origin::echo();
    assert!(client::echoes(&mut client::tunnel(egret.proxy(), origin.address), b"let through"));
    let folder = Folder::with_settings("mesh: { accessLogFile: /no/such/folder/access.log }\n");
    let check = |strict| {
        let mut check = command(&["check"]);
        check.env("EGRET_CONFIG", folder.settings()).env("EGRET_STRICT", strict).env("EGRET_OUTPUT", "json");
        check.output().unwrap()
    };
    assert_eq!(check("true").status.code(), Some(1));
    let lax = check("false");
    assert_eq!(lax.status.code(), Some(0));
    assert!(serde_json::from_slice::<Value>(&lax.stdout).unwrap()["ok"].as_bool().unwrap());
}

/// A proxy whose admin port is a socket in its folder; gives the argument that names it.
fn with_socket(settings: &str) -> (Folder, Egret, String) {
    let folder = Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         admin: {{ address: unix:admin.sock }}\n{settings}"
    ));
    let egret = Egret::spawn(&["run".as_ref(), "-c".as_ref(), folder.settings().as_os_str()]);
    let admin = format!("unix:{}", folder.path().join("admin.sock").display());
    (folder, egret, admin)
}

#[test]
fn reload_says_what_came_of_it() {
    let (folder, egret, admin) = with_socket("");
    let reload = |args: &[&str]| super::support::egret(&[&["reload", "--admin", &admin], args].concat());
    let output = reload(&[]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "reloaded: generation 2\n"));
    let good = std::fs::read_to_string(folder.settings()).unwrap();
    folder.write("egret.yaml", &(good.clone() + "thread: 1\n"));
    let output = reload(&[]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    assert!(text(&output).contains("did you mean `threads`?") && text(&output).contains("the old configuration stays"));
    let output = reload(&["-o", "json"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["ok"], false);
    folder.write("egret.yaml", &good);
    assert_eq!(reload(&[]).status.code(), Some(0));
    drop(egret);
    assert_eq!(reload(&[]).status.code(), Some(69));
}

#[test]
fn over_tcp_a_change_needs_the_token() {
    let folder = Folder::new();
    let token = folder.write("token", "0123456789abcdef\n");
    let settings = folder.write("egret.yaml", "admin: { address: \"127.0.0.1:0\", tokenFile: token }\n");
    let egret = Egret::spawn(&[
        "run".as_ref(),
        "--listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "-c".as_ref(),
        settings.as_os_str(),
    ]);
    let admin = egret.admin().to_string();
    let reload = |with: &[&str]| super::support::egret(&[&["reload", "--admin", &admin], with].concat());
    let output = reload(&[]);
    assert_eq!(output.status.code(), Some(77), "{}", text(&output));
    assert_eq!(reload(&["--token-file", token.to_str().unwrap()]).status.code(), Some(0));
    assert_eq!(reload(&["-c", settings.to_str().unwrap()]).status.code(), Some(0), "the settings name the file");
    let wrong = folder.write("wrong", "fedcba9876543210\n");
    assert_eq!(reload(&["--token-file", wrong.to_str().unwrap()]).status.code(), Some(77));
    assert_eq!(reload(&["--token-file", "/nowhere/token"]).status.code(), Some(69));
}

#[test]
fn drain_begins_the_orderly_end() {
    let (_folder, mut egret, admin) = with_socket("drain: 20s\n");
    let origin = super::support::origin::Origin::echo();
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    let output = super::support::egret(&["drain", "--admin", &admin]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "draining: 1 tunnels have 20 s\n"));
    drop(tunnel.write(b"x"));
    drop(tunnel);
    assert_eq!(egret.wait().code(), Some(0));
}

#[test]
fn top_runs_in_a_terminal_of_80_by_24_and_quits() {
    let (folder, egret, admin) = with_socket("");
    let origin = super::support::origin::Origin::echo();
    let _tunnel = client::tunnel(egret.proxy(), origin.address);
    let typescript = folder.path().join("typescript");
    let top =
        format!("stty rows 24 cols 80; exec {} top --interval 100ms --admin {admin}", env!("CARGO_BIN_EXE_egret"));
    let mut script = command_at(packaged("/usr/bin/script"));
    script.env("TERM", "xterm").env("NO_COLOR", "1").stdin(std::process::Stdio::piped());
    script.args(["-qefc", &top]).arg(&typescript).stdout(std::process::Stdio::null());
    let mut child = script.spawn().unwrap();
    let shown = || String::from_utf8_lossy(&std::fs::read(&typescript).unwrap_or_default()).into_owned();
    super::support::eventually("the tunnel is shown", || shown().contains(&origin.address.to_string()));
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"/XYZXYZ\r").unwrap();
    // Capitals: cells that stay as they were are not written again.
    super::support::eventually("the filter holds", || shown().contains("\"XYZXYZ\""));
    keys.write_all(b"q").unwrap();
    let mut status = None;
    super::support::eventually("it quits", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0), "{}", shown());
    assert!(!shown().contains("\x1b[31m") && !shown().contains("\x1b[90m"), "NO_COLOR");
    assert_eq!(super::support::egret(&["top", "--admin", &admin]).status.code(), Some(64), "no terminal");
}
