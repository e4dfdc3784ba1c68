//! Ourselves by another name: what leads back to a listener of ours is found before it goes round, the admin port is never reached.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::dns_server::DnsServer;
use super::injection::parent_entry;
use crate::support::origin::read_head;
use crate::support::{Egret, Folder, client};

/// A proxy that may reach every address, with a listener of this address.
fn open_to_all(listener: &str, more: &str) -> (Egret, Folder) {
    let folder = Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"{listener}\", clients: {{ from: [127.0.0.0/8, \"::1/128\"] }} }}]\n\
         addresses: {{ allow: [\"0.0.0.0/0\", \"::/0\"] }}\n{more}\n"
    ));
    (Egret::with_settings(&folder.settings()), folder)
}

/// Where clients reach it: a listener on all addresses of a family is on its loopback too.
fn reach(egret: &Egret) -> SocketAddr {
    let loopback: IpAddr = if egret.proxy().is_ipv4() { [127, 0, 0, 1].into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(loopback, egret.proxy().port())
}

fn is_loop(proxy: SocketAddr, target: &str) {
    let (_, head) = client::connect(proxy, target);
    assert!(
        head.starts_with("HTTP/1.1 508 ") && head.contains("error=proxy_loop_detected"),
        "CONNECT {target}: {head}"
    );
    let answer = client::get(proxy, &format!("http://{target}/metrics"));
    assert_eq!(answer.status, 508, "http://{target}: {}", answer.head);
}

/// Spellings of 127.0.0.1, and of this host by way of it.
const LOOPBACK: [&str; 12] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0.0.0.0",
    "0",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0.0.0.0]",
];

#[test]
fn every_spelling_of_a_listener_and_of_the_admin_port_is_a_loop() {
    let dns = DnsServer::always(&["127.0.0.1"]);
    let (egret, _folder) = open_to_all("127.0.0.1:0", &dns.settings());
    for port in [egret.proxy().port(), egret.admin().port()] {
        for host in LOOPBACK.into_iter().chain(["our-host.example.org", "OUR-HOST.example.org."]) {
            is_loop(reach(&egret), &format!("{host}:{port}"));
        }
        // ::1 is another address than 127.0.0.1, and nobody of ours listens there; localhost is both.
        for host in ["[::1]", "[::]", "localhost"] {
            let (_, head) = client::connect(reach(&egret), format!("{host}:{port}"));
            assert!(head.starts_with("HTTP/1.1 5"), "{host}: {head}");
        }
    }
}

#[test]
fn a_listener_on_all_addresses_is_found_by_every_local_one() {
    let dns = DnsServer::always(&["127.3.3.3"]);
    for listener in ["0.0.0.0:0", "[::]:0"] {
        let (egret, _folder) = open_to_all(listener, &dns.settings());
        let port = egret.proxy().port();
        for host in LOOPBACK.into_iter().chain(["127.9.9.9", "our-host.example.org"]) {
            is_loop(reach(&egret), &format!("{host}:{port}"));
        }
        if listener.starts_with('[') {
            for host in ["[::1]", "[::]", "localhost"] {
                is_loop(reach(&egret), &format!("{host}:{port}"));
            }
        }
    }
}

#[test]
fn a_resource_that_spells_the_admin_port_does_not_open_it() {
    let (egret, folder) = open_to_all("127.0.0.1:0", "");
    let admin = egret.admin().port();
    folder.write(
        "rules.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: admin }}\nspec:\n  hosts: [admin.example.org]\n  \
             resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1 }}]\n  \
             ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {admin} }}]\n"
        ),
    );
    folder.write(
        "egret.yaml",
        "listeners: [{ name: proxy, address: \"127.0.0.1:0\", clients: { from: [127.0.0.0/8] } }]\n\
         addresses: { allow: [\"0.0.0.0/0\"] }\nresources: [rules.yaml]\n",
    );
    let line = egret.reload();
    assert!(!line.contains("not reloaded"), "{line}");
    is_loop(egret.proxy(), "admin.example.org:80");
}

#[test]
fn two_proxies_that_are_each_others_parent_find_out() {
    let parented = |port: u16| {
        let folder = Folder::new();
        write_parent(&folder, port);
        folder
    };
    let (first_folder, second_folder) = (parented(1), parented(1));
    let first = Egret::with_settings(&first_folder.settings());
    write_parent(&second_folder, first.proxy().port());
    let second = Egret::with_settings(&second_folder.settings());
    write_parent(&first_folder, second.proxy().port());
    let line = first.reload();
    assert!(!line.contains("not reloaded"), "{line}");
    for target in ["far.example.org:443", "far.example.org:80"] {
        let (_, head) = client::connect(first.proxy(), target);
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    }
    first.stdout.wait_for_nth(" 508 ", 2);
    // Two by two: what came in, and what came back.
    first.stdout.wait_for_nth("CONNECT", 4);
    let mut stream = client::dial(first.proxy());
    stream.write_all(b"GET http://far.example.org/ HTTP/1.1\r\nHost: far.example.org\r\n\r\n").unwrap();
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 50"), "{head}");
    assert!(first.stdout.so_far().len() <= 6, "{:?}", first.stdout.so_far());
}

fn write_parent(folder: &Folder, port: u16) {
    folder.write("parent.yaml", &parent_entry(port));
    folder.write(
        "egret.yaml",
        "listeners: [{ name: proxy, address: \"127.0.0.1:0\" }]\nresources: [parent.yaml]\n\
         mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: parent.test, port: { number: 3128 } } } }\n",
    );
}
