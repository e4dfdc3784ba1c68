//! Name servers that fail under many clients at once.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::dns::{Dns, Reply};
use crate::support::{Egret, Folder, client, crowd, eventually};

const CLIENTS: usize = 300;
const NAMES: usize = 20;
const ATTEMPTS: usize = 2;

fn asking(dns: &Dns, more: &str) -> (Egret, Folder) {
    asking_at_most(dns, 1_000, more)
}

fn asking_at_most(dns: &Dns, queries: usize, more: &str) -> (Egret, Folder) {
    let folder = Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\nlimits: {{ dnsQueries: {queries} }}\n\
         dns: {{ servers: [\"{}\"], attempts: {ATTEMPTS}, hosts: null, {more} }}\n",
        dns.address
    ));
    (Egret::with_settings(&folder.settings()), folder)
}

/// CONNECTs of all clients at once, over all names; gives the answers' heads.
fn storm(egret: &Egret) -> Vec<String> {
    storm_over(egret, NAMES)
}

fn storm_over(egret: &Egret, names: usize) -> Vec<String> {
    let proxy = egret.proxy();
    crowd::runtime().block_on(async move {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(crowd::within(async move {
                let mut stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
                crowd::ask_connect(&mut stream, &format!("n{}.example:443", client % names), "x").await;
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

#[test]
fn questions_beyond_the_limit_are_refused_at_once_and_the_limit_gives_back() {
    const QUERIES: usize = 20;
    let dns = Dns::new(|name| match name {
        "good.example" => Reply::Addresses(vec![Ipv4Addr::LOCALHOST]),
        _ => Reply::Silence,
    });
    let (egret, _folder) = asking_at_most(&dns, QUERIES, "timeout: 500ms");
    let heads = storm_over(&egret, CLIENTS);
    let of = |status: &str| heads.iter().filter(|head| head.starts_with(&format!("HTTP/1.1 {status} "))).count();
    let (late, refused) = (of("504"), of("503"));
    assert_eq!(late + refused, CLIENTS, "{heads:?}");
    // A name takes two questions; those that end leave room for others while the storm lasts.
    assert!(late >= QUERIES / 2 && refused > 0, "{late} late, {refused} refused");
    let (_stream, head) = client::connect(egret.proxy(), "good.example:443");
    assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("error=destination_ip_prohibited"), "resolved: {head}");
}

#[test]
fn a_name_server_that_comes_back_is_asked_again_when_the_failure_is_forgotten() {
    let back = Arc::new(AtomicBool::new(false));
    let is_back = back.clone();
    let dns = Dns::new(move |_| match is_back.load(Ordering::Relaxed) {
        true => Reply::Addresses(vec![Ipv4Addr::LOCALHOST]),
        false => Reply::ServerFailure,
    });
    let (egret, _folder) = asking(&dns, "failureTtl: 300ms");
    assert!(client::connect(egret.proxy(), "a.example:443").1.contains("error=dns_error"));
    back.store(true, Ordering::Relaxed);
    eventually("the name resolves", || {
        client::connect(egret.proxy(), "a.example:443").1.contains("error=destination_ip_prohibited")
    });
}
