//! Python's standard library: urllib as the environment configures it, and http.client's tunnel.

use super::{REFUSED, REFUSING, World};
use crate::support::peer::{Ran, command, run};

/// Runs a script with the proxy in the environment, as users of urllib and requests set it.
fn python(world: &World, script: &str, args: &[&str]) -> Ran {
    let mut python = command("python3");
    python.env("http_proxy", world.proxy()).env("https_proxy", world.proxy()).env("SSL_CERT_FILE", &world.ca);
    run(python.args(["-c", script]).args(args))
}

const URLLIB: &str = "
import sys, urllib.request
for url in sys.argv[1:]:
    with urllib.request.urlopen(url, data=b'from python', timeout=15) as answer:
        print(answer.status, answer.read().decode())
";
const HTTP_CLIENT: &str = "
import http.client, ssl, sys
proxy, host, port = sys.argv[1:]
connection = http.client.HTTPSConnection(proxy, timeout=15, context=ssl.create_default_context())
connection.set_tunnel(host, int(port), {'X-Team': 'blue'})
for path in ('/1', '/2'):
    connection.request('PUT', path, body=(chunk for chunk in (b'a', b'bc')), encode_chunked=True)
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
";

#[test]
fn urllib_goes_by_the_environment() {
    let world = World::new();
    let ran = python(&world, URLLIB, &[&world.http("/plain"), &world.https("/tls")]);
    assert_eq!(ran.succeeded(), "200 from python\n200 from python\n");
    assert!(world.plain.requests()[0].starts_with("POST /plain HTTP/1.1\r\n"));
    assert!(world.tls.requests()[0].starts_with("POST /tls HTTP/1.1\r\n"));
    world.egret.record("/plain").shows(&[("method", "POST"), ("response_code", "200"), ("response_flags", "-")]);
    world.egret.record("CONNECT").shows(&[("response_code", "200"), ("upstream_cluster", "PassthroughCluster")]);
}

#[test]
fn http_client_keeps_its_tunnel_for_several_requests() {
    let world = World::new();
    let port = world.tls.address.port().to_string();
    let ran = python(&world, HTTP_CLIENT, &[&world.egret.proxy().to_string(), "secure.example", &port]);
    assert_eq!(ran.succeeded(), "200 abc\n200 abc\n");
    let authority = format!("secure.example:{port}");
    world.egret.record("CONNECT").shows(&[
        ("authority", &authority),
        ("response_code", "200"),
        ("response_flags", "-"),
    ]);
    assert_eq!(world.tls.requests().len(), 2);
    assert_eq!(world.egret.stdout.so_far().len(), 1, "one flow, one line");
}

#[test]
fn a_refusal_shows_status_and_phrase() {
    let world = World::with(REFUSING);
    let ran = python(&world, URLLIB, &[&world.https("/")]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("Tunnel connection failed: 403 Destination Not Allowed"), "{}", ran.stderr);
    world.egret.record("CONNECT").shows(REFUSED);
    let ran = python(&world, URLLIB, &[&world.http("/")]);
    assert!(ran.stderr.contains("HTTP Error 403: Destination Not Allowed"), "{}", ran.stderr);
}
