//! pip, from an index on loopback.

use super::registry::Registry;
use super::{REFUSED, REFUSING, TUNNELLED, World};
use crate::support::peer::{Ran, command_at, packaged, run};

fn download(world: &World, registry: &Registry) -> Ran {
    let mut pip = command_at(packaged("/usr/bin/python3"));
    pip.env("PIP_CONFIG_FILE", "/dev/null").env("HOME", world.folder.path()).current_dir(world.folder.path());
    pip.args(["-m", "pip", "--isolated", "--no-cache-dir", "--disable-pip-version-check", "--retries", "1", "--cert"]);
    pip.arg(&registry.ca).args(["--proxy", &world.proxy(), "download", "--no-deps", "--dest", "got", "--index-url"]);
    run(pip.args([&registry.url("/simple/"), "egret-sample"]))
}

#[test]
fn a_package_comes_through_a_tunnel() {
    let (world, registry) = (World::new(), Registry::start());
    let said = download(&world, &registry).succeeded();
    assert!(said.contains("Successfully downloaded egret-sample"), "{said}");
    let wheel = std::fs::read(world.folder.path().join("got/egret_sample-1.0.0-py3-none-any.whl")).unwrap();
    assert!(wheel.starts_with(b"PK"));
    let record = world.egret.record("CONNECT");
    record.shows(TUNNELLED);
    record.shows(&[("authority", &registry.authority())]);
}

#[test]
fn a_refusal_shows_its_phrase() {
    let (world, registry) = (World::with(REFUSING), Registry::start());
    let ran = download(&world, &registry);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("Tunnel connection failed: 403 Destination Not Allowed"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
}
