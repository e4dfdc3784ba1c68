//! How often an origin sees a request, and who gets copies. The origins count.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::support::origin::read_head;
use crate::support::{client, eventually};

/// What an origin did with the requests that it saw.
#[derive(Clone, Default)]
struct Seen {
    count: Arc<AtomicUsize>,
    bodies: Arc<Mutex<Vec<usize>>>,
}

impl Seen {
    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// An origin that reads each request with its body and answers the `n`th (from 1) with `answer(n)`; `None`: it closes.
fn origin(answer: impl Fn(usize) -> Option<&'static [u8]> + Send + Sync + 'static) -> (Origin, Seen) {
    let seen = Seen::default();
    let counted = seen.clone();
    let origin = Origin::new(move |mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let body = read_body(&head, &mut stream);
            let n = counted.count.fetch_add(1, Ordering::SeqCst) + 1;
            counted.bodies.lock().unwrap().push(body);
            match answer(n) {
                Some(answer) if stream.write_all(answer).is_ok() => {}
                _ => return,
            }
        }
    });
    (origin, seen)
}

fn read_body(head: &str, stream: &mut TcpStream) -> usize {
    let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    let _ = stream.read_exact(&mut body);
    length
}

const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";

fn retrying(more: &str) -> String {
    format!("http:\n- retries: {{ {more} }}\n  {}", to("a"))
}

fn world(a: Origin, routes: &str) -> World {
    World::with(a, Origin::http(FROM_B), "", routes)
}

#[test]
fn an_answer_that_the_rule_names_is_asked_for_again() {
    let (a, seen) = origin(|n| Some(if n < 3 { BUSY } else { FROM_A }));
    let world = world(a, &retrying("attempts: 3, retryOn: 5xx"));
    assert_eq!(world.get(&["http://a.example/"]), "a\n200");
    assert_eq!(seen.count(), 3);
    world.egret.record("GET").shows(&[("response_flags", "-"), ("response_code", "200")]);
}

#[test]
fn attempts_end_and_the_last_answer_counts() {
    let (a, seen) = origin(|_| Some(BUSY));
    let world = world(a, &retrying("attempts: 2, retryOn: 'gateway-error', backoff: 1ms"));
    assert_eq!(world.get(&["http://a.example/"]), "busy\n503");
    assert_eq!(seen.count(), 3);
    world.egret.record("GET").shows(&[("response_flags", "URX"), ("response_code", "503")]);
}

#[test]
fn a_post_is_not_carried_out_twice() {
    for (answer, status) in [(Some(BUSY), "503"), (None, "502")] {
        let (a, seen) = origin(move |_| answer);
        let world = world(a, &retrying("attempts: 3, retryOn: '5xx,reset,connect-failure', backoff: 1ms"));
        let got = world.get(&["-d", "body", "http://a.example/"]);
        assert!(got.ends_with(status), "{got}");
        assert_eq!(seen.count(), 1, "{status}");
    }
}

#[test]
fn what_was_never_sent_is_sent_again_whatever_the_method() {
    // Nobody listens there at first.
    let [port] = crate::support::peer::free_ports();
    let (a, _) = origin(|_| Some(FROM_A));
    let entry = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: late }}\nspec:\n  hosts: [late.example]\n  resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1 }}]\n  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {port} }}]\n"
    );
    let routes =
        format!("http:\n- retries: {{ attempts: 40, retryOn: connect-failure, backoff: 100ms }}\n  {}", to("late"));
    let world = World::with(a, Origin::http(FROM_B), &entry, &routes);
    let (served, seen) = (Arc::new(Mutex::new(None)), Seen::default());
    let (into, counted) = (served.clone(), seen.clone());
    let listening = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300)); // some attempts fail before; how many does not matter
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        *into.lock().unwrap() = Some(());
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream).unwrap();
        read_body(&head, &mut stream);
        counted.count.fetch_add(1, Ordering::SeqCst);
        stream.write_all(FROM_A).unwrap();
        let _ = stream.read(&mut [0]); // until the other side is done
    });
    assert_eq!(world.get(&["-d", "body", "http://a.example/"]), "a\n200");
    drop(world);
    listening.join().unwrap();
    assert!(served.lock().unwrap().is_some());
    assert_eq!(seen.count(), 1);
}

#[test]
fn a_body_is_sent_again_up_to_64_kib() {
    for (bytes, expected) in [(64 * 1024, 2), (64 * 1024 + 1, 1)] {
        let (a, seen) = origin(|n| (n > 1).then_some(FROM_A));
        let world = world(a, &retrying("attempts: 1, retryOn: reset, backoff: 1ms"));
        let mut stream = client::dial(world.egret.proxy());
        client::send(
            &mut stream,
            &format!(
                "PUT http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: {bytes}\r\n\r\n{}",
                "x".repeat(bytes)
            ),
        );
        let answer = client::read_answer(&mut stream);
        assert_eq!(answer.status, if expected == 2 { 200 } else { 502 }, "{bytes}");
        assert_eq!(seen.count(), expected, "{bytes}");
        assert!(seen.bodies.lock().unwrap().iter().all(|body| *body == bytes), "each time the whole body");
    }
}

