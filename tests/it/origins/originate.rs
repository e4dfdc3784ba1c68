//! TLS origination that succeeds: port 80 in, TLS out.

use std::path::Path;

use super::{CLUSTER, World, task};
use crate::support::certificates::Authority;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, field};
use crate::support::peer::{command, run};
use crate::support::{Egret, Folder, Setup, client};

fn curl(egret: &Egret, args: &[&str]) -> String {
    let proxy = format!("http://{}", egret.proxy());
    run(command("curl").args(["-q", "-sS", "--max-time", "15", "-x", &proxy]).args(args)).succeeded()
}

#[test]
fn plain_requests_become_tls() {
    let world = World::new(&["edition.example"]);
    let egret = world.start(&task(world.nginx.tls().port(), &world.simple("")));
    let printed = curl(&egret, &["-L", "-o", "/dev/null", "-D", "-", "http://edition.example/politics"]);
    assert!(
        printed.starts_with("HTTP/1.1 200 OK\r\n") && printed.matches("HTTP/").count() == 1,
        "no redirect: {printed}"
    );
    let line = world.nginx.line("/politics", 1);
    assert!(line.contains(" 200 host=edition.example sni=edition.example tls=TLSv1.3 "), "{line}");
    egret.record("/politics").shows(&[
        ("method", "GET"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("response_code_details", "via_upstream"),
        ("upstream_cluster", CLUSTER),
        ("upstream_host", &world.nginx.tls().to_string()),
        ("upstream_transport_failure_reason", ""),
        ("route_name", "default"),
        ("authority", "edition.example"),
    ]);
}

#[test]
fn https_is_tunnelled_and_not_originated_twice() {
    let world = World::new(&["edition.example"]);
    let egret = world.start(&task(world.nginx.tls().port(), &world.simple("")));
    let ca = world.ca.to_str().unwrap();
    assert_eq!(curl(&egret, &["--cacert", ca, "https://edition.example/politics"]), "politics\n");
    egret.record("CONNECT").shows(&[
        ("response_code", "200"),
        ("response_flags", "-"),
        ("authority", "edition.example:443"),
        ("upstream_cluster", "outbound|443||edition.example"),
        ("upstream_host", &world.nginx.tls().to_string()),
    ]);
}

/// CONTRACT, "CONNECT meets routes": a tunnel to a port with http routes carries HTTP that we read, and so the rule holds there too.
#[test]
fn a_tunnel_to_port_80_is_terminated_and_its_requests_become_tls() {
    let world = World::new(&["edition.example"]);
    let egret = world.start(&task(world.nginx.tls().port(), &world.simple("")));
    let urls = ["http://edition.example/politics?1", "http://edition.example/politics?2"];
    assert_eq!(curl(&egret, &["-p", urls[0], urls[1]]), "politics\npolitics\n");
    for n in ["?1", "?2"] {
        assert!(world.nginx.line(n, 1).contains("sni=edition.example tls=TLSv1.3"));
        egret.record(n).shows(&[
            ("method", "GET"),
            ("response_code", "200"),
            ("response_flags", "-"),
            ("authority", "edition.example"),
            ("upstream_cluster", CLUSTER),
        ]);
    }
    egret.record("CONNECT").shows(&[("response_code", "200"), ("authority", "edition.example:80")]);
    // A request for somebody else does not slip through the tunnel's rules.
    let (mut tunnel, head) = client::connect(egret.proxy(), "edition.example:80");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client::send(&mut tunnel, "GET /evil HTTP/1.1\r\nHost: other.example\r\n\r\n");
    let answer = client::read_answer(&mut tunnel);
    assert!(answer.head.starts_with("HTTP/1.1 421 Misdirected Request\r\n"), "{}", answer.head);
    assert!(client::ends(&mut tunnel));
    let record = egret.record("/evil");
    record.shows(&[("response_code", "421"), ("reason", "misdirected_request"), ("authority", "other.example")]);
    record.shows(&[("upstream_host", "")]);
}

#[test]
fn bodies_go_out_over_tls_as_they_came() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let origin = Origin::mirror_tls(authority.server(&["edition.example"]));
    let ca = authority.write(&folder, "ca.pem");
    let tls = format!("{{ mode: SIMPLE, caCertificates: {} }}", ca.display());
    let rules = task(origin.address.port(), &tls);
    let egret = Setup { rules: &rules, hosts: super::HOSTS, ..Setup::default() }.start(&folder);
    let file = folder.write("upload", &"0123456789abcdef".repeat(200_000)); // 3.2 MB
    let (sent, upload) = (std::fs::read_to_string(&file).unwrap(), file.to_str().unwrap());
    for (name, framing) in [("length", "X-Framing: by length"), ("chunked", "Transfer-Encoding: chunked")] {
        let back = curl(&egret, &["-T", upload, "-H", framing, &format!("http://edition.example/{name}")]);
        assert!(back == sent, "{name}: {} bytes came back", back.len());
        egret.record(&format!("/{name}\"")).shows(&[("response_code", "200"), ("bytes_received", "3200000")]);
    }
    assert_eq!(field(&origin.requests()[1], "transfer-encoding"), Some("chunked"));
}

/// ISTIO 7: a targetPort and a port-level policy, without a VirtualService.
#[test]
fn a_target_port_with_a_rule_for_port_80_does_the_same() {
    let world = World::new(&["edition.example"]);
    let port = world.nginx.tls().port();
    let rules = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: edition }}
