//! One reload after the other, a tunnel opened under each generation: memory does not grow with the generations.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::support::origin::Origin;
use crate::support::{Egret, Folder, client, eventually};

/// The full size is asked for by `EGRET_RELOAD_ENTRIES=100000`; an unoptimised build takes a minute for each ten thousand or so.
const ENTRIES: usize = 400;
const RELOADS: usize = 200;
/// jemalloc gives pages back within ten seconds, most within two.
const SETTLED: Duration = Duration::from_secs(3);

#[test]
fn two_hundred_generations_with_a_tunnel_each_take_no_more_memory_than_a_few() {
    #[allow(clippy::disallowed_methods, reason = "a size of this test")]
    let entries = std::env::var("EGRET_RELOAD_ENTRIES").map_or(ENTRIES, |count| count.parse().expect("a number"));
    let origin = Origin::echo();
    let port = origin.address.port();
    let folder = Folder::new();
    let hosts = folder.write("hosts", "127.0.0.1 origin.test\n");
    folder.write(
        "egret.yaml",
        &format!(
            "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
             mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }} }}\ndns: {{ hosts: {} }}\nresources: [rules]\n",
            hosts.display()
        ),
    );
    std::fs::create_dir(folder.path().join("rules")).unwrap();
    let mut many = entry("origin", port, "TCP");
    (0..entries).for_each(|n| many += &entry(&format!("host-{n}"), 443, "TLS"));
    folder.write("rules/many.yaml", &many);
    let egret = Egret::with_settings(&folder.settings());
    let mut tunnels = Vec::new();
    let mut early = 0;
    for generation in 0..RELOADS {
        let mut tunnel = client::tunnel(egret.proxy(), format!("origin.test:{port}"));
        assert!(client::echoes(&mut tunnel, b"\x00first"));
        tunnels.push(tunnel);
        // One rule comes, the one of the generation before goes.
        folder.write("rules/one.yaml", &entry(&format!("generation-{generation}"), 443, "TLS"));
        let line = egret.reload();
        let changes = if generation == 0 { "+1 -0 ~0" } else { "+1 -1 ~0" };
        assert!(line.contains(changes) && line.contains("revoked=0"), "{line}");
        if generation == RELOADS / 10 {
            early = settled(&egret);
        }
    }
    for tunnel in &mut tunnels {
        assert!(client::echoes(tunnel, b"last"));
    }
    let late = settled(&egret);
    eprintln!("{entries} entries: {early} bytes after {} reloads, {late} after {RELOADS}", RELOADS / 10);
    // 180 more tunnels and their sockets, and what an allocator keeps; one more generation would be more than half of this, and 180 of them a multiple.
    let spare = early / 4 + 180 * 16 * 1024;
    assert!(late <= early + spare, "{early} bytes after {} reloads, {late} after {RELOADS}", RELOADS / 10);
}

/// Resident memory once the allocator has given back what the last reload took: least of readings until none is lower for a while.
fn settled(egret: &Egret) -> u64 {
    let (mut least, mut since) = (u64::MAX, Instant::now());
    eventually("resident memory settles", || {
        let now = egret.resident_bytes();
        if now < least {
            (least, since) = (now, Instant::now());
        }
        since.elapsed() >= SETTLED
    });
    least
}

fn entry(name: &str, port: u16, protocol: &str) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
         hosts: [{name}.test]\n  resolution: DNS\n  ports: [{{ number: {port}, name: port, protocol: {protocol} }}]\n"
    );
    text
}
