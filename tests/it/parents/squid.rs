//! squid.

use std::io::{Read, Write};
use std::time::Instant;

use super::{BY_POLICY, by_policy, parent, refused, rule};
use crate::support::certificates::Authority;
use crate::support::client::{self, Answer};
use crate::support::origin::{Origin, field, read_head};
use crate::support::peer::{command, run};
use crate::support::squid::{Squid, Squidly};
use crate::support::{Egret, Folder, Setup};

const NAMES: &[&str] = &["origin.example", "denied.example"];
const BULK: usize = 4 << 20; // more than all buffers on the way hold
const DENYING: &str = "acl denied dstdomain denied.example\nhttp_access deny denied\n";

fn start(asked: Squidly<'_>) -> Squid {
    Squid::start(Squidly { hosts: NAMES, ..asked }, &Authority::new())
}

/// An answer to a CONNECT that was refused.
fn refusal(egret: &Egret, target: &str) -> Answer {
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    client::read_answer(&mut stream)
}

#[track_caller]
fn says_it_was_the_parent(answer: &Answer, target: &str, status: u16, reason: &str) {
    let head = &answer.head;
    assert!(head.starts_with(&format!("HTTP/1.1 502 Parent Proxy Refused ({status})\r\n")), "{head}");
    let sentence = format!("the parent proxy on the way to {target} answered {status} {reason}");
    let fields = format!("; error=destination_unavailable; received-status={status}; details=\"{sentence}\"; ");
    assert!(field(head, "proxy-status").is_some_and(|value| value.contains(&fields)), "{head}");
    assert_eq!(String::from_utf8_lossy(&answer.body), format!("egret: {sentence} (hop_refused)\n"));
    assert_eq!(field(head, "connection"), Some("close"));
    assert_eq!(field(head, "proxy-authenticate"), None, "its credentials are not the client's to give: {head}");
}

#[test]
fn unknown_targets_go_through_it_and_it_resolves_their_names() {
    let squid = start(Squidly::default());
    let hop = squid.plain().to_string();
    let folder = Folder::new();
    let egret = by_policy(&parent(squid.plain().port())).start(&folder);
    let origin = Origin::echo();
    let target = format!("origin.example:{}", origin.address.port());
    let mut tunnel = client::tunnel(egret.proxy(), &target);
    assert!(client::echoes(&mut tunnel, b"through the parent"));
    drop(tunnel);
    let record = egret.record("CONNECT");
    record.shows(&[
        ("response_code", "200"),
        ("response_flags", "-"),
        ("response_code_details", "via_upstream"),
        ("authority", &target),
        ("upstream_host", &squid.plain().to_string()),
        ("upstream_cluster", "PassthroughCluster"),
        ("hop", &hop),
        ("hop_status", ""),
    ]);
    let line = squid.line(&target);
    assert!(line.contains("TCP_TUNNEL/200") && line.contains("HIER_DIRECT/127.0.0.1"), "{line}");
}

#[test]
fn plain_requests_go_by_connect_unless_the_parent_wants_them_whole() {
    let squid = start(Squidly { access: DENYING, ..Squidly::default() });
    let hop = squid.plain().to_string();
    let origin = Origin::mirror();
    let port = origin.address.port();
    let folder = Folder::new();
    let egret = by_policy(&parent(squid.plain().port())).start(&folder);
    assert_eq!(client::get(egret.proxy(), &format!("http://origin.example:{port}/tunnelled")).status, 200);
    assert!(origin.requests()[0].starts_with("GET /tunnelled HTTP/1.1\r\n"));
    egret.record("/tunnelled").shows(&[("response_code", "200"), ("hop", &hop)]);
    drop(egret); // squid logs a tunnel when it ends, and this one was kept for the next request
    let line = squid.line(&format!("origin.example:{port}"));
    assert!(line.contains("CONNECT"), "{line}");

    let folder = Folder::new();
    let rules = parent(squid.plain().port()) + &rule("egret.dev/proxy-http: absolute-form", "");
    let egret = by_policy(&rules).start(&folder);
    let answer = client::get(egret.proxy(), &format!("http://origin.example:{port}/whole"));
    assert_eq!(answer.status, 200, "{}", answer.head);
    let line = squid.line("/whole");
    assert!(line.contains("GET http://origin.example"), "{line}");
    let head = origin.requests()[1].clone();
    assert!(head.contains("1.1 egret-") && head.contains("1.1 parent (squid"), "both are named in Via: {head}");
    egret.record("/whole").shows(&[
        ("response_code", "200"),
        ("response_code_details", "via_upstream"),
        ("upstream_host", &squid.plain().to_string()),
        ("hop", &hop),
    ]);
    assert_eq!(client::get(egret.proxy(), &format!("http://origin.example:{port}/again")).status, 200);
    egret.record("/again").shows(&[("reused", "true"), ("hop", &hop)]);
    // In absolute-form the parent's page is an answer like any other.
    let answer = client::get(egret.proxy(), "http://denied.example/page");
    assert_eq!(answer.status, 403);
    assert_eq!(field(&answer.head, "x-squid-error"), Some("ERR_ACCESS_DENIED 0"), "{}", answer.head);
    egret.record("/page").shows(&[("response_code", "403"), ("response_flags", "-"), ("hop", &hop)]);
}

