//! Clients that prove who they are by a certificate.

use std::io::{Read, Write};

use super::{count, secure, trusting};
use crate::support::certificates::Authority;
use crate::support::client::{dial, get_from};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::peer::{Ran, command, run};
use crate::support::{Egret, Folder, Setup, egret, eventually};

struct World {
    folder: Folder,
    egret: Egret,
    clients: Authority,
}

/// A proxy that asks for certificates of an authority of its own, as `asked` says.
fn world(asked: &str, mesh: &str) -> World {
    let (folder, servers, clients) = (Folder::new(), Authority::new(), Authority::new());
    servers.write(&folder, "ca.pem");
    clients.write(&folder, "clients.pem");
    servers.issue(&folder, "own", &["proxy.example", "127.0.0.1"]);
    let listeners = format!(
        "{{ name: proxy, address: \"127.0.0.1:0\", \
         tls: {{ certificate: own.pem, privateKey: own.key, clientCa: clients.pem, clientCertificate: {asked} }} }}"
    );
    let egret = Setup { listeners: &listeners, mesh, ..Setup::default() }.start(&folder);
    World { folder, egret, clients }
}

const FORMAT: &str = "accessLogFormat: '{\"code\": \"%RESPONSE_CODE%\", \"who\": \"%EGRET(identity)%\", \
     \"uri\": \"%DOWNSTREAM_PEER_URI_SAN%\", \"dns\": \"%DOWNSTREAM_PEER_DNS_SAN%\", \
     \"subject\": \"%DOWNSTREAM_PEER_SUBJECT%\", \"issuer\": \"%DOWNSTREAM_PEER_ISSUER%\"}'";

fn curl(world: &World, certificate: Option<&str>, url: &str) -> Ran {
    let mut curl = command("curl");
    curl.args(["-q", "-sS", "--max-time", "15", "-x", &format!("https://{}", world.egret.proxy())]);
    curl.arg("--proxy-cacert").arg(world.folder.path().join("ca.pem"));
    if let Some(name) = certificate {
        let file = |extension| world.folder.path().join(format!("{name}.{extension}"));
        curl.arg("--proxy-cert").arg(file("pem")).arg("--proxy-key").arg(file("key"));
    }
    run(curl.arg(url))
}

#[test]
fn a_certificate_is_the_identity_in_the_log_and_its_names_are_shown() {
    let world = world("required", FORMAT);
    let origin = Origin::http(HELLO);
    let url = format!("http://{}/", origin.address);
    world.clients.issue_uri(&world.folder, "spiffe", "spiffe://cluster.local/ns/web/sa/shop", &["shop.example"]);
    assert_eq!(curl(&world, Some("spiffe"), &url).succeeded(), "hello");
    let record = world.egret.record("spiffe://cluster.local/ns/web/sa/shop");
    record.shows(&[("code", "200"), ("who", "spiffe://cluster.local/ns/web/sa/shop"), ("dns", "shop.example")]);
    record.shows(&[("uri", "spiffe://cluster.local/ns/web/sa/shop"), ("issuer", "CN=authority of a test")]);
    world.clients.issue(&world.folder, "dns", &["a.example", "b.example"]);
    assert_eq!(curl(&world, Some("dns"), &url).succeeded(), "hello");
    world.egret.record("a.example").shows(&[("who", "a.example"), ("dns", "a.example,b.example"), ("uri", "")]);
}

