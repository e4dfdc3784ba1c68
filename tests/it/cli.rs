//! Commands that end by themselves: exit codes and what they print.

use std::ffi::OsStr;
use std::process::Output;

use serde_json::Value;

use crate::support::egret::command;
use crate::support::{Folder, egret};

const RULES: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: api }
spec:
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
    - { number: 443, name: tls, protocol: TLS }
    - { number: 80, name: http, protocol: HTTP }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: fixed }
spec:
  hosts: [fixed.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{ number: 5432, name: tcp, protocol: TCP }]
  endpoints: [{ address: 10.1.2.3 }]
";
const SETTINGS: &str = "\
mesh: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }
allow: [\"*.pypi.org:443\"]
listeners:
  - { name: proxy, address: \"127.0.0.1:3128\" }
  - { name: by-sni, protocol: sni, address: \"127.0.0.1:8443\", clients: { from: [10.0.0.0/8] } }
resources: [rules.yaml]
";

/// Runs in the folder, so that paths in the output are the same everywhere.
fn run<S: AsRef<OsStr>>(folder: &Folder, args: &[S]) -> Output {
    command(args).current_dir(folder.path()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn rules() -> Folder {
    let folder = Folder::with_settings(SETTINGS);
    folder.write("rules.yaml", RULES);
    folder
}

fn explain(folder: &Folder, args: &[&str]) -> Output {
    run(folder, &[&["explain", "-c", "egret.yaml"], args].concat())
}

fn explain_json(folder: &Folder, args: &[&str]) -> (Option<i32>, Value) {
    let output = explain(folder, &[args, &["-o", "json"]].concat());
    let json = serde_json::from_slice(&output.stdout);
    (output.status.code(), json.unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output))))
}

#[test]
fn what_clap_refuses_is_64_and_what_it_prints_on_demand_0() {
    for args in [&["--no-such-option"][..], &["explain"], &["check", "-o", "xml"], &["-c", "a", "check"]] {
        let output = egret(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    for args in [["--help"], ["--version"]] {
        let output = egret(&args);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("egret"), "{args:?}");
    }
}

#[test]
fn options_whose_value_makes_no_sense_are_64() {
    for args in [&["run", "--admin", "nowhere"][..], &["run", "--listen", "proxy"], &["run", "-f", ""]] {
        let output = egret(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn the_default_configuration_has_nothing_to_report() {
    let output = egret(&["check", "--strict"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "0 errors, 0 warnings\n"));
}

#[test]
fn the_example_settings_have_nothing_to_report() {
    for example in ["conf/egret.yaml", "conf/registry-only.yaml", "conf/parent-proxy.yaml", "conf/container.yaml"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(example);
        let output = egret(&["check".as_ref(), "--strict".as_ref(), "-c".as_ref(), path.as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "{example}: {}", stdout(&output));
    }
}

#[test]
fn check_reports_every_mistake_with_its_place() {
    let folder = Folder::with_settings("thread: 2\nmesh: { connectTimeout: soon }\n");
    let output = run(&folder, &["check", "-c", "egret.yaml"]);
    assert_eq!(output.status.code(), Some(65));
    insta::assert_snapshot!(stdout(&output));
    let output = run(&folder, &["check", "-c", "egret.yaml", "-o", "json"]);
    assert_eq!(output.status.code(), Some(65));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["ok"].as_bool(), json["errors"].as_u64()), (Some(false), Some(2)));
    let places: Vec<(u64, u64)> = json["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["line"].as_u64().unwrap(), d["column"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [(1, 1), (2, 25)]);
}

#[test]
fn a_missing_file_is_66() {
    for args in [["-c", "none.yaml"], ["-f", "none.yaml"]] {
        let folder = Folder::new();
        let output = run(&folder, &[&["check"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(66), "{args:?}: {}", stdout(&output));
    }
}

#[test]
fn warnings_count_with_strict_only() {
    let folder = rules();
    folder.write(
        "rules.yaml",
        &RULES.replace(
            "location: MESH_EXTERNAL\n  resolution: DNS",
            "workloadSelector: { labels: { a: b } }\n  resolution: DNS",
        ),
    );
    assert_eq!(run(&folder, &["check", "-c", "egret.yaml"]).status.code(), Some(0));
    assert_eq!(run(&folder, &["check", "-c", "egret.yaml", "--strict"]).status.code(), Some(1));
}

#[test]
fn diagnostic_codes_are_explained() {
    let output = egret(&["check", "--explain-code", "e001"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("E001: "), "{}", stdout(&output));
    assert_eq!(egret(&["check", "--explain-code", "E999"]).status.code(), Some(64));
}

#[test]
fn explain_prints_every_stage_of_an_allowed_flow() {
    let output = explain(&rules(), &["api.example.com:443"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    insta::assert_snapshot!(stdout(&output));
}

#[test]
fn explain_prints_the_nearest_rule_and_the_remedy_of_a_refused_flow() {
    let output = explain(&rules(), &["api.example.com:8443"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    insta::assert_snapshot!(stdout(&output));
}

#[test]
fn explain_does_without_unicode_and_colour() {
    let folder = rules();
    let mut ascii = command(&["explain", "-c", "egret.yaml", "unknown.example:443"]);
    let output = ascii.current_dir(folder.path()).env("LANG", "C").output().unwrap();
    assert!(output.stdout.is_ascii(), "{}", stdout(&output));
    assert!(!output.stdout.contains(&0x1b));
}

#[test]
fn explain_json_has_every_key_and_the_seven_stages() {
    let (code, json) = explain_json(&rules(), &["api.example.com:443"]);
    assert_eq!(code, Some(0));
    let keys = [
        "cluster",
        "decision",
        "endpoints",
        "error",
        "expansion",
        "generation",
        "nearest",
        "reason",
        "route",
        "service",
        "stages",
        "status",
        "suggestions",
        "target",
        "tls",
        "tunnel",
        "unknown",
        "via",
        "workload",
    ];
    let mut found: Vec<&String> = json.as_object().unwrap().keys().collect();
    found.sort();
    assert_eq!(found, keys);
    let stages: Vec<&str> = json["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["listener", "target", "registry", "authorization", "route", "addresses", "consistency"]);
    assert_eq!(json["decision"], "allow");
    assert_eq!(json["cluster"], "outbound|443||api.example.com");
    assert_eq!(json["service"], "api.example.com");
    assert_eq!(json["status"], 200);
    assert_eq!(json["tunnel"], "opaque");
    assert_eq!(json["reason"], Value::Null);
    assert_eq!(json["stages"][2]["at"], "rules.yaml:9:7");
    assert_eq!(json["unknown"], serde_json::json!(["addresses of api.example.com"]));
}

#[test]
fn a_refused_flow_exits_with_3_and_names_its_reason() {
    let folder = rules();
    for (args, reason, status) in [
        (&["unknown.example:443"][..], "not_found", 403),
        (&["api.example.com"], "http_request_error", 400),
        (&["http://u:p@api.example.com/"], "http_request_error", 400),
        (&["api.example.com:443", "--client", "192.0.2.1"], "client_denied", 403),
        (&["http://api.example.com:443/"], "http_request_denied", 403),
    ] {
        let (code, json) = explain_json(&folder, args);
        assert_eq!(code, Some(3), "{args:?}: {json}");
        assert_eq!((json["decision"].as_str(), json["reason"].as_str()), (Some("deny"), Some(reason)), "{args:?}");
        assert_eq!(json["status"], status, "{args:?}");
    }
    assert_eq!(explain_json(&folder, &["unknown.example:443"]).1["cluster"], "BlackHoleCluster");
}

#[test]
fn an_entry_of_allow_is_shown_as_the_service_entry_it_stands_for() {
    let (code, json) = explain_json(&rules(), &["files.pypi.org:443"]);
    assert_eq!(code, Some(0));
    assert_eq!(json["service"], "*.pypi.org");
    let expansion = json["expansion"].as_str().unwrap();
    assert!(expansion.contains("kind: ServiceEntry") && expansion.contains("*.pypi.org"), "{expansion}");
}

#[test]
fn fixed_addresses_are_judged_offline() {
    let folder = rules();
    let (code, json) = explain_json(&folder, &["fixed.example.com:5432"]);
    assert_eq!(code, Some(0), "an address that a resource spells out is allowed for its cluster: {json}");
    assert_eq!(json["endpoints"], serde_json::json!(["10.1.2.3:5432"]));
    let denied = SETTINGS.to_owned() + "addresses: { deny: [10.1.0.0/16] }\n";
    folder.write("egret.yaml", &denied);
    let (code, json) = explain_json(&folder, &["fixed.example.com:5432"]);
    assert_eq!((code, json["reason"].as_str()), (Some(3), Some("destination_ip_prohibited")), "{json}");
}

#[test]
fn literals_are_judged_in_every_spelling() {
    let folder = Folder::with_settings("{}");
    for target in ["127.0.0.1:80", "0x7f000001:80", "[::ffff:10.0.0.1]:443", "169.254.169.254:80"] {
        let (code, json) = explain_json(&folder, &[target]);
        assert_eq!((code, json["reason"].as_str()), (Some(3), Some("destination_ip_prohibited")), "{target}: {json}");
    }
    let (code, json) = explain_json(&folder, &["1.1.1.1:443"]);
    assert_eq!((code, json["cluster"].as_str()), (Some(0), Some("PassthroughCluster")), "{json}");
    let (_, json) = explain_json(&folder, &["127.0.0.1:80", "--allow-address", "127.0.0.1"]);
    assert_eq!(json["decision"], "allow", "{json}");
    let (_, json) = explain_json(&folder, &["127.0.0.1:3128", "--allow-address", "127.0.0.1"]);
    assert_eq!(json["reason"], "proxy_loop_detected", "{json}");
}

#[test]
fn resolving_judges_what_dns_says() {
    let folder = Folder::new();
    folder.write("hosts", "10.0.0.1 inside.test\n192.0.2.1 nowhere.test\n1.1.1.1 outside.test\n");
    folder.write("egret.yaml", &format!("dns: {{ hosts: {} }}\n", folder.path().join("hosts").display()));
    let (code, json) = explain_json(&folder, &["inside.test:443"]);
    assert_eq!((code, json["unknown"].as_array().map(Vec::len)), (Some(0), Some(1)), "{json}");
    let (code, json) = explain_json(&folder, &["inside.test:443", "--resolve"]);
    assert_eq!((code, json["reason"].as_str()), (Some(3), Some("destination_ip_prohibited")), "{json}");
    let (code, json) = explain_json(&folder, &["outside.test:443", "--resolve"]);
    assert_eq!((code, json["unknown"].as_array().map(Vec::len)), (Some(0), Some(0)), "{json}");
}

#[test]
fn listeners_are_asked_for_by_name() {
    let folder = rules();
    let (code, json) = explain_json(&folder, &["api.example.com", "--listener", "by-sni", "--client", "10.0.0.1"]);
    assert_eq!((code, json["target"].as_str()), (Some(0), Some("api.example.com:443")), "{json}");
    assert_eq!((&json["status"], &json["tunnel"]), (&Value::Null, &Value::from("opaque")));
    let output = explain(&folder, &["api.example.com:443", "--listener", "none"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("proxy, by-sni"), "{}", stderr(&output));
}

#[test]
fn users_are_those_of_the_htpasswd_file() {
    let folder = rules();
    folder.write("users", "ann:$2y$04$WvvTPHKwdBJ3uk0Z37EMR.hLA2W6N9AEBhEgrAOljy2Ae5MtaSIUi\n");
    let basic =
        SETTINGS.replace("\"127.0.0.1:3128\" }", "\"127.0.0.1:3128\", clients: { basic: { htpasswd: users } } }");
    folder.write("egret.yaml", &basic);
    for (user, code) in [(&[][..], 3), (&["--user", "bob"], 3), (&["--user", "ann"], 0)] {
        let (found, json) = explain_json(&folder, &[&["api.example.com:443"], user].concat());
        assert_eq!(found, Some(code), "{user:?}: {json}");
        if code == 3 {
            assert_eq!(json["status"], 407);
        }
    }
}

#[test]
fn a_file_of_users_that_is_missing_is_warned_of_once_and_lets_nobody_in() {
    let folder = rules();
    let basic =
        SETTINGS.replace("\"127.0.0.1:3128\" }", "\"127.0.0.1:3128\", clients: { basic: { htpasswd: users } } }");
    folder.write("egret.yaml", &format!("{basic}\nsecrets: [{{ name: a, dir: nowhere }}]\n"));
    let output = egret(&["check".as_ref(), "-c".as_ref(), folder.settings().as_os_str()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for (path, file, help) in [
        ("listeners[0].clients.basic.htpasswd", "the file ", "nobody can log in until it is there"),
        ("secrets[0].dir", "the folder ", "what needs this Secret is refused until it is there"),
    ] {
        let start = format!("warning[W041]: {path}: {file}");
        assert!(text.contains(&start) && text.contains(help), "{text}");
    }
    assert_eq!(text.matches("warning[W041]").count(), 2, "{text}");
    assert!(!text.contains("W183") && !text.contains("error["), "{text}");
    let (code, json) = explain_json(&folder, &["api.example.com:443", "--user", "ann"]);
    assert_eq!((code, &json["status"]), (Some(3), &407.into()), "{json}");
}

#[test]
fn a_tunnel_that_is_terminated_names_the_rule_that_needs_it() {
    let folder = rules();
    let http = "\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop }
spec: { hosts: [api.example.com], http: [{ route: [{ destination: { host: api.example.com } }] }] }
";
    folder.write("rules.yaml", &format!("{RULES}{http}"));
    let output = explain(&folder, &["api.example.com:80"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("tunnel: terminated, because VirtualService default/shop needs HTTP"), "{text}");
}

#[test]
fn what_is_typed_never_reaches_the_terminal_as_control_bytes() {
    let output = explain(&rules(), &["a\u{1b}[2Jb:443"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
}

#[test]
fn explain_with_a_bad_configuration_is_78() {
    let folder = Folder::with_settings("thread: 2\n");
    let output = explain(&folder, &["api.example.com:443"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("egret.yaml:1:1"), "{}", stderr(&output));
}