#[test]
fn an_attempt_has_a_time_of_its_own() {
    let seen = Seen::default();
    let counted = seen.clone();
    let a = Origin::new(move |mut stream| {
        while read_head(&mut stream).is_some() {
            if counted.count.fetch_add(1, Ordering::SeqCst) == 0 {
                let _ = stream.read(&mut [0]); // the first one gets nothing
                return;
            }
            let _ = stream.write_all(FROM_A);
        }
    });
    let world = world(a, &retrying("attempts: 2, perTryTimeout: 300ms, retryOn: 'gateway-error'"));
    let started = Instant::now();
    assert_eq!(world.get(&["http://a.example/"]), "a\n200");
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(seen.count(), 2);
}

#[test]
fn all_attempts_together_have_the_route_s_time() {
    let (a, seen) = origin(|_| Some(BUSY));
    let routes =
        format!("http:\n- timeout: 500ms\n  retries: {{ attempts: 1000, retryOn: 5xx, backoff: 50ms }}\n  {}", to("a"));
    let world = world(a, &routes);
    let started = Instant::now();
    let answer = world.get(&["http://a.example/"]);
    assert!(answer.ends_with("504"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!((2..100).contains(&seen.count()), "{}", seen.count());
}

#[test]
fn copies_go_to_mirrors_with_their_bodies_and_delay_nothing() {
    let (b, copies) = origin(|_| Some(FROM_B));
    let routes = format!(
        "http:\n- mirrors: [{{ destination: {{ host: b.example }} }}]\n  headers: {{ request: {{ set: {{ x-by: rule }} }} }}\n  {}",
        to("a")
    );
    let (a, seen) = origin(|_| Some(FROM_A));
    let world = World::with(a, b, "", &routes);
    assert_eq!(world.get(&["http://a.example/get"]), "a\n200");
    assert_eq!(world.get(&["-d", "four", "http://a.example/post"]), "a\n200");
    eventually("the copies are there", || copies.count() == 2);
    assert_eq!(seen.count(), 2);
    let mut bodies = copies.bodies.lock().unwrap().clone();
    bodies.sort_unstable();
    assert_eq!(bodies, [0, 4]);
}

#[test]
fn a_mirror_that_hangs_or_is_not_there_is_nobody_s_business() {
    let hanging = Origin::new(|mut stream| while stream.read(&mut [0; 64]).is_ok_and(|read| read > 0) {});
    let routes = format!(
        "http:\n- mirrors: [{{ destination: {{ host: b.example }} }}, {{ destination: {{ host: nowhere.example }} }}, {{ destination: {{ host: a.example }}, percentage: {{ value: 0 }} }}]\n  {}",
        to("a")
    );
    let (a, seen) = origin(|_| Some(FROM_A));
    let world = World::with(a, hanging, "", &routes);
    let started = Instant::now();
    assert_eq!(world.curl(&["-f", "http://a.example/[1-300]"]).succeeded(), "a".repeat(300));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed()); // below the time that a copy may take
    assert_eq!(seen.count(), 300);
}

/// A DestinationRule of `a.example`.
fn rule(policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: a }}\nspec:\n  host: a.example\n  trafficPolicy: {{ {policy} }}\n"
    )
}

fn told(world: &World, path: &str) -> String {
    String::from_utf8(client::get_from(world.egret.admin(), path).body).unwrap()
}

#[test]
fn no_more_requests_are_sent_again_at_once_than_the_cluster_may_have() {
    for policy in ["connectionPool: { http: { maxRetries: 1 } }", "retryBudget: { percent: 0, minRetryConcurrency: 1 }"]
    {
        let holds = Arc::new(AtomicUsize::new(0));
        let held = holds.clone();
        // The first retry stays; who fails meanwhile is answered with what it has.
        let (a, seen) = origin(move |n| {
            if n == 2 {
                held.store(1, Ordering::SeqCst);
                eventually("the other one was answered", || held.load(Ordering::SeqCst) == 2);
                return Some(FROM_A);
            }
            Some(BUSY)
        });
        let routes = retrying("attempts: 1, retryOn: '503', backoff: 1ms");
        let world = World::with(a, Origin::http(FROM_B), &rule(policy), &routes);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| client::get(world.egret.proxy(), "http://a.example/"));
            eventually("it is sent again", || holds.load(Ordering::SeqCst) == 1);
            let second = client::get(world.egret.proxy(), "http://a.example/");
            assert_eq!((second.status, &second.body[..]), (503, &b"busy"[..]), "{policy}");
            holds.store(2, Ordering::SeqCst);
            assert_eq!(first.join().unwrap().status, 200);
        });
        assert_eq!(seen.count(), 3);
        assert!(told(&world, "/metrics").contains("egret_cluster_overflows_total{bound=\"max_retries\"} 1\n"));
        // And there is room again.
        assert_eq!((client::get(world.egret.proxy(), "http://a.example/").status, seen.count()), (503, 5));
    }
}

