//! The harness from end to end, with the one contestant that is always there.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

fn load_tests() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load-tests"));
    command.args(["run", "--quick", "--contestants", "floor"]);
    command
}

#[test]
fn a_quick_run_writes_a_report_with_a_figure_for_each_scenario() {
    let folder = std::env::temp_dir().join(format!("load-tests-smoke-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    let output = load_tests().arg("--write").arg(&folder).output().expect("load-tests runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let report = fs::read_to_string(folder.join("RESULTS.md")).expect("a report");
    let rows: Vec<&str> = report.lines().filter(|line| line.starts_with("| floor |")).collect();
    assert_eq!(rows.len(), 6, "connect, sni, bulk1, bulk16, ping-pong, idle: {report}");
    for row in rows {
        let figure = row.split('|').nth(2).expect("a cell").trim();
        assert!(figure.parse::<f64>().is_ok(), "{row}");
        assert!(!row.contains("failed"), "{row}");
    }
    assert!(report.contains("## Where the time goes"));
    assert!(fs::read_to_string(folder.join("results.svg")).expect("a chart").starts_with("<svg"));
    let raw: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("results-raw.json")).expect("raw")).expect("JSON");
    assert_eq!(raw.as_array().map(Vec::len), Some(6));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn egret_does_the_works_of_http2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load-tests"));
    command.args(["run", "--quick", "--only", "h2-connect,h2-http", "--contestants", "egret"]).env("ENVOY", "/nowhere");
    command.arg("--egret").arg(egret());
    let output = command.output().expect("load-tests runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{said:?}");
    let rows: Vec<&str> = said[0].lines().filter(|line| line.starts_with("| egret |")).collect();
    assert_eq!(rows.len(), 2, "{said:?}");
    for row in rows {
        let figure = row.split('|').nth(2).expect("a cell").trim();
        assert!(figure.parse::<f64>().is_ok() && !row.contains("errors") && !row.contains("failed"), "{row}");
    }
}

/// The one built beside load-tests; a run of this package alone has to build it.
fn egret() -> std::path::PathBuf {
    let egret = std::path::Path::new(env!("CARGO_BIN_EXE_load-tests")).with_file_name("egret");
    if !egret.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--locked", "--package", "egret"]).status();
        assert!(built.expect("cargo runs").success());
    }
    egret
}

#[test]
fn who_is_missing_is_named_and_fails_the_run() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load-tests"));
    command.args(["run", "--quick", "--only", "connect", "--contestants", "floor,egret", "--egret", "/nowhere/egret"]);
    let output = command.output().expect("load-tests runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not measured: egret"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("| floor |"));
}

#[test]
fn a_run_that_is_told_to_end_ends_its_children() {
    let mut run = load_tests().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("load-tests runs");
    let deadline = Instant::now() + Duration::from_secs(20);
    let children = loop {
        let children = children_of(run.id());
        if !children.is_empty() {
            break children;
        }
        assert!(Instant::now() < deadline, "no child was started");
        std::thread::sleep(Duration::from_millis(2));
    };
    let pid = Pid::from_raw(i32::try_from(run.id()).expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, Signal::TERM).expect("signalled");
    assert!(!run.wait().expect("it ends").success());
    while children.iter().any(|child| fs::exists(format!("/proc/{child}")).unwrap_or(false)) {
        assert!(Instant::now() < deadline, "of {children:?} some still run");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    // `PID (name) state parent …`; the name may hold anything.
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some(&parent))
    };
    let names =
        fs::read_dir("/proc").expect("proc is mounted").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).filter(is_child).collect()
}

fn output_of(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests")).args(arguments).arg("--egret").arg(egret()).output();
    let output = output.expect("load-tests runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out.into_owned()
}

#[test]
fn many_rules_are_measured_in_each_size_by_name_and_across_a_reload() {
    let out = output_of(&["scale", "--entries", "120", "--connects", "60", "--rounds", "1"]);
    let sizes: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).skip(1).collect();
    assert_eq!(sizes, ["3", "100", "120"], "{out}");
    assert!(out.contains("A reload of 120 entries") && out.contains("60 CONNECTs"), "{out}");
}

#[test]
fn many_routes_are_measured_likewise() {
    let out = output_of(&["scale", "--routes", "--entries", "120", "--connects", "60", "--rounds", "1"]);
    assert!(out.contains("| ServiceEntries, each with a route | check |") && out.contains("\n| 120 | "), "{out}");
}

#[test]
fn many_tunnels_live_end_with_their_rule_and_end_with_the_process() {
    let out = output_of(&["tunnels", "--count", "200"]);
    for said in ["200 tunnels open", "all 200 carried another", "ended all", "exit status: 0"] {
        assert!(out.contains(said), "{said}: {out}");
    }
}
