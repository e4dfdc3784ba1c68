//! Egret behind Egret, and two of them in a circle.

use super::{by_policy, parent};
use crate::support::origin::{Origin, field};
use crate::support::peer::free_ports;
use crate::support::{Egret, Folder, Setup, client};

#[test]
fn a_chain_of_two_works_and_both_log_the_flow() {
    let (echo, mirror) = (Origin::echo(), Origin::mirror());
    let (last_folder, first_folder) = (Folder::new(), Folder::new());
    let last = Setup { hosts: &["origin.example"], ..Setup::default() }.start(&last_folder);
    let first = by_policy(&parent(last.proxy().port())).start(&first_folder);
    let target = format!("origin.example:{}", echo.address.port());
    let mut tunnel = client::tunnel(first.proxy(), &target);
    assert!(client::echoes(&mut tunnel, b"chained"));
    drop(tunnel);
    let passed = [("response_code", "200"), ("response_flags", "-"), ("authority", &target)];
    let record = first.record("CONNECT");
    record.shows(&passed);
    let hop = last.proxy().to_string();
    record.shows(&[("hop", &hop), ("upstream_host", &hop)]);
    let at_last = last.record("CONNECT");
    at_last.shows(&passed);
    at_last.shows(&[("hop", ""), ("upstream_host", &echo.address.to_string())]);
    at_last.shows(&[("downstream_remote_address", &record.get("upstream_local_address"))]);

    let url = format!("http://origin.example:{}/plain", mirror.address.port());
    assert_eq!(client::get(first.proxy(), &url).status, 200);
    assert!(field(&mirror.requests()[0], "via").is_some_and(|via| via.matches("egret-").count() == 1));
    first.record("/plain").shows(&[("response_code", "200"), ("hop", &hop)]);
}

#[test]
fn a_parent_known_by_name_is_logged_by_name() {
    let echo = Origin::echo();
    let (last_folder, first_folder) = (Folder::new(), Folder::new());
    let last = Setup { hosts: &["origin.example"], ..Setup::default() }.start(&last_folder);
    let port = last.proxy().port();
    let rules = parent(port).replace("STATIC", "DNS").replace("  endpoints: [{ address: 127.0.0.1 }]\n", "");
    let first = Setup { hosts: &["parent.example"], ..by_policy(&rules) }.start(&first_folder);
    let target = format!("origin.example:{}", echo.address.port());
    assert!(client::echoes(&mut client::tunnel(first.proxy(), &target), b"by name"));
    let hop = format!("parent.example:{port}");
    first.record("CONNECT").shows(&[("hop", &hop), ("upstream_host", &last.proxy().to_string())]);
}

#[test]
fn whole_requests_name_both_in_via() {
    let mirror = Origin::mirror();
    let (last_folder, first_folder) = (Folder::new(), Folder::new());
    let last = Setup { hosts: &["origin.example"], ..Setup::default() }.start(&last_folder);
    let rules = parent(last.proxy().port())
        .replace("name: parent", "name: parent, annotations: { egret.dev/proxy-http: absolute-form }");
    let first = by_policy(&rules).start(&first_folder);
    let url = format!("http://origin.example:{}/whole", mirror.address.port());
    assert_eq!(client::get(first.proxy(), &url).status, 200);
    let head = mirror.requests()[0].clone();
    let names: Vec<&str> = head.lines().filter(|line| line.starts_with("Via:")).collect();
    assert!(names.len() == 2 && names[0] != names[1], "two processes, two names: {head}");
    for egret in [&first, &last] {
        egret.record("/whole").shows(&[("method", "GET"), ("response_code", "200"), ("response_flags", "-")]);
    }
}

/// A refusal of the last one is told by the first as the parent's.
#[test]
fn a_refusal_travels_down_the_chain() {
    let (last_folder, first_folder) = (Folder::new(), Folder::new());
    let mesh = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
    let last = Setup { mesh, ..Setup::default() }.start(&last_folder);
    let first = by_policy(&parent(last.proxy().port())).start(&first_folder);
    let (_, head) = client::connect(first.proxy(), "origin.example:443");
    assert!(head.starts_with("HTTP/1.1 502 Parent Proxy Refused (403)\r\n"), "{head}");
    assert!(head.contains("answered 403 Destination Not Allowed"), "{head}");
    first.record("CONNECT").shows(&super::refused("403"));
    last.record("CONNECT").shows(&[("response_code", "403"), ("response_flags", "NR")]);
}

/// Two that have each other as parent.
fn circle(annotations: &str) -> (Egret, Egret, [Folder; 2]) {
    let ports: [u16; 2] = free_ports();
    let start = |own: u16, other: u16| {
        let folder = Folder::new();
        let listener = format!("{{ name: proxy, address: \"127.0.0.1:{own}\" }}");
        let rules = parent(other).replace("name: parent", &format!("name: parent, annotations: {{ {annotations} }}"));
        let egret = Setup { listeners: &listener, ..by_policy(&rules) }.start(&folder);
        (egret, folder)
    };
    let ((one, one_folder), (two, two_folder)) = (start(ports[0], ports[1]), start(ports[1], ports[0]));
    (one, two, [one_folder, two_folder])
}

#[test]
fn a_circle_is_found_by_via_and_ends_at_once() {
    let (one, two, _folders) = circle("");
    let (_, head) = client::connect(one.proxy(), "origin.example:443");
    // The third pass is refused with 508; each of the two says that it was its parent.
    assert!(head.starts_with("HTTP/1.1 502 Parent Proxy Refused (502)\r\n"), "{head}");
    two.record("\"hop_status\":508").shows(&[("response_code", "502"), ("reason", "hop_refused")]);
    let record = one.record("\"response_code\":508");
    record.shows(&[("reason", "proxy_loop_detected"), ("authority", "origin.example:443"), ("hop", "")]);
    one.record("\"hop_status\":502").shows(&[("response_code", "502")]);
    assert_eq!((one.stdout.so_far().len(), two.stdout.so_far().len()), (2, 1));
}

#[test]
fn one_that_is_its_own_parent_is_found_too() {
    let [port]: [u16; 1] = free_ports();
    let folder = Folder::new();
    let listener = format!("{{ name: proxy, address: \"127.0.0.1:{port}\" }}");
    let egret = Setup { listeners: &listener, ..by_policy(&parent(port)) }.start(&folder);
    let (_, head) = client::connect(egret.proxy(), "origin.example:443");
    assert!(head.starts_with("HTTP/1.1 502 Parent Proxy Refused (508)\r\n"), "{head}");
    egret.record("\"response_code\":508").shows(&[("reason", "proxy_loop_detected")]);
    egret.record("\"response_code\":502").shows(&[("reason", "hop_refused"), ("hop_status", "508")]);
}

#[test]
fn a_circle_of_whole_requests_is_508() {
    let (one, two, _folders) = circle("egret.dev/proxy-http: absolute-form");
    let answer = client::get(one.proxy(), "http://origin.example/round");
    assert!(answer.head.starts_with("HTTP/1.1 508 Proxy Loop Detected\r\n"), "{}", answer.head);
    assert!(field(&answer.head, "proxy-status").is_some_and(|value| value.contains("error=proxy_loop_detected")));
    two.record("/round").shows(&[("response_code", "508")]);
    one.record("\"reason\":\"proxy_loop_detected\"").shows(&[("response_code", "508")]);
}