#[test]
fn what_its_acl_denies_is_502_and_names_it() {
    let squid = start(Squidly { access: DENYING, ..Squidly::default() });
    let folder = Folder::new();
    let egret = by_policy(&parent(squid.plain().port())).start(&folder);
    says_it_was_the_parent(&refusal(&egret, "denied.example:443"), "denied.example:443", 403, "Forbidden");
    let record = egret.record("CONNECT");
    record.shows(&refused("403"));
    let detail = format!("denied.example:443: parent proxy {} answered 403 Forbidden", squid.plain());
    record.shows(&[("detail", &detail), ("hop", &squid.plain().to_string())]);
    // Through a tunnel of ours a plain request meets the same refusal.
    let answer = client::get(egret.proxy(), "http://denied.example/plain");
    says_it_was_the_parent_for_plain(&answer);
    egret.record("/plain").shows(&refused("403"));
}

#[track_caller]
fn says_it_was_the_parent_for_plain(answer: &Answer) {
    assert!(answer.head.starts_with("HTTP/1.1 502 Parent Proxy Refused (403)\r\n"), "{}", answer.head);
    assert!(answer.head.contains("; received-status=403; "), "{}", answer.head);
}

#[test]
fn credentials_come_from_a_secret_or_a_file_and_wrong_ones_are_502() {
    let squid = start(Squidly { login: Some(("egret", "pa:ss")), ..Squidly::default() });
    let hop = squid.plain().to_string();
    let origin = Origin::echo();
    let target = format!("origin.example:{}", origin.address.port());
    let folder = Folder::new();
    folder.write("login", "egret:pa:ss\n");
    let from_file = format!("egret.dev/proxy-authorization: \"file://{}/login\"", folder.path().display());
    let secret = |password: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: login }}\nstringData: {{ username: egret, password: \"{password}\" }}\n"
        )
    };
    let from_secret = "egret.dev/proxy-authorization: \"secret://login\"";
    let parent = parent(squid.plain().port());
    for rules in [parent.clone() + &rule(&from_file, ""), parent.clone() + &rule(from_secret, "") + &secret("pa:ss")] {
        let egret = by_policy(&rules).start(&folder);
        assert!(client::echoes(&mut client::tunnel(egret.proxy(), &target), b"known"));
        egret.record("CONNECT").shows(&[("response_code", "200"), ("hop", &hop), ("identity", "")]);
    }
    assert!(squid.line(&target).contains(" egret "), "squid logs the user");
    for rules in [parent.clone(), parent + &rule(from_secret, "") + &secret("wrong")] {
        let egret = by_policy(&rules).start(&folder);
        let answer = refusal(&egret, &target);
        says_it_was_the_parent(&answer, &target, 407, "Proxy Authentication Required");
        egret.record("CONNECT").shows(&refused("407"));
    }
}

#[test]
fn missing_credentials_are_our_configuration_error_and_the_parent_is_not_asked() {
    let folder = Folder::new();
    let [port] = crate::support::peer::free_ports();
    let rules = parent(port) + &rule("egret.dev/proxy-authorization: \"secret://login\"", "");
    let egret = by_policy(&rules).start(&folder);
    let answer = refusal(&egret, "origin.example:443");
    assert!(answer.head.starts_with("HTTP/1.1 503 Proxy Configuration Error\r\n"), "{}", answer.head);
    assert!(!answer.head.contains("login"), "{}", answer.head);
    egret.record("CONNECT").shows(&[("response_code", "503"), ("response_flags", "NC"), ("hop_status", "")]);
}

