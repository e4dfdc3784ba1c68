//! Several parents: failover, weights, probes.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use super::{by_policy, rule};
use crate::support::certificates::Authority;
use crate::support::origin::{Origin, read_head};
use crate::support::peer::free_ports;
use crate::support::squid::{Squid, Squidly};
use crate::support::{Egret, Folder, client, eventually};

const NAMES: &[&str] = &["origin.example", "denied.example", "probe.example"];

/// The parents behind one service, in this order; each with its weight.
fn parents(at: &[(SocketAddr, u32)]) -> String {
    let endpoints: String = at
        .iter()
        .map(|(address, weight)| {
            format!("  - {{ address: {}, ports: {{ tcp: {} }}, weight: {weight} }}\n", address.ip(), address.port())
        })
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: parent }}
spec:
  hosts: [parent.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{ number: 3128, name: tcp, protocol: TCP }}]
  endpoints:
{endpoints}"
    )
}

const ROUND_ROBIN: &str = "trafficPolicy: { loadBalancer: { simple: ROUND_ROBIN } }";

fn closed() -> SocketAddr {
    let [port] = free_ports();
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A parent that answers each CONNECT with this head, and counts them; after a 200 it echoes.
fn saying(head: &'static str) -> (Origin, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let origin = Origin::new(move |mut stream| {
        if read_head(&mut stream).is_none() {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let _ = stream.write_all(head.as_bytes());
        if let Ok(mut reader) = stream.try_clone() {
            let _ = std::io::copy(&mut reader, &mut stream);
        }
    });
    (origin, asked)
}

const OPENS: &str = "HTTP/1.1 200 OK\r\n\r\n";

#[test]
fn one_that_is_down_or_cannot_reach_the_target_is_passed_over_for_this_flow() {
    let hanging_up = Origin::new(|mut stream| {
        read_head(&mut stream);
    });
    for (broken, name) in [
        (closed(), "refuses connections"),
        (hanging_up.address, "hangs up"),
        (saying("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").0.address, "500"),
        (saying("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").0.address, "502"),
        (saying("HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n").0.address, "503"),
        (saying("HTTP/1.1 504 Timeout\r\nContent-Length: 0\r\n\r\n").0.address, "504"),
        (saying("SSH-2.0-x\r\n").0.address, "is none"),
    ] {
        let (good, asked) = saying(OPENS);
        let folder = Folder::new();
        let rules = parents(&[(broken, 1), (good.address, 1)]) + &rule("", ROUND_ROBIN);
        let egret = by_policy(&rules).start(&folder);
        for n in 1..=4 {
            let mut tunnel = client::tunnel(egret.proxy(), "origin.example:443");
            assert!(client::echoes(&mut tunnel, b"ping"), "{name}");
            drop(tunnel);
            egret.nth_record("CONNECT", n).shows(&[
                ("response_code", "200"),
                ("response_flags", "-"),
                ("hop", &good.address.to_string()),
                ("hop_status", ""),
            ]);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 4, "{name}");
    }
}

