//! TLS of the client inside of TLS that a rule originates, and an upstream that knows no TLS.

use std::io::Write;

use crate::support::certificates::Authority;
use crate::support::origin::Origin;
use crate::support::peer::{command, run};
use crate::support::{Egret, Folder, Setup, client};

/// `wrapped.example:5000`, a TCP port whose flows are wrapped into TLS.
fn proxy(origin: &Origin, consistency: &str) -> (Egret, Folder, Authority) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.write(&folder, "ca.pem");
    let egret = start(&folder, origin, consistency, &ca);
    (egret, folder, authority)
}

fn start(folder: &Folder, origin: &Origin, consistency: &str, ca: &std::path::Path) -> Egret {
    let rules = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: wrapped }}
spec:
  hosts: [wrapped.example]
  resolution: DNS
  ports: [{{ number: 5000, name: tcp, protocol: TCP, targetPort: {} }}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: wrapped }}
spec:
  host: wrapped.example
  trafficPolicy: {{ tls: {{ mode: SIMPLE, caCertificates: {} }} }}
",
        origin.address.port(),
        ca.display()
    );
    let mesh = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
    let hosts = &["wrapped.example"];
    Setup { mesh, rules: &rules, hosts, more: consistency, ..Setup::default() }.start(folder)
}

fn secure(authority: &Authority) -> Origin {
    Origin::mirror_tls(authority.server(&["wrapped.example"]))
}

#[test]
fn a_client_that_speaks_tls_itself_is_refused_with_a_reason_or_logged() {
    let authority = Authority::new();
    let origin = secure(&authority);
    for (consistency, enforced) in [("consistency: { mode: enforce }", true), ("consistency: { mode: warn }", false)] {
        let folder = Folder::new();
        let ca = authority.write(&folder, "ca.pem");
        let egret = start(&folder, &origin, consistency, &ca);
        // What the rule is for still works: plain in, TLS out.
        let mut tunnel = client::tunnel(egret.proxy(), "wrapped.example:5000");
        client::send(&mut tunnel, "GET /plain HTTP/1.1\r\nHost: wrapped.example\r\n\r\n");
        assert_eq!(client::read_answer(&mut tunnel).status, 200);
        drop(tunnel);
        egret
            .record("wrapped.example:5000")
            .shows(&[("response_code", "200"), ("upstream_transport_failure_reason", "")]);

        let proxy = format!("http://{}", egret.proxy());
        let mut curl = command("curl");
        let ran = run(curl
            .args(["-q", "-sS", "--max-time", "3", "-x", &proxy, "--cacert"])
            .arg(&ca)
            .arg("https://wrapped.example:5000/"));
        // Where it is only logged, the origin waits for a request in what are records of TLS to the client.
        assert_eq!(ran.code, Some(if enforced { 35 } else { 28 }), "{ran:?}");
        let sentence = "the client speaks TLS itself, which would go inside of the TLS that DestinationRule default/wrapped originates";
        let record = egret.nth_record("wrapped.example:5000", 2);
        assert!(format!("{record:?}").contains(sentence), "{record:?}");
        assert_eq!(record.get("reason") == "inconsistent_tunnel", enforced, "{record:?}");
        let metrics = String::from_utf8(client::get_from(egret.admin(), "/metrics").body).unwrap();
        let mode = if enforced { "enforce" } else { "warn" };
        let row = format!("egret_tunnels_inconsistent_total{{mode=\"{mode}\",reason=\"double_tls\"}} 1");
        assert!(metrics.contains(&row), "{metrics}");
    }
}

#[test]
fn an_upstream_that_answers_a_hello_in_plain_text_is_told_as_that() {
    for answer in ["HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "220 mail\r\n"] {
        let origin = Origin::new(move |mut stream| {
            let _ = stream.write_all(answer.as_bytes());
            let mut rest = Vec::new();
            let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
        });
        let (egret, _folder, _) = proxy(&origin, "");
        let (_, head) = client::connect(egret.proxy(), "wrapped.example:5000");
        assert!(head.starts_with("HTTP/1.1 502 Upstream TLS Error\r\n"), "{head}");
        let sentence = "TLS with wrapped.example:5000 failed: the upstream answered in plain text, not in TLS";
        assert!(head.contains(sentence), "{head}");
        let record = egret.record("CONNECT");
        record.shows(&[("response_code", "502"), ("response_flags", "UF"), ("reason", "tls_protocol_error")]);
        let reason = record.get("upstream_transport_failure_reason");
        assert!(reason.ends_with("the upstream answered in plain text, not in TLS"), "{reason}");
    }
}
