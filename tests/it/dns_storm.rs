//! Name servers that fail under many clients at once.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::dns::{Dns, Reply};
use crate::support::{Egret, Folder, client, crowd};

const CLIENTS: usize = 300;
const NAMES: usize = 20;
const ATTEMPTS: usize = 2;

fn asking(dns: &Dns, more: &str) -> (Egret, Folder) {
    let folder = Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\n\
         dns: {{ servers: [\"{}\"], attempts: {ATTEMPTS}, hosts: null, {more} }}\n",
        dns.address
    ));
    (Egret::with_settings(&folder.settings()), folder)
}

/// CONNECTs of all clients at once, over all names; gives the answers' heads.
fn storm(egret: &Egret) -> Vec<String> {
    let proxy = egret.proxy();
    crowd::runtime().block_on(async move {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(crowd::within(async move {
                let mut stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
                crowd::ask_connect(&mut stream, &format!("n{}.example:443", client % NAMES), "x").await;
                crowd::head(&mut stream).await
            }));
        }
        clients.join_all().await
    })
}

#[test]
fn a_failing_name_server_is_asked_once_for_each_name_and_not_again_while_the_failure_is_remembered() {
    let dns = Dns::new(|_| Reply::ServerFailure);
    let (egret, _folder) = asking(&dns, "failureTtl: 1m");
    for head in storm(&egret) {
        assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("error=dns_error"), "{head}");
    }
    let queries = dns.queries();
    let families = 2;
    // Over UDP and, where that fails, TCP.
    let most = NAMES * families * ATTEMPTS * 2;
    assert!((NAMES..=most).contains(&queries), "{queries} queries for {NAMES} names, at most {most} expected");
    for head in storm(&egret) {
        assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("error=dns_error"), "{head}");
    }
    assert_eq!(dns.queries(), queries, "answered from what is remembered");
}

#[test]
fn a_silent_name_server_costs_its_timeout_for_each_attempt_and_no_more() {
    let dns = Dns::new(|_| Reply::Silence);
    let (egret, _folder) = asking(&dns, "timeout: 500ms");
    let started = Instant::now();
    let (_stream, head) = client::connect(egret.proxy(), "silent.example:443");
    let took = started.elapsed();
    assert!(head.starts_with("HTTP/1.1 504 ") && head.contains("error=dns_timeout"), "{head}");
    let whole = Duration::from_millis(500) * u32::try_from(ATTEMPTS).unwrap();
    // A busy machine adds to it; the next attempt would add another half second, the default timeout three.
    assert!(took >= whole / 2 && took < whole + Duration::from_millis(450), "{took:?} for {whole:?}");
}

#[test]
fn a_storm_against_a_silent_name_server_ends_in_time_and_is_one_question_for_each_name() {
    let dns = Dns::new(|_| Reply::Silence);
    let (egret, _folder) = asking(&dns, "timeout: 500ms");
    for head in storm(&egret) {
        assert!(head.starts_with("HTTP/1.1 504 ") && head.contains("error=dns_timeout"), "{head}");
    }
    let most = NAMES * 2 * ATTEMPTS * 2;
    assert!(dns.queries() <= most, "{} queries, at most {most} expected", dns.queries());
}
