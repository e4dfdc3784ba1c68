//! Many rules: what one of them takes, and that each of them is found.

use std::fmt::Write as _;

use crate::support::origin::Origin;
use crate::support::{Egret, Folder, client, eventually};

const ENTRIES: u32 = 10_000;
/// Of resident memory. The aim, 1 KB of each of 100,000, is for `load-tests scale`: of fewer the allocator's half-filled pages are a
/// larger part, and after a reload there are more of them.
const ENTRY_BYTES_MAX: u64 = 1_200;
const RELOADED_BYTES_MAX: u64 = 1_500;

fn start(entries: u32, port: u16) -> (Folder, Egret) {
    let folder = Folder::new();
    let hosts = folder.write("hosts", "127.0.0.1 origin.test\n");
    let mut rules = String::new();
    for n in 0..entries {
        let (star, endpoints) = match n % 5 {
            0 => ("*.", format!("\n  endpoints: [{{ address: origin.test, ports: {{ tls: {port} }} }}]")),
            _ => ("", String::new()),
        };
        writeln!(
            rules,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: service-{n} }}\nspec:\n  \
             hosts: [\"{star}service-{n}.partner-{}.example.com\"]\n  ports: [{{ number: 443, name: tls, protocol: TLS }}]\n  \
             resolution: DNS{endpoints}",
            n % 100
        )
        .unwrap();
    }
    folder.write("rules.yaml", &rules);
    folder.write(
        "egret.yaml",
        &format!(
            "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
             consistency: {{ mode: off }}\nmesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }} }}\n\
             dns: {{ hosts: {} }}\nresources: [rules.yaml]\n",
            hosts.display()
        ),
    );
    let egret = Egret::with_settings(&folder.settings());
    (folder, egret)
}

#[test]
fn an_entry_of_ten_thousand_takes_a_kilobyte_or_so_before_and_after_a_reload_and_each_is_found() {
    let origin = Origin::echo();
    let port = origin.address.port();
    let (_few_rules, few) = start(1, port);
    let (_many_rules, many) = start(ENTRIES, port);
    let entry = || many.resident_bytes().saturating_sub(few.resident_bytes()) / u64::from(ENTRIES);
    let small = |when: &str, max: u64| {
        eventually(&format!("an entry takes {max} bytes at most {when}"), || entry() <= max);
        eprintln!("{when}: {} bytes an entry", entry());
    };
    small("at first", ENTRY_BYTES_MAX);
    for n in (0..ENTRIES).step_by(500) {
        let target = format!("any.service-{n}.partner-{}.example.com:443", n % 100);
        let mut tunnel = client::tunnel(many.proxy(), target);
        assert!(client::echoes(&mut tunnel, b"\x00found"), "{n}");
    }
    let (_, head) = client::connect(many.proxy(), format!("any.service-{ENTRIES}.partner-0.example.com:443"));
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(many.reload().contains("+0 -0 ~0"));
    small("after a reload", RELOADED_BYTES_MAX);
}
