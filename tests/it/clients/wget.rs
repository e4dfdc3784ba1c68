//! wget: of a refusal its users see the reason phrase and nothing else.

use super::{REFUSED, REFUSING, World};
use crate::support::peer::{Ran, command, free_ports, run};

fn wget(world: &World, url: &str) -> Ran {
    let mut wget = command("wget");
    wget.env("http_proxy", world.proxy()).env("https_proxy", world.proxy());
    let certificate = format!("--ca-certificate={}", world.ca.display());
    run(wget.args([
        "--no-config",
        "-nv",
        "--tries=1",
        "--timeout=15",
        "-O",
        "-",
        "--post-data=from wget",
        &certificate,
        url,
    ]))
}

#[test]
fn http_and_https_come_through() {
    let world = World::new();
    for url in [world.http("/plain"), world.https("/tls")] {
        assert_eq!(wget(&world, &url).succeeded(), "from wget", "{url}");
    }
    world.egret.record("/plain").shows(&[("response_code", "200"), ("response_flags", "-"), ("bytes_sent", "9")]);
    world.egret.record("CONNECT").shows(&[("response_code", "200"), ("response_flags", "-")]);
}

#[test]
fn a_refused_tunnel_says_why_in_its_phrase() {
    let world = World::with(REFUSING);
    let ran = wget(&world, &world.https("/"));
    assert_eq!(ran.code, Some(4), "{ran:?}"); // network failure, wget's manual
    assert!(ran.stderr.contains("Proxy tunneling failed: Destination Not Allowed"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
    let ran = wget(&world, &world.http("/"));
    assert_eq!(ran.code, Some(8), "{ran:?}"); // the server issued an error response
    assert!(ran.stderr.contains("ERROR 403: Destination Not Allowed"), "{ran:?}");
}

#[test]
fn a_failed_dial_says_why_too() {
    let world = World::new();
    let [port] = free_ports();
    for (host, phrase) in
        [("secure.example", "Connection Refused By Upstream"), ("240.0.0.1", "Destination Address Prohibited")]
    {
        let ran = wget(&world, &format!("https://{host}:{port}/"));
        assert!(ran.stderr.contains(&format!("Proxy tunneling failed: {phrase}")), "{ran:?}");
    }
}
