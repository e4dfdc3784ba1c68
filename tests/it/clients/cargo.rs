//! cargo, from a sparse registry on loopback.

use super::registry::Registry;
use super::{REFUSED, REFUSING, TUNNELLED, World};
use crate::support::peer::{Ran, command_at, run};

fn fetch(world: &World, registry: &Registry) -> Ran {
    let manifest = "[package]\nname = \"project\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\n\
                    egret-sample = { version = \"1\", registry = \"local\" }\n";
    let project = world.folder.write("project/Cargo.toml", manifest);
    world.folder.write("project/src/lib.rs", "");
    let index = registry.url("/index/");
    world
        .folder
        .write("home/config.toml", &format!("[registries.local]\nindex = \"sparse+{index}\"\n[net]\nretry = 0\n"));
    let mut cargo = command_at(env!("CARGO").as_ref()); // the one that builds this test
    cargo.env("CARGO_HOME", world.folder.path().join("home")).current_dir(project.parent().unwrap());
    cargo.env("CARGO_HTTP_PROXY", world.proxy()).env("CARGO_HTTP_CAINFO", &registry.ca).env_remove("CARGO_TARGET_DIR");
    run(cargo.arg("fetch"))
}

#[test]
fn a_crate_comes_through_a_tunnel() {
    let (world, registry) = (World::new(), Registry::start());
    fetch(&world, &registry).succeeded();
    let lock = std::fs::read_to_string(world.folder.path().join("project/Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"egret-sample\""), "{lock}");
    let sources = world.folder.path().join("home/registry/src");
    let source =
        std::fs::read_dir(sources).unwrap().next().unwrap().unwrap().path().join("egret-sample-1.0.0/src/lib.rs");
    assert_eq!(std::fs::read_to_string(source).unwrap(), "pub const NAME: &str = \"sample\";");
    let record = world.egret.record("CONNECT");
    record.shows(TUNNELLED);
    record.shows(&[("authority", &registry.authority())]);
}

#[test]
fn a_refusal_shows_its_status() {
    let (world, registry) = (World::with(REFUSING), Registry::start());
    let ran = fetch(&world, &registry);
    assert_eq!(ran.code, Some(101), "{ran:?}");
    assert!(ran.stderr.contains("CONNECT tunnel failed, response 403"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
}