#[test]
fn it_is_reached_over_tls_and_its_certificate_is_verified() {
    let authority = Authority::new();
    let squid = Squid::start(Squidly { hosts: NAMES, ..Squidly::default() }, &authority);
    let hop = squid.tls().to_string();
    let origin = Origin::echo();
    let target = format!("origin.example:{}", origin.address.port());
    let folder = Folder::new();
    let (ca, other) = (authority.write(&folder, "ca.pem"), Authority::new().write(&folder, "other.pem"));
    let originating = |ca: &std::path::Path, annotations: &str| {
        let tls = format!("trafficPolicy: {{ tls: {{ mode: SIMPLE, caCertificates: {} }} }}", ca.display());
        parent(squid.tls().port()) + &rule(annotations, &tls)
    };
    let egret = by_policy(&originating(&ca, "")).start(&folder);
    let mut tunnel = client::tunnel(egret.proxy(), &target);
    assert!(client::echoes(&mut tunnel, b"over TLS"));
    let mut sender = tunnel.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&vec![7; BULK]).unwrap());
    let mut back = vec![0; BULK];
    tunnel.read_exact(&mut back).unwrap();
    assert!(back.iter().all(|byte| *byte == 7));
    sending.join().unwrap();
    drop(tunnel);
    let line = squid.line(&target);
    assert!(line.contains("TCP_TUNNEL/200"), "{line}");
    egret.record("CONNECT").shows(&[("response_code", "200"), ("hop", &hop)]);

    let mirror = Origin::mirror();
    let egret = by_policy(&originating(&ca, "egret.dev/proxy-http: absolute-form")).start(&folder);
    let answer = client::get(egret.proxy(), &format!("http://origin.example:{}/whole", mirror.address.port()));
    assert_eq!(answer.status, 200, "{}", answer.head);
    squid.line("/whole");
    egret.record("/whole").shows(&[("response_code", "200"), ("upstream_host", &hop), ("hop", &hop)]);

    let egret = by_policy(&originating(&other, "")).start(&folder);
    let answer = refusal(&egret, &target);
    assert!(answer.head.starts_with("HTTP/1.1 502 Upstream Certificate Invalid\r\n"), "{}", answer.head);
    let sentence = format!("egret: the parent proxy on the way to {target} failed: Upstream Certificate Invalid");
    assert!(
        String::from_utf8_lossy(&answer.body).starts_with(&sentence),
        "{:?}",
        String::from_utf8_lossy(&answer.body)
    );
    let record = egret.record("CONNECT");
    record.shows(&[("response_code", "502"), ("response_flags", "UF"), ("reason", "tls_certificate_error")]);
    record.shows(&[("hop", &hop), ("hop_status", "")]);
    assert!(!record.get("upstream_transport_failure_reason").is_empty(), "{record:?}");
}

#[test]
fn one_that_is_down_is_named_as_the_one_that_failed() {
    let mut squid = start(Squidly::default());
    let hop = squid.plain().to_string();
    let folder = Folder::new();
    let egret = by_policy(&parent(squid.plain().port())).start(&folder);
    squid.kill();
    let answer = refusal(&egret, "origin.example:443");
    assert!(answer.head.starts_with("HTTP/1.1 502 Connection Refused By Upstream\r\n"), "{}", answer.head);
    let sentence = "the parent proxy on the way to origin.example:443 failed: Connection Refused By Upstream";
    assert!(answer.head.contains(sentence), "{}", answer.head);
    let record = egret.record("CONNECT");
    record.shows(&[("response_code", "502"), ("response_flags", "UF"), ("reason", "connection_refused")]);
    record.shows(&[("hop", &hop), ("hop_status", "")]);
    assert!(record.get("detail").contains(&squid.plain().to_string()), "{record:?}");
}

