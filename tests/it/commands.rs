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
    let folder = Folder::with_settings("mesh: { defaultHttpRetryPolicy: { attempts: 2 } }\n");
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