#[test]
fn a_retry_goes_to_an_endpoint_that_did_not_fail() {
    let (busy, seen) = origin(|_| Some(BUSY));
    let good = Origin::http(FROM_B);
    let entry = |ports: [u16; 2]| {
        let [one, other] = ports;
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: two }}\nspec:\n  hosts: [two.example]\n  resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1, ports: {{ http: {one} }} }}, {{ address: 127.0.0.1, ports: {{ http: {other} }} }}]\n  ports: [{{ number: 80, name: http, protocol: HTTP }}]\n"
        )
    };
    let entry = entry([busy.address.port(), good.address.port()]);
    let routes = format!("http:\n- retries: {{ attempts: 1, retryOn: '503', backoff: 1ms }}\n  {}", to("two"));
    let world = World::with(Origin::http(FROM_A), Origin::http(FROM_B), &entry, &routes);
    for n in 0..30 {
        assert_eq!(client::get(world.egret.proxy(), "http://a.example/").status, 200, "{n}");
    }
    assert!(seen.count() > 0, "half of them begin there");
    drop(good);
}

#[test]
fn connections_that_fail_are_tried_again_where_nobody_says_anything_and_the_outcome_stays() {
    let [dead] = crate::support::peer::free_ports();
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: dead }}\nspec:\n  hosts: [dead.example]\n  resolution: DNS\n  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {dead} }}]\n"
    );
    for (mesh, fails, flags) in [
        ("", 3, "UF"),
        ("defaultHttpRetryPolicy: { attempts: 0 }", 1, "UF"),
        ("defaultHttpRetryPolicy: { attempts: 1, retryOn: connect-failure }", 2, "UF,URX"),
    ] {
        let folder = Folder::new();
        let egret = Setup { mesh, rules: &entry, hosts: &["dead.example"], ..Setup::default() }.start(&folder);
        for method in ["GET", "POST"] {
            let answer = client::ask(&mut client::dial(egret.proxy()), method, "http://dead.example/");
            assert_eq!(answer.status, 502, "{mesh}");
        }
        egret.record("GET").shows(&[("response_flags", flags), ("reason", "connection_refused")]);
        let told = String::from_utf8(client::get_from(egret.admin(), "/clusters").body).unwrap();
        let line = format!("outbound|80||dead.example::127.0.0.1:{dead}::cx_connect_fail::{}\n", 2 * fails);
        assert!(told.contains(&line), "{mesh}: {line}{told}");
        // What no rule knows is never sent again.
        let url = format!("http://127.0.0.1:{dead}/");
        assert_eq!(client::get(egret.proxy(), &url).status, 502);
        let told = String::from_utf8(client::get_from(egret.admin(), "/clusters").body).unwrap();
        assert!(told.contains(&format!("PassthroughCluster::127.0.0.1:{dead}::cx_connect_fail::1\n")), "{told}");
    }
}

#[test]
fn the_mesh_says_what_is_asked_for_again_unless_a_route_does() {
    for (route, count) in
        [("", 3), ("retries: { attempts: 0 }\n  ", 1), ("retries: { attempts: 1, retryOn: '503' }\n  ", 2)]
    {
        let (a, seen) = origin(|_| Some(BUSY));
        let folder = Folder::new();
        let rules = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: a }}\nspec:\n  hosts: [a.example]\n  resolution: DNS\n  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {} }}]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: a }}\nspec:\n  hosts: [a.example]\n  http:\n  - {route}{}\n",
            a.address.port(),
            to("a"),
        );
        let rules = rules.replace("\n  route:", "\n    route:");
        let mesh = "defaultHttpRetryPolicy: { attempts: 2, retryOn: gateway-error, backoff: 1ms }";
        let egret = Setup { mesh, rules: &rules, hosts: &["a.example"], ..Setup::default() }.start(&folder);
        assert_eq!(client::get(egret.proxy(), "http://a.example/").status, 503);
        assert_eq!(seen.count(), count, "{route}");
        egret.record("GET").shows(&[("response_flags", if count > 1 { "URX" } else { "-" })]);
    }
}

#[test]
fn an_answer_cut_by_the_timeout_is_logged_as_such_and_does_not_look_complete() {
    for answer in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "\r\nhalf"] {
        let a = Origin::new(move |mut stream| {
            read_head(&mut stream);
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes()).unwrap();
            let _ = stream.read(&mut [0]); // until it is given up
        });
        let world = world(a, &format!("http:\n- timeout: 300ms\n  {}", to("a")));
        let ran = world.curl(&["http://a.example/"]);
        assert_eq!((ran.stdout.as_str(), ran.code == Some(0)), ("half", false), "{ran:?}");
        world.egret.record("GET").shows(&[
            ("response_flags", "UT"),
            ("response_code", "200"),
            ("reason", "answer_timeout"),
        ]);
    }
}
