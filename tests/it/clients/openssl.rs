//! `openssl s_client -proxy`: CONNECT of HTTP/1.0, without Host.

use super::{REFUSED, REFUSING, World};
use crate::support::peer::{Ran, command, run};

fn s_client(world: &World) -> Ran {
    let target = format!("secure.example:{}", world.tls.address.port());
    let mut openssl = command("openssl");
    openssl.args(["s_client", "-proxy", &world.egret.proxy().to_string(), "-connect", &target]);
    openssl.args(["-servername", "secure.example", "-verify_return_error", "-CAfile"]).arg(&world.ca);
    run(&mut openssl)
}

#[test]
fn it_shakes_hands_through_the_tunnel() {
    let world = World::new();
    let out = s_client(&world).succeeded();
    assert!(out.contains("Verify return code: 0 (ok)"), "{out}");
    world.egret.record("CONNECT").shows(&[("protocol", "HTTP/1.0"), ("response_code", "200"), ("response_flags", "-")]);
}

#[test]
fn it_shows_the_refusal() {
    let world = World::with(REFUSING);
    let ran = s_client(&world);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("403") || ran.stdout.contains("403"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
}
