//! Istio's metrics, and Envoy's list of clusters.

use super::{Told, ask};
use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, Folder, Setup, client, eventually};

/// The sum of all series of a metric whose labels hold all of `labels`.
fn sum(told: &Told, name: &str, labels: &[&str]) -> f64 {
    let lines = told.body.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    let fits = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    fits.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn value(told: &Told, line: &str) -> u64 {
    let found = told.body.lines().find_map(|known| known.strip_prefix(line));
    found.unwrap_or_else(|| panic!("no {line} in\n{}", told.body)).parse().unwrap()
}

fn start(folder: &Folder, port: u16) -> Egret {
    Setup {
        mesh: "outboundTrafficPolicy: { mode: REGISTRY_ONLY }",
        rules: &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: origin, namespace: default }}\n\
             spec: {{ hosts: [origin.test], ports: [{{ number: {port}, name: tcp, protocol: TCP }}, {{ number: 1, name: dead, protocol: TCP }}], resolution: DNS }}\n"
        ),
        hosts: &["origin.test"],
        ..Setup::default()
    }
    .start(folder)
}

#[test]
fn requests_are_counted_under_istios_names_by_service_and_code() {
    let (origin, folder) = (Origin::http(HELLO), Folder::new());
    let port = origin.address.port();
    let egret = start(&folder, port);
    let url = format!("http://origin.test:{port}/");
    for _ in 0..3 {
        assert_eq!(client::get(egret.proxy(), &url).status, 200);
    }
    assert_eq!(client::get(egret.proxy(), "http://stranger.test/").status, 403);
    let ours = ["reporter=\"source\"", "destination_service=\"origin.test\"", "response_code=\"200\""];
    eventually("all are counted", || {
        let told = ask(&egret, &[], "/metrics");
        sum(&told, "istio_requests_total", &ours) == 3.0
            && sum(&told, "istio_requests_total", &["response_code=\"403\""]) == 1.0
    });
    let told = ask(&egret, &[], "/stats/prometheus");
    assert_eq!(sum(&told, "istio_request_duration_milliseconds_count", &ours), 3.0);
    assert_eq!(sum(&told, "istio_request_duration_milliseconds_bucket", &[&ours[..], &["le=\"+Inf\""]].concat()), 3.0);
    assert!(sum(&told, "istio_response_bytes_sum", &ours) > 0.0);
    let refused =
        ["destination_service=\"unknown\"", "destination_service_name=\"BlackHoleCluster\"", "response_flags=\"NR\""];
    assert_eq!(sum(&told, "istio_requests_total", &refused), 1.0);
    assert!(!told.body.contains("stranger.test"), "no label holds what a client chose");
}

#[test]
fn a_long_tunnel_is_seen_before_it_ends_and_its_bytes_are_counted_once() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = start(&folder, origin.address.port());
    let mut tunnel = client::tunnel(egret.proxy(), format!("origin.test:{}", origin.address.port()));
    let ours = [
        "destination_service=\"origin.test\"",
        "destination_service_namespace=\"default\"",
        "request_protocol=\"tcp\"",
    ];
    let metric = |name: &str| sum(&ask(&egret, &[], "/metrics"), name, &ours);
    assert!(client::echoes(&mut tunnel, b"ten bytes!"));
    eventually("its bytes are there", || metric("istio_tcp_received_bytes_total") == 10.0);
    assert_eq!(metric("istio_tcp_connections_opened_total"), 1.0);
    assert_eq!(metric("istio_tcp_connections_closed_total"), 0.0);
    assert!(client::echoes(&mut tunnel, b"five!"));
    drop(tunnel);
    eventually("it is closed", || metric("istio_tcp_connections_closed_total") == 1.0);
    assert_eq!((metric("istio_tcp_received_bytes_total"), metric("istio_tcp_sent_bytes_total")), (15.0, 15.0));
}

#[test]
fn clusters_are_listed_as_envoy_does_and_count_across_reloads() {
    let (origin, folder) = (Origin::http(HELLO), Folder::new());
    let port = origin.address.port();
    let egret = start(&folder, port);
    let url = format!("http://origin.test:{port}/");
    let host = format!("outbound|{port}||origin.test::{}::", origin.address);
    assert_eq!(client::get(egret.proxy(), &url).status, 200);
    let told = ask(&egret, &[], "/clusters");
    assert!(told.body.contains(&format!("{host}hostname::origin.test\n{host}weight::1\n")), "{}", told.body);
    assert!(told.body.contains("PassthroughCluster::observability_name::PassthroughCluster\n"));
    assert!(!told.body.contains("health_flags"), "nobody looks after the health of addresses");
    egret.reload();
    assert_eq!(client::get(egret.proxy(), &url).status, 200);
    eventually("both are counted", || value(&ask(&egret, &[], "/clusters"), &format!("{host}rq_success::")) == 2);
    let told = ask(&egret, &[], "/clusters?filter=origin.test");
    assert_eq!((value(&told, &format!("{host}rq_total::")), value(&told, &format!("{host}rq_error::"))), (2, 0));
    assert!(!told.body.contains("Passthrough"));
    assert_eq!(client::get(egret.proxy(), "http://origin.test:1/").status, 502);
    let told = ask(&egret, &[], "/clusters?filter=%7C1%7C");
    let dead = "outbound|1||origin.test::127.0.0.1:1::";
    assert_eq!(
        (value(&told, &format!("{dead}cx_connect_fail::")), value(&told, &format!("{dead}cx_active::"))),
        (3, 0) // a connection that fails is tried twice more, as in Istio
    );
    let told = ask(&egret, &[], "/clusters?format=json&filter=origin.test").json();
    assert_eq!(told["cluster_statuses"].as_array().unwrap().len(), 2);
    assert_eq!(told["cluster_statuses"][1]["host_statuses"][0]["address"]["socket_address"]["port_value"], port);
    assert_eq!(ask(&egret, &[], "/clusters?limit=0").status, 400);
}

#[test]
fn an_open_tunnel_is_an_active_connection_of_its_address() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = start(&folder, origin.address.port());
    let port = origin.address.port();
    let tunnel = client::tunnel(egret.proxy(), format!("origin.test:{port}"));
    let active = || {
        value(&ask(&egret, &[], "/clusters"), &format!("outbound|{port}||origin.test::{}::cx_active::", origin.address))
    };
    assert_eq!(active(), 1);
    drop(tunnel);
    eventually("it is over", || active() == 0);
}
