//! apt, which pipelines its requests to a proxy.

use std::collections::HashSet;

use super::World;
use crate::support::certificates::Authority;
use crate::support::nginx::Nginx;
use crate::support::peer::{command_at, packaged, run};

#[test]
fn pipelined_requests_are_answered_in_order() {
    let world = World::new();
    let proxy = format!("Acquire::http::Proxy={}", world.proxy());
    let mut apt = command_at(packaged("/usr/lib/apt/apt-helper"));
    apt.args(["-o", &proxy, "-o", "APT::Sandbox::User=", "-o", "Acquire::http::Pipeline-Depth=10", "download-file"]);
    let names: Vec<String> = (0..20).map(|n| format!("file-{n}")).collect();
    for name in &names {
        world.folder.write(&format!("www/{name}"), &format!("{name}\n").repeat(1000));
    }
    let certificate = Authority::new().issue(&world.folder, "origin", &["plain.example"]);
    let nginx = Nginx::start(&world.folder, "", &certificate);
    for name in &names {
        let target = world.folder.path().join("got").join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        apt.arg(format!("http://plain.example:{}/{name}", nginx.plain().port())).arg(target).arg("");
    }
    run(&mut apt).succeeded();
    let mut connections = HashSet::new();
    for name in &names {
        let got = std::fs::read_to_string(world.folder.path().join("got").join(name)).unwrap();
        assert!(got == format!("{name}\n").repeat(1000), "{name}: {} bytes", got.len());
        let record = world.egret.record(&format!("/{name}\""));
        record.shows(&[("response_code", "200"), ("response_flags", "-"), ("bytes_sent", &got.len().to_string())]);
        connections.insert(record.get("downstream_remote_address"));
    }
    assert_eq!(connections.len(), 1, "no connection had to be given up");
}