#[test]
fn what_a_parent_says_of_the_request_is_final_and_never_means_direct() {
    let origin = Origin::echo();
    let target = format!("origin.example:{}", origin.address.port());
    for (head, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"),
        ("HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n", "407"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
    ] {
        let (one, one_asked) = saying(head);
        let (other, other_asked) = saying(head);
        let folder = Folder::new();
        let egret = by_policy(&parents(&[(one.address, 1), (other.address, 1)])).start(&folder);
        let (_, answer) = client::connect(egret.proxy(), &target);
        assert!(answer.starts_with(&format!("HTTP/1.1 502 Parent Proxy Refused ({status})\r\n")), "{answer}");
        assert_eq!(one_asked.load(Ordering::Relaxed) + other_asked.load(Ordering::Relaxed), 1, "{status}");
        egret.record("CONNECT").shows(&super::refused(status));
    }
    // None is there: nothing is dialled in their place, though the target could be reached.
    let folder = Folder::new();
    let rules = parents(&[(closed(), 1), (closed(), 1), (closed(), 1)]);
    let egret = crate::support::Setup { hosts: &["origin.example"], ..by_policy(&rules) }.start(&folder);
    let (_, answer) = client::connect(egret.proxy(), &target);
    assert!(answer.starts_with("HTTP/1.1 502 Connection Refused By Upstream\r\n"), "{answer}");
    assert!(answer.contains(&format!("the parent proxy on the way to {target} failed")), "{answer}");
    egret.record("CONNECT").shows(&[
        ("response_code", "502"),
        ("response_flags", "UF"),
        ("upstream_cluster", "PassthroughCluster"),
    ]);
}

#[test]
fn weights_share_out_flows() {
    let (one, one_asked) = saying(OPENS);
    let (three, three_asked) = saying(OPENS);
    let folder = Folder::new();
    let rules = parents(&[(one.address, 1), (three.address, 3)]) + &rule("", ROUND_ROBIN);
    let egret = by_policy(&rules).start(&folder);
    for _ in 0..40 {
        drop(client::tunnel(egret.proxy(), "origin.example:443"));
    }
    assert_eq!((one_asked.load(Ordering::Relaxed), three_asked.load(Ordering::Relaxed)), (10, 30));
}

#[test]
fn two_squids_stand_in_for_each_other() {
    let authority = Authority::new();
    let asked = Squidly { hosts: NAMES, ..Squidly::default() };
    let (mut one, two) = (Squid::start(asked, &authority), Squid::start(asked, &authority));
    let origin = Origin::echo();
    let target = format!("origin.example:{}", origin.address.port());
    let folder = Folder::new();
    let rules = parents(&[(one.plain(), 1), (two.plain(), 1)]) + &rule("", ROUND_ROBIN);
    let egret = by_policy(&rules).start(&folder);
    let hops = |from: usize| -> Vec<String> {
        (from..from + 4)
            .map(|n| {
                assert!(client::echoes(&mut client::tunnel(egret.proxy(), &target), b"x"));
                egret.nth_record("CONNECT", n).get("hop")
            })
            .collect()
    };
    let (first, second) = (one.plain().to_string(), two.plain().to_string());
    let both = hops(1);
    assert!(both.contains(&first) && both.contains(&second), "{both:?}");
    one.kill();
    assert!(hops(5).iter().all(|hop| *hop == second));
}

#[test]
fn one_whose_tls_fails_is_passed_over() {
    let authority = Authority::new();
    let squid = Squid::start(Squidly { hosts: NAMES, ..Squidly::default() }, &authority);
    let (plain, asked) = saying(OPENS);
    let stranger = Squid::start(Squidly { hosts: NAMES, ..Squidly::default() }, &Authority::new());
    let origin = Origin::echo();
    let target = format!("origin.example:{}", origin.address.port());
    let folder = Folder::new();
    let ca = authority.write(&folder, "ca.pem");
    let policy = format!(
        "trafficPolicy: {{ loadBalancer: {{ simple: ROUND_ROBIN }}, tls: {{ mode: SIMPLE, caCertificates: {} }}, connectionPool: {{ tcp: {{ connectTimeout: 1s }} }} }}",
        ca.display()
    );
    // One answers nothing that is TLS, one shows a certificate of somebody else's, the third is good.
    let rules = parents(&[(plain.address, 1), (stranger.tls(), 1), (squid.tls(), 1)]) + &rule("", &policy);
    let egret = by_policy(&rules).start(&folder);
    for n in 1..=3 {
        assert!(client::echoes(&mut client::tunnel(egret.proxy(), &target), b"over TLS"));
        egret.nth_record("CONNECT", n).shows(&[("response_code", "200"), ("hop", &squid.tls().to_string())]);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0, "no CONNECT goes where TLS did not come about");
}

/// A parent whose answer to CONNECT can be changed.
struct Moody {
    origin: Origin,
    is_good: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    probed: Arc<AtomicUsize>,
}

impl Moody {
    fn new() -> Self {
        let is_good = Arc::new(AtomicBool::new(true));
        let (asked, probed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (good, count, probes) = (is_good.clone(), asked.clone(), probed.clone());
        let origin = Origin::new(move |mut stream| {
            let Some(head) = read_head(&mut stream) else { return };
            let is_probe = head.starts_with("CONNECT probe.example:443 ");
            if is_probe { &probes } else { &count }.fetch_add(1, Ordering::Relaxed);
            let head =
                if good.load(Ordering::Relaxed) { OPENS } else { "HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n" };
            let _ = stream.write_all(head.as_bytes());
            if let Ok(mut reader) = stream.try_clone() {
                let _ = std::io::copy(&mut reader, &mut stream);
            }
        });
        Self { origin, is_good, asked, probed }
    }
}

fn clusters(egret: &Egret) -> String {
    String::from_utf8(client::get_from(egret.admin(), "/clusters?filter=parent.example").body).unwrap()
}

#[test]
fn probes_take_a_parent_out_and_back_in_and_end_with_their_rule() {
    let (one, other) = (Moody::new(), Moody::new());
    let addresses = [(one.origin.address, 1), (other.origin.address, 1)];
    let probing =
        "egret.dev/proxy-probe: \"probe.example:443 interval=1s timeout=1s unhealthyThreshold=2 healthyThreshold=1\"";
    let folder = Folder::new();
    let egret = by_policy(&(parents(&addresses) + &rule(probing, ROUND_ROBIN))).start(&folder);
    let health = |address: SocketAddr, flags: &str| format!("{address}::health_flags::{flags}");
    eventually("both are probed", || {
        one.probed.load(Ordering::Relaxed) > 0 && other.probed.load(Ordering::Relaxed) > 0
    });
    assert!(clusters(&egret).contains(&health(one.origin.address, "healthy")), "{}", clusters(&egret));

    one.is_good.store(false, Ordering::Relaxed);
    eventually("the one is found to be down", || {
        clusters(&egret).contains(&health(one.origin.address, "/failed_active_hc"))
    });
    let line = egret.stderr.wait_for("the parent proxy is down");
    assert!(line.contains(&one.origin.address.to_string()) && line.contains("answered 503 Down"), "{line}");
    let asked = one.asked.load(Ordering::Relaxed);
    for _ in 0..6 {
        assert!(client::echoes(&mut client::tunnel(egret.proxy(), "origin.example:443"), b"x"));
    }
    assert_eq!(one.asked.load(Ordering::Relaxed), asked, "one that is down is not asked while another is left");
    let metrics = String::from_utf8(client::get_from(egret.admin(), "/metrics").body).unwrap();
    let up = |address: SocketAddr| {
        format!("egret_parent_up{{parent=\"{address}\",cluster=\"outbound|3128||parent.example\"}}")
    };
    assert!(metrics.contains(&format!("{} 0\n", up(one.origin.address))), "{metrics}");
    assert!(metrics.contains(&format!("{} 1\n", up(other.origin.address))), "{metrics}");
    let json = client::get_from(egret.admin(), "/clusters?format=json&filter=parent.example").body;
    let json: Value = serde_json::from_slice(&json).unwrap();
    let text = json.to_string();
    assert!(text.contains("\"failed_active_health_check\":true") && text.contains("answered 503 Down"), "{text}");

    // All are down: they are asked all the same, and nothing else is.
    other.is_good.store(false, Ordering::Relaxed);
    eventually("both are found to be down", || {
        clusters(&egret).contains(&health(other.origin.address, "/failed_active_hc"))
    });
    let (_, answer) = client::connect(egret.proxy(), "origin.example:443");
    assert!(answer.starts_with("HTTP/1.1 502 Parent Proxy Refused (503)\r\n"), "{answer}");
    one.is_good.store(true, Ordering::Relaxed);
    assert!(client::echoes(&mut client::tunnel(egret.proxy(), "origin.example:443"), b"whoever is left"));
    eventually("the one is back", || clusters(&egret).contains(&health(one.origin.address, "healthy")));
    egret.stderr.wait_for("the parent proxy is up again");

    // Without the annotation nobody probes any more; what they found is forgotten.
    folder.write("rules.yaml", &(parents(&addresses) + &rule("", ROUND_ROBIN)));
    assert!(egret.reload().contains("reloaded"));
    assert!(!clusters(&egret).contains("health_flags"), "{}", clusters(&egret));
    let metrics = String::from_utf8(client::get_from(egret.admin(), "/metrics").body).unwrap();
    assert!(!metrics.contains("egret_parent_up{"), "{metrics}");
}

#[test]
fn probes_bring_credentials_and_go_over_tls() {
    let authority = Authority::new();
    let squid =
        Squid::start(Squidly { hosts: NAMES, login: Some(("egret", "right")), ..Squidly::default() }, &authority);
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("probe.example:{}", origin.local_addr().unwrap().port());
    let folder = Folder::new();
    let ca = authority.write(&folder, "ca.pem");
    folder.write("login", "egret:right\n");
    let rules = |password: &str| {
        folder.write("login", &format!("egret:{password}\n"));
        let annotations = format!(
            "egret.dev/proxy-authorization: \"file://{}/login\", egret.dev/proxy-probe: \"{target}, interval=1s, unhealthyThreshold=1\"",
            folder.path().display()
        );
        let tls = format!("trafficPolicy: {{ tls: {{ mode: SIMPLE, caCertificates: {} }} }}", ca.display());
        super::parent(squid.tls().port()) + &rule(&annotations, &tls)
    };
    let egret = by_policy(&rules("right")).start(&folder);
    assert!(squid.line(&format!("CONNECT {target}")).contains(" egret "));
    assert!(clusters(&egret).contains("health_flags::healthy"), "{}", clusters(&egret));
    rules("wrong");
    let line = egret.stderr.wait_for("the parent proxy is down");
    assert!(line.contains("407") && line.contains("/login") && !line.contains("wrong"), "{line}");
}