/// In absolute-form the way to the parent is the same, and so is what is said of it.
#[test]
fn what_fails_in_absolute_form_is_the_parents_too() {
    let mut squid = start(Squidly { login: Some(("egret", "right")), ..Squidly::default() });
    let hop = squid.plain().to_string();
    let folder = Folder::new();
    let rules = parent(squid.plain().port()) + &rule("egret.dev/proxy-http: absolute-form", "");
    let egret = by_policy(&rules).start(&folder);
    let answer = client::get(egret.proxy(), "http://origin.example/unknown");
    assert!(answer.head.starts_with("HTTP/1.1 502 Parent Proxy Refused (407)\r\n"), "{}", answer.head);
    assert!(answer.head.contains("; received-status=407; ") && field(&answer.head, "proxy-authenticate").is_none());
    let record = egret.record("/unknown");
    record.shows(&refused("407"));
    record.shows(&[("hop", &hop)]);
    squid.kill();
    let answer = client::get(egret.proxy(), "http://origin.example/down");
    assert!(answer.head.starts_with("HTTP/1.1 502 Connection Refused By Upstream\r\n"), "{}", answer.head);
    let sentence = "the parent proxy on the way to origin.example:80 failed: Connection Refused By Upstream";
    assert!(answer.head.contains(sentence), "{}", answer.head);
    egret.record("/down").shows(&[("response_flags", "UF"), ("reason", "connection_refused"), ("hop", &hop)]);
}

#[test]
fn a_websocket_goes_through_it() {
    let squid = start(Squidly::default());
    let origin = Origin::new(|mut stream| {
        read_head(&mut stream).unwrap();
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .unwrap();
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
    });
    let folder = Folder::new();
    let egret = by_policy(&parent(squid.plain().port())).start(&folder);
    let mut stream = client::dial(egret.proxy());
    let authority = format!("origin.example:{}", origin.address.port());
    let fields =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdA==";
    client::send(
        &mut stream,
        &format!("GET http://{authority}/chat HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n\r\n"),
    );
    assert!(read_head(&mut stream).unwrap().starts_with("HTTP/1.1 101 "));
    assert!(client::echoes(&mut stream, b"frame"));
    drop(stream);
    egret.record("/chat").shows(&[
        ("response_code", "101"),
        ("hop", &squid.plain().to_string()),
        ("response_flags", "-"),
    ]);
}

/// What may not be dialled may not be asked of a parent either, on a kept connection as on a new one. (240/4 leads nowhere, should
/// it be asked for all the same.)
#[test]
fn addresses_that_are_closed_to_us_are_not_asked_of_it() {
    let squid = start(Squidly::default());
    let origin = Origin::mirror();
    for annotations in ["", "egret.dev/proxy-http: absolute-form"] {
        let folder = Folder::new();
        let egret = by_policy(&(parent(squid.plain().port()) + &rule(annotations, ""))).start(&folder);
        for n in 1..=2 {
            let url = format!("http://240.0.0.1/latest?{n}");
            let answer = client::get(egret.proxy(), &url);
            assert!(answer.head.starts_with("HTTP/1.1 403 Destination Address Prohibited\r\n"), "{}", answer.head);
            let record = egret.record(&format!("/latest?{n}"));
            record.shows(&[("reason", "destination_ip_prohibited"), ("upstream_host", ""), ("response_flags", "-")]);
            let kept = format!("http://origin.example:{}/kept", origin.address.port());
            assert_eq!(client::get(egret.proxy(), &kept).status, 200);
        }
    }
}

