//! Kubernetes' kinds as files, over real sockets.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::egret::command;
use crate::support::origin::{HELLO, Origin};
use crate::support::{Folder, Setup, client, eventually};

const CLOSED: &str = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";

#[test]
fn a_service_with_addresses_is_reached_by_its_names_and_its_cluster_ip() {
    let origin = Origin::http(HELLO);
    let port = origin.address.port();
    let rules = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec: {{ clusterIP: 10.96.0.1, ports: [{{ port: 80, name: http, targetPort: 8080 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: web-1, labels: {{ kubernetes.io/service-name: web }} }}
addressType: IPv4
endpoints: [{{ addresses: [127.0.0.1] }}, {{ addresses: [192.0.2.1], conditions: {{ ready: false }} }}]
ports: [{{ name: http, port: {port} }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: alias }}
spec: {{ type: ExternalName, externalName: web.default.svc.cluster.local }}
---
apiVersion: v1
kind: Service
metadata: {{ name: empty }}
spec: {{ clusterIP: 10.96.0.2, ports: [{{ port: 80, name: http }}] }}
---
apiVersion: v1
kind: Endpoints
metadata: {{ name: empty }}
subsets: []
"
    );
    let folder = Folder::new();
    let egret = Setup { mesh: CLOSED, rules: &rules, ..Setup::default() }.start(&folder);
    let cluster = "outbound|80||web.default.svc.cluster.local";
    for host in ["web.default.svc.cluster.local", "web.default.svc", "web.default", "web", "10.96.0.1", "alias.default"]
    {
        let answer = client::get(egret.proxy(), &format!("http://{host}/from-{host}"));
        assert!(answer.head.starts_with("HTTP/1.1 200 "), "{host}: {}", answer.head);
        egret.record(&format!("/from-{host}\"")).shows(&[
            ("response_code", "200"),
            ("upstream_cluster", cluster),
            ("upstream_host", &origin.address.to_string()),
        ]);
        let (_, head) = client::connect(egret.proxy(), format!("{host}:80"));
        assert!(head.starts_with("HTTP/1.1 200 "), "{host}: {head}");
    }
    for (target, status) in
        [("web:81", "403"), ("127.0.0.1:80", "403"), ("other.default:80", "403"), ("empty:80", "503")]
    {
        let (_, head) = client::connect(egret.proxy(), target);
        assert_eq!(head.split(' ').nth(1), Some(status), "{target}: {head}");
    }
    let explained = |target: &str| {
        let settings = folder.settings();
        let output = command(&[
            "explain".as_ref(),
            "-o".as_ref(),
            "json".as_ref(),
            "-c".as_ref(),
            settings.as_os_str(),
            target.as_ref(),
        ])
        .output()
        .unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), json)
    };
    let (code, json) = explained("web:80");
    assert_eq!(
        (code, json["cluster"].as_str(), json["service"].as_str()),
        (Some(0), Some(cluster), Some("web.default.svc.cluster.local"))
    );
    assert_eq!(json["endpoints"][0].as_str(), Some(&*origin.address.to_string()));
    let registry = &json["stages"][2];
    assert!(registry["text"].as_str().unwrap().contains("Service default/web"), "{registry}");
    assert!(registry["at"].as_str().unwrap().ends_with("rules.yaml:4:39"), "{registry}");
    let (code, json) = explained("empty:80");
    assert_eq!(
        (code, json["reason"].as_str(), json["status"].as_u64()),
        (Some(3), Some("destination_unavailable"), Some(503))
    );
}

/// As the kubelet does it: a new folder, then one rename of the link to it.
fn swap(secret: &Path, version: &str, files: &[(&str, &str)]) {
    let folder = secret.join(version);
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
        let link = secret.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let new = secret.join("..data_tmp");
    symlink(version, &new).unwrap();
    fs::rename(new, secret.join("..data")).unwrap();
}

#[test]
fn a_mounted_secret_counts_as_soon_as_its_link_is_swapped() {
    let folder = Folder::new();
    let (old, new) = (Authority::new(), Authority::new());
    let origin = Origin::mirror_tls(new.server(&["a.test"]));
    let pem = |authority: &Authority, name: &str| fs::read_to_string(authority.write(&folder, name)).unwrap();
    let (old, new) = (pem(&old, "old.pem"), pem(&new, "new.pem"));
    let secret = folder.path().join("mounted");
    // Both folders are there from the beginning, so that no name changes but where the link leads.
    fs::create_dir_all(secret.join("..2")).unwrap();
    swap(&secret, "..1", &[("ca.crt", &old)]);
    let rules = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: a }}
spec: {{ hosts: [a.test], resolution: DNS, ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {} }}] }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: a }}
spec: {{ host: a.test, trafficPolicy: {{ tls: {{ mode: SIMPLE, credentialName: trust }} }} }}
",
        origin.address.port()
    );
    let more = "secrets: [{ name: trust-cacert, namespace: default, dir: mounted }]";
    let egret = Setup { rules: &rules, more, hosts: &["a.test"], ..Setup::default() }.start(&folder);
    let status = || client::get(egret.proxy(), "http://a.test/").head.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(status(), "502", "the server is signed by another authority");
    swap(&secret, "..2", &[("ca.crt", &new)]);
    egret.stderr.wait_for("reloaded");
    eventually("the new authority counts", || status() == "200");
    swap(&secret, "..1", &[("ca.crt", &old)]);
    egret.stderr.wait_for_nth("reloaded", 2);
    eventually("the old one counts again", || status() == "502");
}
