//! Whoever may write resources is a tenant: what they write must not read files for them, reach sockets, or hold the proxy up.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Folder, Setup, client, egret};

const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: NAME, namespace: tenant }\n\
     spec: { hosts: [NAME.test], resolution: RESOLUTION, ports: [{ number: 80, name: http, protocol: HTTP }]ENDPOINTS }\n";

fn entry(name: &str, endpoint: Option<&str>) -> String {
    let (resolution, endpoints) = match endpoint {
        Some(endpoint) => ("STATIC", format!(", endpoints: [{{ address: {endpoint:?} }}]")),
        None => ("DNS", String::new()),
    };
    ENTRY.replace("NAME", name).replace("RESOLUTION", resolution).replace("ENDPOINTS", &endpoints)
}

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write(
        "egret.yaml",
        "listeners: [{ name: proxy, address: \"127.0.0.1:0\" }]\nadmin: off\nresources: [rules]\n",
    );
    std::fs::create_dir(folder.path().join("rules")).unwrap();
    folder
}

fn check(folder: &Folder) -> (Option<i32>, String) {
    let out = egret(&["check", "-c", folder.settings().to_str().unwrap()]);
    (out.status.code(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap())
}

#[test]
fn files_that_would_hold_the_proxy_up_are_named_and_not_read() {
    let folder = folder();
    let rules = folder.path().join("rules");
    rustix::fs::mkfifoat(rustix::fs::CWD, rules.join("pipe.yaml"), rustix::fs::Mode::RUSR).unwrap();
    symlink("self.yaml", rules.join("self.yaml")).unwrap();
    std::fs::File::create(rules.join("big.yaml")).unwrap().set_len(10 << 30).unwrap();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb += &format!("a{n}: &a{n} [{aliases}]\n");
    }
    folder.write("rules/bomb.yaml", &bomb);
    let (code, text) = check(&folder);
    assert_eq!(code, Some(65), "{text}");
    for part in ["E004", "big.yaml", "larger than 64 MiB", "E013", "bomb.yaml:5", "a FIFO", "a loop of symbolic links"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_socket_of_this_machine_is_no_endpoint_unless_the_settings_name_its_folder() {
    for path in ["/var/run/docker.sock", "/run/allowed/../docker.sock", "/run/allowed-not/x.sock"] {
        let folder = folder();
        folder.write(
            "egret.yaml",
            "listeners: [{ name: proxy, address: \"127.0.0.1:0\" }]\nadmin: off\nresources: [rules]\nfiles: { sockets: [/run/allowed] }\n",
        );
        folder.write("rules/tenant.yaml", &entry("docker", Some(&format!("unix://{path}"))));
        let (code, text) = check(&folder);
        assert_eq!(code, Some(65), "{text}");
        assert!(text.contains("E182") && text.contains("lies under none of the folders of `files.sockets`"), "{text}");
    }
}

#[test]
fn what_stands_in_a_file_that_is_no_certificate_is_told_to_nobody() {
    let folder = Folder::new();
    let secret = folder.write("shadow", "root:hidden-password:19000:0:99999:7:::\n");
    let rules = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: api, namespace: tenant }}\n\
         spec: {{ host: api.test, trafficPolicy: {{ tls: {{ mode: SIMPLE, caCertificates: {} }} }} }}\n",
        entry("api", None),
        secret.display()
    );
    let proxy = Setup { rules: &rules, hosts: &["api.test"], ..Setup::default() }.start(&folder);
    let answer = client::get(proxy.proxy(), "http://api.test/");
    assert_eq!(answer.status, 503);
    let record = format!("{:?}", proxy.record("api.test"));
    let (_, text) = check_settings(&folder.settings());
    for said in [&String::from_utf8(answer.body).unwrap(), &record, &text, &proxy.stderr.so_far().join("\n")] {
        assert!(!said.contains("hidden-password"), "{said}");
    }
    assert!(text.contains("W183") && text.contains("no certificate (BEGIN CERTIFICATE) in it"), "{text}");
}

fn check_settings(settings: &Path) -> (Option<i32>, String) {
    let out = egret(&["check", "-c", settings.to_str().unwrap()]);
    (out.status.code(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap())
}

/// Where a name leads that the settings allow, a resource of the listener's own namespace may say, and no other.
#[test]
fn a_host_that_the_settings_allow_is_taken_over_by_no_other_namespace() {
    for (namespace, endpoint) in [("default", "192.0.2.1:80"), ("tenant", "partner.test:80")] {
        let folder = folder();
        folder.write(
            "egret.yaml",
            "listeners: [{ name: proxy, address: \"127.0.0.1:0\" }]\nadmin: off\nresources: [rules]\n\
             mesh: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\nallow: [\"partner.test:80\"]\n",
        );
        let rules =
            entry("partner", Some("192.0.2.1")).replace("namespace: tenant", &format!("namespace: {namespace}"));
        folder.write("rules/tenant.yaml", &rules);
        let out = egret(&["explain", "-o", "json", "-c", folder.settings().to_str().unwrap(), "http://partner.test/"]);
        let explained: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(explained["endpoints"], serde_json::json!([endpoint]), "{namespace}: {explained}");
        let (_, text) = check(&folder);
        assert_eq!(text.contains("partner.test"), namespace == "tenant", "{text}");
    }
}
