//! DNS as a weapon: what it answers is judged, and what was opened for one service is open for no other.
//!
//! 127.0.0.2 stands for an address that may be reached, 127.0.0.1 for one that may not.

use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};

use super::dns_server::{DnsServer, Reply, ips, listen_on_both};
use crate::support::egret::command;
use crate::support::origin::{HELLO, read_head};
use crate::support::{Egret, Folder, client};

fn settings(more: &str) -> Folder {
    Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.2/32] }}\n{more}\n"
    ))
}

fn start(folder: &Folder) -> Egret {
    Egret::with_settings(&folder.settings())
}

fn accepts_nobody(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    matches!(listener.accept(), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn status(egret: &Egret, target: &str) -> (String, String) {
    let (_, head) = client::connect(egret.proxy(), target);
    (head.split(' ').nth(1).unwrap().to_owned(), head)
}

#[test]
fn of_a_forbidden_and_an_allowed_address_only_the_allowed_one_is_dialled() {
    let (forbidden, allowed) = listen_on_both();
    let port = allowed.local_addr().unwrap().port();
    let turn = AtomicBool::new(false);
    let dns = DnsServer::new(move |_| {
        let mut addresses = ips(&["127.0.0.1", "127.0.0.2", "10.0.0.1", "169.254.169.254", "0.0.0.0"]);
        if turn.fetch_xor(true, Ordering::SeqCst) {
            addresses.reverse();
        }
        Reply { alias: None, addresses }
    });
    let folder = settings(&dns.settings());
    let egret = start(&folder);
    for _ in 0..20 {
        assert_eq!(status(&egret, &format!("mixed.example.org:{port}")).0, "200");
        drop(allowed.accept().unwrap());
    }
    assert!(accepts_nobody(&forbidden));
}

#[test]
fn a_name_with_underscores_is_asked_for_as_any_other() {
    let (_forbidden, allowed) = listen_on_both();
    let port = allowed.local_addr().unwrap().port();
    let dns = DnsServer::new(|name| match name {
        "my_bucket.s3_.example.org" | "_x.example.org" => Reply { alias: None, addresses: ips(&["127.0.0.2"]) },
        _ => Reply { alias: None, addresses: Vec::new() },
    });
    let folder = settings(&dns.settings());
    let egret = start(&folder);
    for name in ["my_bucket.s3_.example.org", "_x.example.org", "My_Bucket.S3_.example.org."] {
        let (status, head) = status(&egret, &format!("{name}:{port}"));
        assert_eq!(status, "200", "{name}: {head}");
    }
}

#[test]
fn a_name_that_leads_inside_is_403_also_by_an_alias_and_also_the_second_time() {
    let (forbidden, allowed) = listen_on_both();
    let port = allowed.local_addr().unwrap().port();
    let first = AtomicBool::new(true);
    let dns = DnsServer::new(move |name| match name {
        "alias.example.org" => Reply { alias: Some("db.internal"), addresses: ips(&["127.0.0.1"]) },
        "rebinding.example.org" if first.swap(false, Ordering::SeqCst) => {
            Reply { alias: None, addresses: ips(&["127.0.0.2"]) }
        }
        _ => Reply { alias: None, addresses: ips(&["127.0.0.1"]) },
    });
    let folder = settings(&dns.settings());
    let egret = start(&folder);
    assert_eq!(status(&egret, &format!("rebinding.example.org:{port}")).0, "200");
    for name in ["alias", "rebinding", "plain"] {
        let (status, head) = status(&egret, &format!("{name}.example.org:{port}"));
        assert_eq!(status, "403", "{name}: {head}");
        assert!(head.contains("error=destination_ip_prohibited"), "{head}");
        assert!(!head.contains("127.0.0.1"), "the inside is not described to clients: {head}");
        let answer = client::get(egret.proxy(), &format!("http://{name}.example.org:{port}/"));
        assert_eq!(answer.status, 403, "{name}");
    }
    assert!(accepts_nobody(&forbidden));
}

#[test]
fn of_500_addresses_16_are_dialled_and_each_dial_is_logged() {
    let all: Vec<_> = (0..500).map(|n: u16| format!("127.7.{}.{}", n / 250, n % 250 + 1)).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let dns = DnsServer::always(&all);
    let folder = Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n{}\n",
        dns.settings()
    ));
    let settings = folder.settings();
    let mut run = command(&["run".as_ref(), "--admin".as_ref(), "off".as_ref(), "-c".as_ref(), settings.as_os_str()]);
    run.env("RUST_LOG", "info,egret::dial=debug");
    let egret = Egret::spawn_command(run);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (status, head) = status(&egret, &format!("scan.example.org:{closed}"));
    assert_eq!(status, "502", "{head}");
    egret.stdout.wait_for("CONNECT");
    let dials = egret.stderr.so_far().iter().filter(|line| line.contains("dialling")).count();
    assert_eq!(dials, 16);
}

#[test]
fn an_address_that_one_service_may_reach_is_closed_to_every_other_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                while read_head(&mut stream).is_some() {
                    stream.write_all(HELLO).unwrap();
                }
            });
        }
    });
    let dns = DnsServer::always(&["127.0.0.1"]);
    let entry = |name: &str, annotations: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{ name: {name}, annotations: {{ {annotations} }} }}\nspec:\n  hosts: [{name}.example.org]\n  \
             ports: [{{ number: {port}, name: http, protocol: HTTP }}]\n  {spec}\n"
        )
    };
    // A literal that a STATIC service without addresses spells out is a way of asking for that service: not so with `open`.
    let open = (entry("open", "egret.dev/allow-addresses: 127.0.0.1/32", "resolution: DNS"), "open.example.org");
    let vip = "resolution: STATIC\n  addresses: [192.0.2.7]\n  endpoints: [{ address: 127.0.0.1 }]";
    let spelled = (entry("spelled", "", vip), "spelled.example.org");
    for (rules, service) in [open, spelled] {
        let folder = settings(&format!("{}\nresources: [rules.yaml]", dns.settings()));
        folder.write("rules.yaml", &rules);
        let egret = start(&folder);
        let get = |host: &str| client::get(egret.proxy(), &format!("http://{host}:{port}/")).status;
        // Twice, in turn: a connection that the pool holds for the service is none for the others.
        for _ in 0..2 {
            assert_eq!(status(&egret, &format!("{service}:{port}")).0, "200", "{service}");
            assert_eq!(get(service), 200, "{service}");
            for host in ["other.example.org", "127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"] {
                assert_eq!(status(&egret, &format!("{host}:{port}")).0, "403", "{host} beside {service}");
                assert_eq!(get(host), 403, "{host} beside {service}");
            }
        }
    }
}

#[test]
fn what_the_registry_refuses_asks_no_dns_server() {
    let dns = DnsServer::always(&["127.0.0.2"]);
    let folder = settings(&format!("{}\nmesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }} }}", dns.settings()));
    let egret = start(&folder);
    for n in 0..20 {
        let name = format!("secret-{n}.exfiltration.example.org");
        assert_eq!(status(&egret, &format!("{name}:443")).0, "403");
        assert_eq!(client::get(egret.proxy(), &format!("http://{name}/")).status, 403);
    }
    assert_eq!(dns.queries(), 0);
}
