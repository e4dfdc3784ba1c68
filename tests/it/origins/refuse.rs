//! TLS origination that must fail: nothing of the request reaches an origin whose certificate is not right.

use super::{CLUSTER, World, task};
use crate::support::certificates::Authority;
use crate::support::client;

/// Asks for port 80 under a rule with this `tls` and expects 502 for `reason`; `sentence` is in the body, `logged` in the log.
#[track_caller]
fn refused(world: &World, tls: &str, reason: &str, phrase: &str, sentence: &str) {
    let egret = world.start(&task(world.nginx.tls().port(), tls));
    let answer = client::get(egret.proxy(), "http://edition.example/secret");
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.head.starts_with(&format!("HTTP/1.1 502 {phrase}\r\n")), "{}{body}", answer.head);
    assert!(body.contains(sentence), "{body}");
    let record = egret.record("/secret");
    record.shows(&[
        ("response_code", "502"),
        ("response_flags", "UF"),
        ("reason", reason),
        ("upstream_cluster", CLUSTER),
        ("upstream_host", &world.nginx.tls().to_string()),
    ]);
    let transport = record.get("upstream_transport_failure_reason");
    assert!(transport.contains("TLS"), "{record:?}");
    assert!(world.nginx.lines().is_empty(), "{:?}", world.nginx.lines());
}

#[track_caller]
fn certificate_refused(world: &World, tls: &str, sentence: &str) {
    let sentence = format!("the certificate of edition.example:80 is not valid: {sentence}");
    refused(world, tls, "tls_certificate_error", "Upstream Certificate Invalid", &sentence);
}

#[test]
fn a_certificate_for_another_name() {
    let world = World::new(&["other.example"]);
    certificate_refused(&world, &world.simple(""), "it is for other.example");
}

#[test]
fn a_certificate_by_an_unknown_authority() {
    let world = World::new(&["edition.example"]);
    let other = Authority::new().write(&world.folder, "other.pem");
    let tls = format!("{{ mode: SIMPLE, caCertificates: {} }}", other.display());
    certificate_refused(&world, &tls, "");
    certificate_refused(&world, "{ mode: SIMPLE }", ""); // the system's roots
}

#[test]
fn an_expired_certificate() {
    let world = World::with(|authority, folder| authority.issue_expired(folder, "origin", &["edition.example"]));
    certificate_refused(&world, &world.simple(""), "it has expired on 2002-01-01T00:00:00Z");
}

#[test]
fn a_certificate_with_none_of_the_rules_names() {
    let world = World::new(&["edition.example"]);
    certificate_refused(&world, &world.simple("subjectAltNames: [a.example, b.example]"), "");
}

#[test]
fn a_port_that_speaks_plain_http() {
    let world = World::new(&["edition.example"]);
    let egret = world.start(&task(world.nginx.plain().port(), &world.simple("")));
    let answer = client::get(egret.proxy(), "http://edition.example/secret");
    assert!(answer.head.starts_with("HTTP/1.1 502 Upstream TLS Error\r\n"), "{}", answer.head);
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(body.contains("the upstream answered in plain text, not in TLS"), "{body}");
    egret.record("/secret").shows(&[
        ("response_code", "502"),
        ("response_flags", "UF"),
        ("reason", "tls_protocol_error"),
    ]);
}

#[test]
fn a_missing_authority_file_is_503_and_nothing_weaker() {
    let world = World::new(&["edition.example"]);
    let egret = world.start(&task(world.nginx.tls().port(), "{ mode: SIMPLE, caCertificates: /none/ca.pem }"));
    let answer = client::get(egret.proxy(), "http://edition.example/secret");
    assert!(answer.head.starts_with("HTTP/1.1 503 Proxy Credential Missing\r\n"), "{}", answer.head);
    assert!(!String::from_utf8_lossy(&answer.body).contains("/none"), "{:?}", answer.body);
    let record = egret.record("/secret");
    record.shows(&[("response_code", "503"), ("response_flags", "UF"), ("upstream_cluster", CLUSTER)]);
    assert!(record.get("detail").contains("/none/ca.pem"), "{record:?}");
    assert!(record.get("upstream_transport_failure_reason").starts_with("/none/ca.pem: "), "{record:?}");
    assert!(world.nginx.lines().is_empty(), "{:?}", world.nginx.lines());
}

/// What is missing is named by every key that was tried, where an operator looks for it; the client learns nothing of it.
#[test]
fn a_missing_secret_is_503_and_says_what_was_looked_for() {
    let world = World::new(&["edition.example"]);
    let egret = world.start(&task(world.nginx.tls().port(), "{ mode: MUTUAL, credentialName: client-credential }"));
    let answer = client::get(egret.proxy(), "http://edition.example/secret");
    assert_eq!(answer.status, 503, "{}", answer.head);
    assert!(!(answer.head.clone() + &String::from_utf8_lossy(&answer.body)).contains("client-credential"));
    let record = egret.record("/secret");
    record.shows(&[("response_code", "503"), ("response_flags", "UF"), ("reason", "credential_missing")]);
    let why = record.get("upstream_transport_failure_reason");
    assert_eq!(why, "Secret default/client-credential is not there (wanted: cert and key or tls.crt and tls.key)");
    assert!(world.nginx.lines().is_empty(), "{:?}", world.nginx.lines());
}
