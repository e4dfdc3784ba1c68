//! Lines of tunnels that are still open.

use serde_json::Value;

use crate::support::origin::Origin;
use crate::support::{Egret, Folder, client, eventually};

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
