//! What `loadBalancer` and `outlierDetection` become, and what is said of parts that cannot act.

use super::*;
use crate::route::balancing::Balancing;
use crate::route::balancing::hashing::{HashOn, Table};

fn rules(resolution: &str, endpoints: usize, policy: &str) -> String {
    let endpoints: Vec<String> =
        (0..endpoints).map(|n| format!("{{ address: 192.0.2.{n}, locality: r{n}/z }}")).collect();
    let endpoints =
        if endpoints.is_empty() { String::new() } else { format!("\nendpoints: [{}]", endpoints.join(", ")) };
    let entry = format!(
        "hosts: [a.test]\nports: [{{ number: 80, name: http, protocol: HTTP }}]\nresolution: {resolution}{endpoints}"
    );
    [service_entry("a", &entry), resource("DestinationRule", "a", &format!("host: a.test\ntrafficPolicy: {policy}"))]
        .concat()
}

fn cluster(loaded: &Loaded) -> Arc<crate::route::Cluster> {
    loaded.ask("http://a.test/").verdict.expect("allowed").cluster
}

#[test]
fn a_policy_becomes_balancing_and_standing() {
    let policy = "{ loadBalancer: { consistentHash: { httpHeaderName: x-user, ringHash: { minimumRingSize: 10 } } } }";
    let cluster_of_hash = cluster(&load("", &rules("STATIC", 2, policy)).clean());
    let Balancing::Hash(hashing) = &cluster_of_hash.balancing else { panic!("{:?}", cluster_of_hash.balancing) };
    assert_eq!((&hashing.on, hashing.table), (&HashOn::Header("x-user".into()), Table::Ring { points_min: 10 }));
    assert!(
        cluster_of_hash.standing().is_none(),
        "endpoints are alike without outlierDetection and without a place of ours"
    );
    let policy = "{ loadBalancer: { warmupDurationSecs: 10s }, outlierDetection: { consecutive5xxErrors: 7, maxEjectionPercent: 100 } }";
    let cluster_of_care = cluster(&load("", &rules("STATIC", 2, policy)).clean());
    let standing = cluster_of_care.standing().expect("something");
    assert_eq!(
        standing.outliers.map(|outliers| (outliers.consecutive_5xx, outliers.consecutive_gateway)),
        Some((7, 0))
    );
    assert_eq!(standing.warm_up.map(|warm_up| warm_up.duration.as_secs()), Some(10));
    let port = "{ outlierDetection: { maxEjectionPercent: 100 }, portLevelSettings: [{ port: { number: 80 }, loadBalancer: { simple: RANDOM } }] }";
    let cluster_of_port = cluster(&load("", &rules("STATIC", 2, port)).clean());
    assert!(cluster_of_port.outliers().is_none(), "left out of the port's settings: back to none");
}

#[test]
fn what_cannot_act_is_named() {
    let problems =
        |resolution: &str, endpoints: usize, policy: &str| load("", &rules(resolution, endpoints, policy)).problems();
    let outliers = "{ outlierDetection: {} }";
    assert_eq!(problems("STATIC", 9, outliers), ["W233 spec.trafficPolicy.outlierDetection"]);
    assert_eq!(problems("STATIC", 10, outliers), [""; 0]);
    assert_eq!(problems("DNS", 0, outliers), [""; 0], "how many addresses a name has is for DNS to say");
    let hash = "{ loadBalancer: { consistentHash: { useSourceIp: true } } }";
    assert_eq!(problems("NONE", 0, hash), ["W230 spec.trafficPolicy.loadBalancer"]);
    assert_eq!(problems("DNS", 0, hash), [""; 0]);
    let places = "{ loadBalancer: { localityLbSetting: { distribute: [{ from: r1, to: { r0: 100 } }] } } }";
    assert_eq!(problems("STATIC", 2, places), ["W230 spec.trafficPolicy.loadBalancer.localityLbSetting"]);
    let off =
        "{ loadBalancer: { localityLbSetting: { enabled: false, distribute: [{ from: r1, to: { r0: 100 } }] } } }";
    assert_eq!(problems("STATIC", 2, off), [""; 0]);
}