spec:
  hosts: [edition.example]
  resolution: DNS
  ports:
  - {{ number: 80, name: http-port, protocol: HTTP, targetPort: {port} }}
  - {{ number: 443, name: https-port, protocol: HTTPS, targetPort: {port} }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: edition }}
spec:
  host: edition.example
  trafficPolicy:
    portLevelSettings: [{{ port: {{ number: 80 }}, tls: {} }}]
",
        world.simple("")
    );
    let egret = world.start(&rules);
    assert_eq!(curl(&egret, &["http://edition.example/politics"]), "politics\n");
    egret.record("/politics").shows(&[("response_code", "200"), ("upstream_cluster", "outbound|80||edition.example")]);
    let ca = world.ca.to_str().unwrap();
    assert_eq!(curl(&egret, &["--cacert", ca, "https://edition.example/politics"]), "politics\n");
    egret.record("CONNECT").shows(&[("upstream_cluster", "outbound|443||edition.example")]);
}

#[test]
fn connections_are_kept_and_sessions_resumed() {
    let world = World::new(&["edition.example"]);
    let egret = world.start(&task(world.nginx.tls().port(), &world.simple("")));
    // Two clients, one connection to nginx: `requests` is nginx's count on the connection.
    for (n, reused) in [(1, "false"), (2, "true")] {
        assert_eq!(client::get(egret.proxy(), &format!("http://edition.example/politics?kept={n}")).status, 200);
        let line = world.nginx.line(&format!("kept={n} "), 1);
        assert!(line.ends_with(&format!("reused=. requests={n}")), "{line}");
        // The line is written when the connection is back in the pool.
        egret.record(&format!("kept={n}\"")).shows(&[("reused", reused)]);
    }
    // nginx closes after this answer, so the next one needs a connection of its own, and resumes the session.
    assert_eq!(client::get(egret.proxy(), "http://edition.example/close").status, 200);
    egret.record("/close").shows(&[("reused", "true"), ("response_code", "200")]);
    assert_eq!(client::get(egret.proxy(), "http://edition.example/politics?resumed").status, 200);
    let line = world.nginx.line("?resumed", 1);
    assert!(line.ends_with("reused=r requests=1"), "{line}");
    egret.record("?resumed").shows(&[("reused", "false"), ("response_code", "200")]);
}

#[test]
fn sni_and_names_of_the_rule_are_what_counts() {
    let world = World::new(&["other.example"]);
    // The rule's SNI goes out; one of its names is in the certificate, though the host asked for is not.
    let tls = world.simple("sni: other.example, subjectAltNames: [absent.example, other.example]");
    let egret = world.start(&task(world.nginx.tls().port(), &tls));
    assert_eq!(curl(&egret, &["http://edition.example/politics"]), "politics\n");
    let line = world.nginx.line("/politics", 1);
    assert!(line.contains("host=edition.example sni=other.example"), "{line}");
    egret.record("/politics").shows(&[("response_code", "200"), ("upstream_cluster", CLUSTER)]);
}

/// nginx asks for a certificate by the test's authority: mode MUTUAL shows one from files or from a Secret, SIMPLE has none to show.
#[test]
fn a_client_certificate_is_shown_where_the_rule_has_one() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = authority.issue(&folder, "origin", &["edition.example"]);
    let client = authority.issue(&folder, "client", &["egret.example"]);
    let ca = authority.write(&folder, "ca.pem");
    let verify = format!("ssl_client_certificate {}; ssl_verify_client on; {}", ca.display(), super::LOCATIONS);
    let nginx = Nginx::start(&folder, &verify, &certificate);
    let secret = |key: &str, file: &Path| {
        format!(
            "  {key}: |\n{}",
            std::fs::read_to_string(file).unwrap().lines().map(|line| format!("    {line}\n")).collect::<String>()
        )
    };
    let secret = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: client-credential }}\nstringData:\n{}{}{}",
        secret("tls.crt", &client.certificate),
        secret("tls.key", &client.key),
        secret("ca.crt", &ca)
    );
    let files = format!(
        "{{ mode: MUTUAL, caCertificates: {}, clientCertificate: {}, privateKey: {} }}",
        ca.display(),
        client.certificate.display(),
        client.key.display()
    );
    let simple = format!("{{ mode: SIMPLE, caCertificates: {} }}", ca.display());
    for (tls, secret, status) in [
        (files.as_str(), "", "200"),
        ("{ mode: MUTUAL, credentialName: client-credential }", secret.as_str(), "200"),
        (simple.as_str(), "", "400"), // nginx: No required SSL certificate was sent
    ] {
        let rules = task(nginx.tls().port(), tls) + secret;
        let egret = Setup { rules: &rules, hosts: super::HOSTS, ..Setup::default() }.start(&folder);
        let answer = client::get(egret.proxy(), "http://edition.example/politics");
        assert_eq!(answer.status.to_string(), status, "{tls}: {}", answer.head);
        egret.record("/politics").shows(&[
            ("response_code", status),
            ("response_flags", "-"),
            ("upstream_cluster", CLUSTER),
        ]);
    }
}

#[test]
fn nothing_is_verified_where_the_rule_says_so() {
    let world = World::new(&["other.example"]);
    let egret = world.start(&task(world.nginx.tls().port(), "{ mode: SIMPLE, insecureSkipVerify: true }"));
    assert_eq!(curl(&egret, &["http://edition.example/politics"]), "politics\n");
    assert!(world.nginx.line("/politics", 1).contains("sni=edition.example"));
}
