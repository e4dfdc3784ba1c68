//! Lines of tunnels that are still open.

use std::io::Write;

use serde_json::Value;

use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, Folder, Setup, client, eventually};

fn proxy(more: &str) -> (Egret, Folder) {
    let folder = Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n{more}\n"
    ));
    (Egret::with_settings(&folder.settings()), folder)
}

fn lines(egret: &Egret) -> Vec<Value> {
    egret.stdout.so_far().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_long_tunnel_has_a_line_when_it_opens_one_in_each_interval_and_one_at_its_end() {
    let origin = Origin::echo();
    let (egret, _folder) = proxy("mesh: { accessLogEncoding: JSON }\naccessLog: { start: true, interval: 1s }");
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    egret.stdout.wait_for("DownstreamTunnelSuccessfullyEstablished");
    assert!(client::echoes(&mut tunnel, b"12345"));
    eventually("two intervals have passed", || egret.stdout.so_far().len() >= 3);
    drop(tunnel);
    eventually("the last line", || lines(&egret).last().unwrap()["line_type"].is_null());
    let lines = lines(&egret);
    let (last, open) = lines.split_last().unwrap();
    let types: Vec<&str> = open.iter().map(|line| line["line_type"].as_str().unwrap()).collect();
    assert_eq!(types[0], "DownstreamTunnelSuccessfullyEstablished");
    assert!(types.len() >= 3 && types[1..].iter().all(|kind| *kind == "DownstreamPeriodic"), "{types:?}");
    assert_eq!((&open[0]["bytes_sent"], &open[0]["upstream_host"]), (&0.into(), &origin.address.to_string().into()));
    for line in open {
        assert_eq!((&line["response_flags"], &line["response_code"]), (&"-".into(), &200.into()), "{line}");
        assert!(line["connection_termination_details"].is_null() && line["reason"].is_null(), "{line}");
    }
    for line in &lines[2..] {
        assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&5.into(), &5.into()), "{line}");
    }
    let durations: Vec<u64> = lines.iter().map(|line| line["duration"].as_u64().unwrap()).collect();
    assert!(durations.is_sorted() && durations[2] >= 1000, "{durations:?}");
    assert_eq!(last["start_time"], open[0]["start_time"]);
}

#[test]
fn a_tunnel_that_is_served_from_the_inside_has_them_too() {
    let origin = Origin::http(HELLO);
    let port = origin.address.port();
    let rules = format!(
        "{{ apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{ name: shop }}, spec: {{ hosts: [shop.test],\n\
         ports: [{{ number: {port}, name: http, protocol: HTTP }}], resolution: DNS }} }}\n---\n\
         {{ apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{ name: shop }}, spec: {{ hosts: [shop.test],\n\
         http: [{{ route: [{{ destination: {{ host: shop.test }} }}] }}] }} }}\n"
    );
    let folder = Folder::new();
    let more = "accessLog: { start: true, interval: 1s }\nlimits: { keepAliveIdle: 4s }";
    let egret = Setup { rules: &rules, hosts: &["shop.test"], more, ..Setup::default() }.start(&folder);
    let mut tunnel = client::tunnel(egret.proxy(), format!("shop.test:{port}"));
    for _ in 0..2 {
        write!(tunnel, "GET / HTTP/1.1\r\nHost: shop.test:{port}\r\n\r\n").unwrap();
        assert_eq!(client::read_answer(&mut tunnel).status, 200);
    }
    assert!(client::ends(&mut tunnel), "the pause between two requests is as long as it may be, lines or not");
    let connects = || {
        let lines = lines(&egret).into_iter().filter(|line| line["method"] == "CONNECT");
        lines.map(|line| line["line_type"].as_str().unwrap_or("end").to_owned()).collect::<Vec<_>>()
    };
    // Workers write their lines by themselves, so the last may come before one that is older.
    let count = |kind: &str| connects().iter().filter(|found| *found == kind).count();
    eventually("all lines are there", || count("end") == 1 && count("DownstreamPeriodic") >= 3);
    assert_eq!((count("DownstreamTunnelSuccessfullyEstablished"), count("end")), (1, 1));
    assert!(count("DownstreamPeriodic") <= 4 && connects().len() <= 6, "{:?}", connects());
}

/// A port without protocol that has http routes: the first bytes decide.
#[test]
fn a_tunnel_that_turns_out_to_be_no_http_is_logged_as_one_that_was_relayed() {
    let origin = Origin::echo();
    let port = origin.address.port();
    let rules = format!(
        "{{ apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{ name: any }}, spec: {{ hosts: [any.test],\n\
         ports: [{{ number: {port}, name: any }}], resolution: DNS }} }}\n---\n\
         {{ apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{ name: any }}, spec: {{ hosts: [any.test],\n\
         http: [{{ route: [{{ destination: {{ host: any.test }} }}] }}] }} }}\n"
    );
    let folder = Folder::new();
    let egret = Setup { rules: &rules, hosts: &["any.test"], ..Setup::default() }.start(&folder);
    let mut tunnel = client::tunnel(egret.proxy(), format!("any.test:{port}"));
    assert!(client::echoes(&mut tunnel, b"SSH-2.0-x\r\n"));
    drop(tunnel);
    eventually("its line", || lines(&egret).len() == 1);
    let line = &lines(&egret)[0];
    assert_eq!((&line["response_code_details"], &line["bytes_sent"]), (&"via_upstream".into(), &11.into()), "{line}");
}

#[test]
fn the_text_format_tells_the_lines_apart_and_a_short_tunnel_has_no_interim_line() {
    let origin = Origin::echo();
    let (egret, folder) = proxy("accessLog: { start: true, interval: 1h }");
    drop(client::tunnel(egret.proxy(), origin.address));
    eventually("both lines", || egret.stdout.so_far().len() == 2);
    let lines = egret.stdout.so_far();
    assert!(
        lines[0].ends_with(" DownstreamTunnelSuccessfullyEstablished") && lines[1].ends_with(" DownstreamEnd"),
        "{lines:?}"
    );
    // Off again after a reload; then the line is Istio's to its end.
    let settings = std::fs::read_to_string(folder.settings()).unwrap();
    folder.write("egret.yaml", settings.split("accessLog:").next().unwrap());
    egret.reload();
    drop(client::tunnel(egret.proxy(), origin.address));
    eventually("one line more", || egret.stdout.so_far().len() == 3);
    assert!(egret.stdout.so_far()[2].ends_with(" allow_any"), "{:?}", egret.stdout.so_far());
}
