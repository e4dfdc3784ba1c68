//! The `sni` listener in front of nginx: curl is sent to it by name, and TLS is nginx's own.

use super::{HOSTS, REGISTRY_ONLY, World};
use crate::support::peer::{Ran, command, run};
use crate::support::{Egret, Setup};

const NAMES: &[&str] = &["edition.example", "other.example"];

/// Only `edition.example` is known.
fn start(world: &World) -> Egret {
    let port = world.nginx.tls().port();
    let rules = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: edition }}
spec:
  hosts: [edition.example]
  resolution: DNS
  ports: [{{ number: 443, name: tls, protocol: TLS, targetPort: {port} }}]
"
    );
    let listeners = "{ name: by-sni, protocol: sni, address: \"127.0.0.1:0\" }";
    Setup { mesh: REGISTRY_ONLY, listeners, rules: &rules, hosts: HOSTS, ..Setup::default() }.start(&world.folder)
}

/// curl connects to the listener whatever the URL says.
fn curl(world: &World, egret: &Egret, args: &[&str]) -> Ran {
    let listener = egret.address("by-sni");
    let to = format!("::127.0.0.1:{}", listener.port());
    let mut curl = command("curl");
    curl.args(["-q", "-sS", "--max-time", "15", "--connect-to", &to, "--cacert"]).arg(&world.ca).args(args);
    run(&mut curl)
}

#[test]
fn a_known_name_reaches_nginx_whose_certificate_the_client_sees() {
    let world = World::new(NAMES);
    let egret = start(&world);
    let ran = curl(&world, &egret, &["-v", "https://edition.example/politics"]);
    assert!(
        ran.stderr.contains("SSL certificate verify ok") || ran.stderr.contains("subjectAltName"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.succeeded(), "politics\n");
    let line = world.nginx.line("/politics", 1);
    assert!(
        line.starts_with("GET /politics HTTP/2.0 200 ") && line.contains("sni=edition.example"),
        "ALPN passes: {line}"
    );
    let record = egret.record("edition.example");
    record.shows(&[
        ("method", ""),
        ("response_code", "0"),
        ("response_flags", "-"),
        ("requested_server_name", "edition.example"),
        ("upstream_cluster", "outbound|443||edition.example"),
        ("upstream_host", &world.nginx.tls().to_string()),
        ("listener", "by-sni"),
        ("route_name", ""),
    ]);
    assert!(record.get("bytes_sent").parse::<u64>().unwrap() > 500, "{record:?}");
}

#[test]
fn what_is_big_comes_whole() {
    let world = World::new(NAMES);
    world.folder.write("www/big.bin", &"0123456789abcdef".repeat(1 << 19)); // 8 MiB
    let egret = start(&world);
    let out = curl(&world, &egret, &["--http1.1", "https://edition.example/big.bin"]).succeeded();
    assert!(out.len() == 8 << 20 && out.ends_with("0123456789abcdef"), "{} bytes", out.len());
    let record = egret.record("edition.example");
    assert!(record.get("bytes_sent").parse::<u64>().unwrap() > 8 << 20, "{record:?}");
}

#[test]
fn resolve_and_a_port_of_its_own_do_as_well() {
    let world = World::new(NAMES);
    let egret = start(&world);
    let port = egret.address("by-sni").port();
    let resolve = format!("edition.example:{port}:127.0.0.1");
    let mut curl = command("curl");
    curl.args(["-q", "-sS", "--resolve", &resolve, "--cacert"]).arg(&world.ca);
    let out = run(curl.arg(format!("https://edition.example:{port}/politics"))).succeeded();
    assert_eq!(out, "politics\n");
    egret
        .record("edition.example")
        .shows(&[("upstream_host", &world.nginx.tls().to_string()), ("response_flags", "-")]);
}

#[test]
fn an_unknown_name_is_35_and_says_unrecognized_name() {
    let world = World::new(NAMES);
    let egret = start(&world);
    for (n, (url, sni, cluster)) in
        [("https://other.example/", "other.example", "BlackHoleCluster"), ("https://127.0.0.1/", "", "")]
            .into_iter()
            .enumerate()
    {
        let ran = curl(&world, &egret, &[url]);
        assert_eq!(ran.code, Some(35), "{ran:?}");
        assert!(ran.stderr.contains("unrecognized name"), "{ran:?}");
        let record = egret.nth_record("by-sni", n + 1);
        record.shows(&[
            ("response_code", "0"),
            ("response_flags", "NR"),
            ("requested_server_name", sni),
            ("reason", "not_found"),
            ("upstream_cluster", cluster),
            ("route_name", ""),
            ("upstream_host", ""),
        ]);
    }
    assert!(world.nginx.lines().is_empty());
}

#[test]
fn openssl_sees_the_alert_and_plain_http_gets_nothing() {
    let world = World::new(NAMES);
    let egret = start(&world);
    let listener = egret.address("by-sni").to_string();
    let ran = run(command("openssl").args(["s_client", "-connect", &listener, "-servername", "other.example"]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("tlsv1 unrecognized name"), "{}", ran.stderr);
    let ran = run(command("curl").args(["-q", "-sS", &format!("http://{listener}/")]));
    assert_eq!(ran.code, Some(52), "{ran:?}"); // empty reply from server
    egret.nth_record("by-sni", 2).shows(&[("response_code", "0"), ("response_flags", "DPE")]);
}
