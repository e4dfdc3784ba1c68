//! "Accessing External Services".

use std::io::Write;
use std::time::{Duration, Instant};

use super::{Task, assert_line, curl, nginx, public, start};
use crate::support::Folder;
use crate::support::origin::{Origin, read_head};
use crate::support::peer::Peer;
use crate::support::world::{in_a_world_with, name_of, write};

const NAMES: &[(&str, &str)] =
    &[("httpbin.org", "35.173.6.94"), ("www.google.com", "172.217.161.36"), ("edition.cnn.com", "151.101.193.67")];
const POLICY: &str = "01-mesh-config-registry-only.v1.7+1.27.yaml";

/// What of httpbin.org the tasks ask for.
pub(super) fn httpbin() -> Origin {
    Origin::at("35.173.6.94:80", |mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let path = head.split(' ').nth(1).unwrap();
            if let Some(seconds) = path.strip_prefix("/delay/") {
                std::thread::sleep(Duration::from_secs(seconds.parse().unwrap())); // what the path asks for
            }
            let fields: serde_json::Map<String, serde_json::Value> = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            let body = serde_json::to_string_pretty(&serde_json::json!({ "headers": fields })).unwrap();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all((answer + &body).as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// www.google.com and edition.cnn.com on port 443, by certificates that the system trusts.
fn sites(folder: &Folder) -> Peer {
    let files = public(folder, &["www.google.com", "edition.cnn.com"]);
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let listen = ["172.217.161.36:443", "151.101.193.67:443"];
    let [google, cnn] = listen.map(|address| format!("listen {address} ssl http2;"));
    write(
        "/etc/nginx/nginx.conf",
        format!(
            "events {{}}\nhttp {{ ssl_certificate {certificate}; ssl_certificate_key {key}; server {{ {google} {cnn} }} }}\n"
        ),
    );
    nginx(&listen)
}

/// "Envoy passthrough to external services", then "Change to the blocking-by-default policy".
#[test]
fn what_no_rule_names_passes_until_the_policy_says_registry_only() {
    let test = name_of(what_no_rule_names_passes_until_the_policy_says_registry_only);
    let Some(task) = Task::named("egress-control", test) else { return };
    in_a_world_with(test, NAMES, |world| {
        let folder = Folder::new();
        let _sites = sites(&folder);
        let hosts = [("www.google.com", "172.217.161.36:443"), ("edition.cnn.com", "151.101.193.67:443")];
        let egret = start(&[], "");
        for (host, address) in hosts {
            let ran = curl(&egret, &["-sI", &format!("https://{host}")]);
            assert!(ran.succeeded().contains("\r\n\r\nHTTP/2 200"), "{host}");
            assert_line(
                &egret.stdout.wait_for(&format!("\"{host}:443\"")),
                &format!(
                    "[…] \"CONNECT - HTTP/1.1\" 200 - via_upstream - \"-\" … … … … \"-\" \"curl/…\" \"…\" \"{host}:443\" \"{address}\" \
                     PassthroughCluster … {} 127.0.0.1:… {host} allow_any",
                    egret.proxy()
                ),
            );
        }
        // A sidecar cuts the handshake (35); an explicit proxy says that it refuses, and curl that it was refused.
        let egret = start(&[task.file(POLICY)], "");
        let queries = world.dns.queries();
        for (host, _) in hosts {
            let ran = curl(&egret, &["-sSI", &format!("https://{host}")]);
            assert_eq!(ran.code, Some(56), "{ran:?}");
            assert!(ran.stdout.starts_with("HTTP/1.1 403 "), "{ran:?}");
            assert_line(
                &egret.stdout.wait_for(&format!("\"{host}:443\"")),
                &format!(
                    "[…] \"CONNECT - HTTP/1.1\" 403 NR not_found - \"-\" 0 … … - \"-\" \"curl/…\" \"…\" \"{host}:443\" \"-\" \
                     BlackHoleCluster - {} 127.0.0.1:… - block_all",
                    egret.proxy()
                ),
            );
        }
        assert_eq!(world.dns.queries(), queries, "nothing is resolved for what is refused");
    });
}

fn http_service(test: &str, version: &str) {
    let Some(task) = Task::named("egress-control", test) else { return };
    let files = [task.file(POLICY), task.file(&format!("02-httpbin-serviceentry.{version}.yaml"))];
    in_a_world_with(test, NAMES, |_| {
        let _httpbin = httpbin();
        let egret = start(&files, "");
        let body = curl(&egret, &["-sS", "http://httpbin.org/headers"]).succeeded();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["headers"]["Host"], "httpbin.org");
        assert!(body["headers"]["Via"].as_str().unwrap().starts_with("1.1 egret-"), "{body}");
        assert!(!body.to_string().to_ascii_lowercase().contains("x-envoy"), "{body}");
        assert_line(
            &egret.stdout.wait_for("/headers"),
            &format!(
                "[…] \"GET /headers HTTP/1.1\" 200 - via_upstream - \"-\" 0 … … … \"-\" \"curl/…\" \"…\" \"httpbin.org\" \
                 \"35.173.6.94:80\" outbound|80||httpbin.org … {} 127.0.0.1:… - default",
                egret.proxy()
            ),
        );
        // "Direct access to external services": what is not captured is not seen. Here the client decides.
        let direct =
            curl(&egret, &["-sS", "--noproxy", "httpbin.org", "http://httpbin.org/headers?direct"]).succeeded();
        assert!(!direct.contains("Via") && !direct.contains("x-request-id"), "{direct}");
        assert!(!egret.stdout.so_far().iter().any(|line| line.contains("?direct")));
    });
}

#[test]
fn an_http_service_of_1_27() {
    http_service(name_of(an_http_service_of_1_27), "v1.27");
}

#[test]
fn an_http_service_of_1_6() {
    http_service(name_of(an_http_service_of_1_6), "v1.6+1.7");
}

fn https_service(test: &str, version: &str) {
    let Some(task) = Task::named("egress-control", test) else { return };
    let files = [task.file(POLICY), task.file(&format!("03-google-https-serviceentry.{version}.yaml"))];
    in_a_world_with(test, NAMES, |_| {
        let folder = Folder::new();
        let _sites = sites(&folder);
        let egret = start(&files, "");
        let ran = curl(&egret, &["-sI", "https://www.google.com"]);
        assert!(ran.succeeded().contains("\r\n\r\nHTTP/2 200"));
        assert_line(
            &egret.stdout.wait_for("CONNECT"),
            &format!(
                "[…] \"CONNECT - HTTP/1.1\" 200 - via_upstream - \"-\" … … … … \"-\" \"curl/…\" \"…\" \"www.google.com:443\" \
                 \"172.217.161.36:443\" outbound|443||www.google.com … {} 127.0.0.1:… www.google.com default",
                egret.proxy()
            ),
        );
        // The other one is as unknown as before.
        assert_eq!(curl(&egret, &["-sI", "https://edition.cnn.com"]).code, Some(56));
    });
}

#[test]
fn an_https_service_of_1_27() {
    https_service(name_of(an_https_service_of_1_27), "v1.27");
}

#[test]
fn an_https_service_of_1_6() {
    https_service(name_of(an_https_service_of_1_6), "v1.6+1.7");
}

fn timeout(test: &str, version: &str) {
    let Some(task) = Task::named("egress-control", test) else { return };
    let entry = task.file(&format!("02-httpbin-serviceentry.{version}.yaml"));
    let route = task.file(&format!("04-httpbin-timeout-virtualservice.{version}.yaml"));
    in_a_world_with(test, NAMES, |_| {
        let _httpbin = httpbin();
        let policy = task.file(POLICY);
        for (files, status, seconds, line) in [
            (vec![policy.clone(), entry.clone()], "200\n", 5, "200 - via_upstream"),
            (vec![policy, entry, route], "504\n", 3, "504 UT http_response_timeout"),
        ] {
            let egret = start(&files, "");
            let started = Instant::now();
            let asked = ["-o", "/dev/null", "-s", "-w", "%{http_code}\n", "http://httpbin.org/delay/5"];
            assert_eq!(curl(&egret, &asked).succeeded(), status);
            let took = started.elapsed();
            assert!((seconds..seconds + 2).contains(&took.as_secs()), "{status} after {took:?}");
            assert_line(
                &egret.stdout.wait_for("/delay/5"),
                &format!(
                    "[…] \"GET /delay/5 HTTP/1.1\" {line} - \"-\" 0 … … … \"-\" \"curl/…\" \"…\" \"httpbin.org\" \
                     \"35.173.6.94:80\" outbound|80||httpbin.org … {} 127.0.0.1:… - default",
                    egret.proxy()
                ),
            );
        }
    });
}

#[test]
fn a_timeout_of_1_27() {
    timeout(name_of(a_timeout_of_1_27), "v1.27");
}

#[test]
fn a_timeout_of_1_6() {
    timeout(name_of(a_timeout_of_1_6), "v1.6+1.7");
}
