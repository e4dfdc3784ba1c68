//! curl.

use std::process::Command;

use super::{REFUSED, REFUSING, World};
use crate::support::origin::field;
use crate::support::peer::{self, Ran, run};

fn curl(world: &World) -> Command {
    let mut curl = peer::command("curl");
    curl.args(["-q", "-sS", "--max-time", "15", "-x", &world.proxy(), "--cacert"]).arg(&world.ca);
    curl
}

fn ask(world: &World, args: &[&str]) -> Ran {
    run(curl(world).args(args))
}

const PASSED: &[(&str, &str)] = &[
    ("response_code", "200"),
    ("response_flags", "-"),
    ("response_code_details", "via_upstream"),
    ("upstream_cluster", "PassthroughCluster"),
    ("listener", "proxy"),
];

#[test]
fn https_goes_through_a_tunnel() {
    let world = World::new();
    let ran = ask(&world, &["-v", "--proxy-header", "X-Team: blue", "-d", "hello", &world.https("/mirror")]);
    assert!(ran.stderr.contains("< HTTP/1.1 200 Connection Established"), "{}", ran.stderr);
    assert_eq!(ran.succeeded(), "hello");
    let head = &world.tls.requests()[0];
    assert!(head.starts_with("POST /mirror HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(head, "x-team").or(field(head, "via")), None, "a tunnel is opaque, and --proxy-header ends at us");
    let record = world.egret.record("CONNECT");
    record.shows(PASSED);
    let authority = format!("secure.example:{}", world.tls.address.port());
    record.shows(&[("method", "CONNECT"), ("protocol", "HTTP/1.1"), ("authority", &authority)]);
    record.shows(&[("upstream_host", &world.tls.address.to_string())]);
}

#[test]
fn each_method_carries_its_body_there_and_back() {
    let world = World::new();
    let file = world.folder.write("upload", &"0123456789abcdef".repeat(100_000)); // 1.6 MB: curl waits for 100 Continue
    let upload = file.to_str().unwrap();
    let sent = std::fs::read_to_string(&file).unwrap();
    for (name, args, method, body) in [
        ("get", &[][..], "GET", ""),
        ("post", &["-d", "a=b"], "POST", "a=b"),
        ("put", &["-T", upload], "PUT", &sent),
        ("chunked", &["-T", upload, "-H", "Transfer-Encoding: chunked"], "PUT", &sent),
        ("delete", &["-X", "DELETE"], "DELETE", ""),
    ] {
        let ran = ask(&world, &[args, &[&world.http(&format!("/{name}"))]].concat());
        let back = ran.succeeded();
        assert!(back == body, "{name}: {} bytes came back", back.len());
        let head = world.plain.requests().pop().unwrap();
        assert!(head.starts_with(&format!("{method} /{name} HTTP/1.1\r\n")), "{head}");
        assert_eq!(field(&head, "proxy-connection"), None, "{head}");
        assert!(field(&head, "via").is_some(), "{head}");
        let record = world.egret.record(&format!("/{name}\""));
        record.shows(PASSED);
        let length = body.len().to_string();
        record.shows(&[("method", method), ("bytes_received", &length), ("bytes_sent", &length)]);
    }
    assert_eq!(field(&world.plain.requests()[3], "transfer-encoding"), Some("chunked"), "framing stays as it was");
}

#[test]
fn head_has_the_length_of_a_body_that_does_not_come() {
    let world = World::new();
    let head = ask(&world, &["-I", &world.http("/head")]).succeeded();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 0\r\n"), "{head}");
    world.egret.record("HEAD").shows(&[("response_code", "200"), ("bytes_sent", "0")]);
}

#[test]
fn urls_on_one_command_line_share_the_connection_to_the_proxy() {
    let world = World::new();
    let urls = ["/1", "/2", "/3"].map(|path| world.http(path));
    let ran = ask(&world, &["-w", "%{num_connects} ", &urls[0], &urls[1], &urls[2]]);
    assert_eq!(ran.succeeded(), "1 0 0 ");
    world.egret.record("/1").shows(&[("reused", "false")]);
    world.egret.record("/3").shows(&[("reused", "true")]);
}

#[test]
fn proxytunnel_carries_plain_http_through_connect() {
    let world = World::new();
    assert_eq!(ask(&world, &["-p", "-d", "inside", &world.http("/p")]).succeeded(), "inside");
    let head = &world.plain.requests()[0];
    assert!(head.starts_with("POST /p HTTP/1.1\r\n") && field(head, "via").is_none(), "{head}");
    world.egret.record("CONNECT").shows(PASSED);
}

#[test]
fn a_refused_tunnel_is_56_and_shows_the_reason() {
    let world = World::with(REFUSING);
    let ran = ask(&world, &["-v", &world.https("/")]);
    assert_eq!(ran.code, Some(56), "{ran:?}");
    assert!(ran.stderr.contains("CONNECT tunnel failed, response 403"), "{ran:?}");
    assert!(ran.stderr.contains("< HTTP/1.1 403 Destination Not Allowed"), "{ran:?}");
    let port = world.tls.address.port();
    let details = format!("error=destination_not_found; details=\"no route allows secure.example:{port}\"");
    assert!(ran.stderr.contains(&details), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
    let ran = ask(&world, &["-w", "%{http_code}", &world.http("/refused")]);
    let port = world.plain.address.port();
    assert_eq!(ran.succeeded(), format!("egret: no route allows plain.example:{port} (not_found)\n403"));
    world.egret.record("/refused").shows(&REFUSED[1..]);
    assert!(world.plain.requests().is_empty());
}

#[test]
fn an_origin_that_is_not_there_is_502_and_named() {
    let world = World::new();
    let [port] = peer::free_ports();
    let ran = ask(&world, &["-v", &format!("https://secure.example:{port}/")]);
    assert_eq!(ran.code, Some(56), "{ran:?}");
    assert!(ran.stderr.contains("< HTTP/1.1 502 Connection Refused By Upstream"), "{ran:?}");
    let record = world.egret.record("CONNECT");
    record.shows(&[("response_code", "502"), ("response_flags", "UF"), ("reason", "connection_refused")]);
    assert!(record.get("detail").contains(&format!("connect to 127.0.0.1:{port}")), "{record:?}");
}

#[test]
fn credentials_are_asked_for_checked_and_kept_from_the_origin() {
    let world = World::with_login();
    let without = ask(&world, &["-v", &world.https("/")]);
    assert_eq!(without.code, Some(56), "{without:?}");
    assert!(without.stderr.contains("< HTTP/1.1 407 Proxy Authentication Required"), "{without:?}");
    assert!(without.stderr.contains("< Proxy-Authenticate: Basic realm=\"egret\""), "{without:?}");
    let denied = [("response_code", "407"), ("identity", ""), ("reason", "authentication_required")];
    world.egret.record("CONNECT").shows(&denied);
    let wrong =
        ask(&world, &["-w", "%{http_code}", "-o", "/dev/null", "--proxy-user", "ada:wrong", &world.http("/wrong")]);
    assert_eq!(wrong.succeeded(), "407");
    world.egret.record("/wrong").shows(&denied);
    for (n, url) in [world.https("/right"), world.http("/right")].into_iter().enumerate() {
        assert_eq!(ask(&world, &["--proxy-user", "ada:s3cret", "-d", "x", &url]).succeeded(), "x");
        let record = world.egret.nth_record("\"identity\":\"ada\"", n + 1);
        record.shows(PASSED);
    }
    // curl asks without credentials first, and again on the connection that the 407 left open.
    let ran =
        ask(&world, &["--proxy-anyauth", "--proxy-user", "ada:s3cret", "-w", "%{num_connects}", &world.http("/any")]);
    assert_eq!(ran.succeeded(), "1");
    world.egret.record("/any").shows(&[("response_code", "407")]);
    world.egret.nth_record("/any", 2).shows(&[("response_code", "200"), ("identity", "ada")]);
    for head in world.plain.requests().iter().chain(&world.tls.requests()) {
        assert_eq!(field(head, "proxy-authorization"), None, "{head}");
    }
}

#[test]
fn a_connect_of_http_1_0_opens_too() {
    let world = World::new();
    let mut curl = peer::command("curl");
    curl.args(["-q", "-sS", "--proxy1.0", &world.egret.proxy().to_string(), "--cacert"]).arg(&world.ca);
    assert_eq!(run(curl.args(["-d", "old", &world.https("/")])).succeeded(), "old");
    world.egret.record("CONNECT").shows(&[("protocol", "HTTP/1.0"), ("response_code", "200")]);
}
