//! npm, from a registry on loopback.

use super::registry::Registry;
use super::{REFUSED, REFUSING, TUNNELLED, World};
use crate::support::peer::{Ran, command, run};

fn install(world: &World, registry: &Registry) -> Ran {
    let folder = world.folder.write("project/package.json", "{ \"name\": \"project\", \"version\": \"1.0.0\" }");
    let folder = folder.parent().unwrap();
    let mut npm = command("npm");
    npm.env("HOME", world.folder.path()).current_dir(folder);
    for name in ["userconfig", "globalconfig"] {
        npm.arg(format!("--{name}={}", folder.join(name).display())); // not there
    }
    npm.arg(format!("--cache={}", folder.join("cache").display())).arg(format!("--cafile={}", registry.ca.display()));
    npm.arg(format!("--registry={}", registry.url("/"))).arg(format!("--https-proxy={}", world.proxy()));
    npm.args(["--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=0", "install", "egret-sample"]);
    run(&mut npm)
}

#[test]
fn a_package_comes_through_a_tunnel() {
    let (world, registry) = (World::new(), Registry::start());
    let said = install(&world, &registry).succeeded();
    assert!(said.contains("added 1 package"), "{said}");
    let index = world.folder.path().join("project/node_modules/egret-sample/index.js");
    assert_eq!(std::fs::read_to_string(index).unwrap(), "module.exports = \"sample\";");
    let record = world.egret.record("CONNECT");
    record.shows(TUNNELLED);
    record.shows(&[("authority", &registry.authority())]);
}

#[test]
fn a_refusal_shows_its_phrase() {
    let (world, registry) = (World::with(REFUSING), Registry::start());
    let ran = install(&world, &registry);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("403") && ran.stderr.contains("Destination Not Allowed"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
}