/// squid asks a helper about each request: sort reads all its input before it says a word, and ends with squid.
#[test]
fn one_that_is_slow_is_504_after_the_connect_timeout() {
    let squid = start(Squidly {
        access: "external_acl_type slow ttl=0 concurrency=0 children-max=1 %DST /usr/bin/sort\nacl slow external slow\nhttp_access deny !slow\n",
        ..Squidly::default()
    });
    let hop = squid.plain().to_string();
    let folder = Folder::new();
    let mesh = format!("connectTimeout: 300ms, {BY_POLICY}");
    let rules = parent(squid.plain().port());
    let egret = Setup { mesh: &mesh, rules: &rules, ..Setup::default() }.start(&folder);
    let started = Instant::now();
    let answer = refusal(&egret, "origin.example:443");
    assert!((290..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert!(answer.head.starts_with("HTTP/1.1 504 Connection To Upstream Timed Out\r\n"), "{}", answer.head);
    assert!(answer.head.contains("the parent proxy on the way to origin.example:443 failed"), "{}", answer.head);
    let record = egret.record("CONNECT");
    record.shows(&[("response_code", "504"), ("response_flags", "UF"), ("reason", "connection_timeout")]);
    record.shows(&[("hop", &hop), ("hop_status", "")]);
}

/// `tunnel` of a DestinationRule: a named host goes through the parent to the rule's own target.
#[test]
fn a_route_to_a_tunnel_subset_goes_through_it() {
    let squid = start(Squidly { access: DENYING, ..Squidly::default() });
    let hop = squid.plain().to_string();
    let origin = Origin::echo();
    let folder = Folder::new();
    let rules = |target: &str| {
        parent(squid.plain().port())
            + &rule(
                "",
                &format!(
                    "subsets:\n  - name: api\n    trafficPolicy: {{ tunnel: {{ targetHost: {target}, targetPort: {} }} }}",
                    origin.address.port()
                ),
            )
            + API
    };
    // What flows is no TLS, which the port is declared for: that is not what this test is about.
    let more = "consistency: { mode: off }";
    let egret = Setup { mesh: REGISTRY_ONLY, more, rules: &rules("origin.example"), ..Setup::default() }.start(&folder);
    let mut tunnel = client::tunnel(egret.proxy(), "api.example:443");
    assert!(client::echoes(&mut tunnel, b"by rule"));
    drop(tunnel);
    let record = egret.record("CONNECT");
    record.shows(&[
        ("response_code", "200"),
        ("authority", "api.example:443"),
        ("upstream_cluster", "outbound|3128|api|parent.example"),
        ("hop", &hop),
        ("upstream_host", &squid.plain().to_string()),
    ]);
    assert!(squid.line("CONNECT").contains(&format!("origin.example:{}", origin.address.port())));

    let egret = Setup { mesh: REGISTRY_ONLY, rules: &rules("denied.example"), ..Setup::default() }.start(&folder);
    says_it_was_the_parent(&refusal(&egret, "api.example:443"), "api.example:443", 403, "Forbidden");
    egret.record("CONNECT").shows(&[("hop_status", "403"), ("upstream_cluster", "outbound|3128|api|parent.example")]);
}

/// TLS that comes by SNI leaves through the parent, still the client's own.
#[test]
fn forwarding_by_sni_goes_through_it_where_the_route_says_so() {
    let authority = Authority::new();
    let squid = Squid::start(Squidly { access: DENYING, hosts: NAMES, ..Squidly::default() }, &authority);
    let origin = Origin::mirror_tls(authority.server(&["api.example"]));
    let port = origin.address.port();
    let folder = Folder::new();
    let ca = authority.write(&folder, "ca.pem");
    let tunnel = format!(
        "subsets: [{{ name: api, trafficPolicy: {{ tunnel: {{ targetHost: origin.example, targetPort: {port} }} }} }}]"
    );
    let rules = parent(squid.plain().port()) + &rule("", &tunnel) + API;
    let listeners = "{ name: by-sni, protocol: sni, address: \"127.0.0.1:0\" }";
    let egret = Setup { mesh: REGISTRY_ONLY, listeners, rules: &rules, ..Setup::default() }.start(&folder);
    let to = format!("::127.0.0.1:{}", egret.address("by-sni").port());
    let mut curl = command("curl");
    curl.args(["-q", "-sS", "--connect-to", &to, "-d", "by SNI", "--cacert"]).arg(ca);
    assert_eq!(run(curl.arg("https://api.example/")).succeeded(), "by SNI");
    egret.record("api.example").shows(&[
        ("requested_server_name", "api.example"),
        ("response_flags", "-"),
        ("upstream_cluster", "outbound|3128|api|parent.example"),
        ("hop", &squid.plain().to_string()),
    ]);
    assert!(squid.line("CONNECT").contains(&format!("origin.example:{port}")));
}

const REGISTRY_ONLY: &str = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
const API: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: api }
spec:
  hosts: [api.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{ number: 443, name: tls, protocol: TLS }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: api }
spec:
  hosts: [api.example]
  tls:
  - match: [{ port: 443, sniHosts: [api.example] }]
    route: [{ destination: { host: parent.example, subset: api, port: { number: 3128 } } }]
";