#[test]
fn who_has_no_good_certificate_is_refused_and_the_log_says_why() {
    let world = world("required", "");
    let origin = Origin::http(HELLO);
    let url = format!("http://{}/", origin.address);
    let strangers = Authority::new();
    strangers.issue(&world.folder, "strange", &["a.example"]);
    world.clients.issue_expired(&world.folder, "expired", &["a.example"]);
    for (certificate, detail, result) in [
        (None, "TLS handshake: the client shows no certificate", "no_certificate"),
        (Some("strange"), "the client's certificate is not valid: its signature", "bad_certificate"),
        (Some("expired"), "it has expired on 2002-01-01T00:00:00Z", "bad_certificate"),
    ] {
        let ran = curl(&world, certificate, &url);
        assert_ne!(ran.code, Some(0), "{ran:?}");
        let record = world.egret.record(detail);
        record.shows(&[("response_code", "0"), ("reason", "client_denied"), ("identity", "")]);
        eventually("it is counted", || {
            count(&world.egret, &format!("egret_tls_handshakes_total{{result=\"{result}\"}}")) > 0
        });
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn where_a_certificate_is_optional_a_bad_one_is_still_refused() {
    let world = world("optional", FORMAT);
    let origin = Origin::http(HELLO);
    let url = format!("http://{}/", origin.address);
    assert_eq!(curl(&world, None, &url).succeeded(), "hello");
    world.egret.record("200").shows(&[("who", ""), ("subject", "")]);
    Authority::new().issue(&world.folder, "strange", &["a.example"]);
    assert_ne!(curl(&world, Some("strange"), &url).code, Some(0));
}

#[test]
fn a_tunnel_is_its_certificates() {
    let world = world("required", "");
    let echo = Origin::echo();
    let files = world.clients.issue(&world.folder, "dns", &["shop.example"]);
    let config = trusting(&world.folder.path().join("ca.pem"), Some(&files));
    let mut stream = secure(&config, dial(world.egret.proxy())).unwrap();
    write!(stream, "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.address).unwrap();
    assert!(read_head(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 "));
    let tunnels = String::from_utf8(get_from(world.egret.admin(), "/tunnels").body).unwrap();
    assert!(tunnels.contains("shop.example"), "{tunnels}");
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    drop(stream);
    world.egret.record("CONNECT").shows(&[("identity", "shop.example"), ("response_code", "200")]);
}

#[test]
fn a_certificate_that_is_revoked_lets_nobody_in_any_more() {
    let (folder, servers, clients) = (Folder::new(), Authority::new(), Authority::new());
    servers.write(&folder, "ca.pem");
    clients.write(&folder, "clients.pem");
    clients.revoke(&folder, "clients.crl", &[9]);
    servers.issue(&folder, "own", &["proxy.example", "127.0.0.1"]);
    let listeners = "{ name: proxy, address: \"127.0.0.1:0\", \
         tls: { certificate: own.pem, privateKey: own.key, clientCa: clients.pem, clientCrl: clients.crl } }";
    let egret = Setup { listeners, ..Setup::default() }.start(&folder);
    let world = World { folder, egret, clients };
    let origin = Origin::http(HELLO);
    let url = format!("http://{}/", origin.address);
    world.clients.issue_numbered(&world.folder, "first", 7, &["first.example"]);
    world.clients.issue_numbered(&world.folder, "second", 8, &["second.example"]);
    assert_eq!(curl(&world, Some("first"), &url).succeeded(), "hello");
    world.clients.revoke(&world.folder, "clients.crl", &[7, 9]); // the file is watched
    eventually("the first is revoked", || curl(&world, Some("first"), &url).code != Some(0));
    let record = world.egret.record("it has been revoked");
    record.shows(&[("response_code", "0"), ("reason", "client_denied")]);
    assert_eq!(curl(&world, Some("second"), &url).succeeded(), "hello");
}

#[test]
fn a_spiffe_certificate_says_whose_rules_count() {
    let (folder, servers, clients) = (Folder::new(), Authority::new(), Authority::new());
    servers.write(&folder, "ca.pem");
    clients.write(&folder, "clients.pem");
    servers.issue(&folder, "own", &["proxy.example", "127.0.0.1"]);
    let origin = Origin::http(HELLO);
    let port = origin.address.port();
    let entry = |namespace: &str, host: &str, to: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: of-{namespace}, namespace: {namespace} }}\n\
             spec: {{ hosts: [{host}], exportTo: [\"{to}\"], resolution: STATIC, \
             ports: [{{ number: {port}, name: http, protocol: HTTP }}], endpoints: [{{ address: 127.0.0.1 }}] }}"
        )
    };
    let rules = [entry("default", "default.test", "."), entry("web", "web.test", "."), entry("build", "all.test", "*")]
        .join("\n---\n");
    let listeners = "{ name: proxy, address: \"127.0.0.1:0\", \
         tls: { certificate: own.pem, privateKey: own.key, clientCa: clients.pem, clientCertificate: optional } }";
    let mesh = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
    let egret = Setup { listeners, mesh, rules: &rules, ..Setup::default() }.start(&folder);
    let world = World { folder, egret, clients };
    world.clients.issue_uri(&world.folder, "web", "spiffe://cluster.local/ns/web/sa/shop", &[]);
    world.clients.issue_uri(&world.folder, "elsewhere", "spiffe://cluster.local/ns/nobody-wrote-here/sa/a", &[]);
    world.clients.issue(&world.folder, "dns", &["a.example"]);
    for (certificate, user, known) in [
        (None, None, ["default.test", "all.test"]),
        (Some("dns"), Some("a.example"), ["default.test", "all.test"]),
        (Some("web"), Some("spiffe://cluster.local/ns/web/sa/shop"), ["web.test", "all.test"]),
        (Some("elsewhere"), Some("spiffe://cluster.local/ns/nobody-wrote-here/sa/a"), ["all.test", "all.test"]),
    ] {
        for host in ["default.test", "web.test", "all.test"] {
            let url = format!("http://{host}:{port}/");
            let answer = curl(&world, certificate, &url).succeeded();
            let is_known = known.contains(&host);
            assert_eq!(answer == "hello", is_known, "{certificate:?} {host}: {answer}");
            let settings = world.folder.settings();
            let mut asked = vec!["explain", "-o", "json", "-c", settings.to_str().unwrap(), &url];
            user.iter().for_each(|user| asked.extend(["--user", user]));
            let explained: serde_json::Value = serde_json::from_slice(&crate::support::egret(&asked).stdout).unwrap();
            assert_eq!(explained["decision"] == "allow", is_known, "{certificate:?} {host}: {explained}");
        }
    }
}

#[test]
fn explain_asks_as_the_holder_of_a_certificate() {
    let world = world("required", "");
    let explain = |args: &[&str]| {
        let settings = world.folder.settings();
        let fixed = ["explain", "-o", "json", "-c", settings.to_str().unwrap()];
        let out = egret(&[&fixed[..], args, &["a.example:443"]].concat());
        String::from_utf8(out.stdout).unwrap()
    };
    let text = explain(&["--user", "spiffe://td/ns/a/sa/b"]);
    assert!(
        text.contains("as spiffe://td/ns/a/sa/b") && text.contains("whether the client has a certificate"),
        "{text}"
    );
    assert!(explain(&[]).contains("listener proxy requires a client certificate"), "{}", explain(&[]));
}
