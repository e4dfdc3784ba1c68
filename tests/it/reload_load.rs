//! Reloads under load: nobody notices.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::support::crowd::{self, ECHO};
use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, Folder, client, eventually};

const RELOADS: usize = 100;
const TUNNELS: usize = 1_000;
const CLIENTS: usize = 64;
/// Each so many reloads, one configuration is bad.
const BAD_EACH: usize = 10;

struct Rules {
    folder: Folder,
    /// Of the tunnels.
    tunnels: SocketAddr,
    /// Of the keep-alive clients.
    http: SocketAddr,
}

impl Rules {
    /// One good configuration or the other: they differ in names, services, limits, DNS, listeners and log.
    fn set(&self, odd: bool, more: &str) {
        let folder = self.folder.path().display();
        let (tunnels, http) = (self.tunnels.port(), self.http.port());
        let names: &[&str] = if odd { &["first", "second"] } else { &["first", "third", "fourth", "second"] };
        let resolution = if odd { "NONE" } else { "STATIC\n  endpoints: [{ address: 127.0.0.1 }]" };
        let entries = names.iter().map(|name| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
                 hosts: [{name}.test]\n  ports: [{{ number: {tunnels}, name: tcp, protocol: TCP }}]\n  resolution: {resolution}\n"
            )
        });
        self.folder.write("entries.yaml", &entries.collect::<String>());
        let second = if odd { ", { name: second, address: \"127.0.0.1:0\" }" } else { "" };
        self.folder.write(
            "egret.yaml",
            &format!(
                "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}{second}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
                 resources: [entries.yaml]\ndns: {{ hosts: {folder}/hosts, attempts: {} }}\n\
                 limits: {{ idlePool: {}, headFields: {} }}\nallow: [\"http.test:{http}\"]\n\
                 mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }}, accessLogFile: {folder}/{}.log }}\n{more}\n",
                if odd { 1 } else { 2 },
                if odd { 512 } else { 16 },
                if odd { 100 } else { 50 },
                if odd { "odd" } else { "even" },
            ),
        );
    }

    fn logs(&self) -> [PathBuf; 2] {
        ["odd.log", "even.log"].map(|name| self.folder.path().join(name))
    }
}

fn start(runtime: &Runtime) -> (Rules, Egret) {
    let tunnels = runtime.block_on(crowd::origin());
    let http = Origin::http(HELLO).address;
    let rules = Rules { folder: Folder::new(), tunnels, http };
    rules.folder.write("hosts", "127.0.0.1 first.test second.test third.test fourth.test http.test\n");
    rules.set(true, "");
    let egret = Egret::with_settings(&rules.folder.settings());
    (rules, egret)
}

/// Reloads by signal and waits until that is over, whatever the watch of the files does beside it.
fn reload(egret: &Egret, count: usize) -> String {
    egret.signal(Signal::HUP);
    egret.stderr.wait_for_nth("why=\"SIGHUP\"", count)
}

struct Tunnels(Vec<tokio::net::TcpStream>);

impl Tunnels {
    fn open(runtime: &Runtime, egret: &Egret, target: &str, count: usize) -> Self {
        let proxy = egret.proxy();
        let open = async {
            let mut streams = Vec::with_capacity(count);
            for n in 0..count {
                let (mut stream, status) = crowd::connect(proxy, target, &format!("tunnel-{n}")).await;
                assert_eq!(status, 200);
                crowd::echoes(&mut stream, &[ECHO]).await;
                streams.push(stream);
            }
            streams
        };
        Self(runtime.block_on(open))
    }

    fn echo(&mut self, runtime: &Runtime, which: impl Fn(usize) -> bool) {
        runtime.block_on(async {
            for (n, stream) in self.0.iter_mut().enumerate().filter(|(n, _)| which(*n)) {
                crowd::echoes(stream, format!("still here {n}").as_bytes()).await;
            }
        });
    }

    /// How many of them the proxy ended.
    fn ended(&mut self, runtime: &Runtime) -> usize {
        runtime.block_on(async {
            let mut ended = 0;
            for stream in &mut self.0 {
                let mut byte = [0];
                let read = crowd::within(tokio::io::AsyncReadExt::read(stream, &mut byte)).await;
                assert!(!matches!(read, Ok(1..)), "bytes came");
                ended += 1;
            }
            ended
        })
    }
}

/// Keep-alive clients that ask all the time; any other answer than a good one on the same connection ends the test.
struct Clients {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(proxy: SocketAddr, http: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..CLIENTS)
            .map(|_| {
                let (stop, asked) = (stop.clone(), asked.clone());
                std::thread::spawn(move || {
                    let mut stream = client::dial(proxy);
                    let url = format!("http://http.test:{}/", http.port());
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client::ask(&mut stream, "GET", &url);
                        assert_eq!((answer.status, &*answer.body), (200, &b"hello"[..]), "{}", answer.head);
                        asked.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(5)); // leaves time for the reloads on two cores
                    }
                })
            })
            .collect();
        Self { stop, asked, threads }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no client saw an error");
        }
        self.asked.load(Ordering::Relaxed)
    }
}

#[test]
fn a_hundred_reloads_under_a_thousand_tunnels_and_64_clients_are_not_noticed() {
    let runtime = crowd::runtime();
    let (rules, egret) = start(&runtime);
    let files = egret.open_files().len();
    let mut tunnels = Tunnels::open(&runtime, &egret, &format!("first.test:{}", rules.tunnels.port()), TUNNELS);
    let clients = Clients::start(egret.proxy(), rules.http);
    eventually("the clients ask", || clients.asked() >= CLIENTS);
    let mut good = 0;
    for n in 1..=RELOADS {
        let asked = clients.asked();
        let bad = n % BAD_EACH == 0;
        rules.set(n % 2 == 0, if bad { "threads: many" } else { "" });
        let line = reload(&egret, n);
        assert_eq!(line.contains("not reloaded"), bad, "{line}");
        if bad {
            assert!(line.contains("errors=1"), "{line}");
        } else {
            good += 1;
            assert!(line.contains("revoked=0"), "{line}");
        }
        tunnels.echo(&runtime, |tunnel| tunnel % 50 == n % 50);
        eventually("the clients go on", || clients.asked() > asked);
    }
    tunnels.echo(&runtime, |_| true);
    let asked = clients.stop();
    assert_eq!(egret.metric("egret_tunnels_open"), TUNNELS as u64);
    // The watch of the files may have reloaded beside the signals: what it did stands in the log too.
    let log = egret.stderr.so_far();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    let rejected = count(" not reloaded");
    let loaded = count(" reloaded why=");
    assert!(loaded >= good && rejected >= RELOADS / BAD_EACH, "{loaded} loaded, {rejected} not");
    assert_eq!(egret.metric("egret_config_loads_total"), loaded as u64 + 1);
    assert_eq!(egret.metric("egret_config_rejections_total"), rejected as u64);
    let last = log.iter().rev().find_map(|line| line.split("generation=").nth(1)).unwrap();
    assert_eq!(last.split(' ').next().unwrap(), egret.metric("egret_config_generation").to_string());
    drop(tunnels);
    eventually("all tunnels are closed", || egret.metric("egret_tunnels_open") == 0);
    eventually("all connections are closed", || egret.metric("egret_connections_open") == 0);
    rules.set(false, "limits: { idlePool: 0 }"); // twice the same key: bad, and nothing is kept of it either
    assert!(reload(&egret, RELOADS + 1).contains("not reloaded"));
    // Idle upstream connections stay, 16 at most under the last good configuration; one listener more or less.
    let mut now = 0;
    eventually("the descriptors are those of the start", || {
        now = egret.open_files().len();
        now <= files + 17
    });
    let lines =
        || rules.logs().iter().map(|log| std::fs::read_to_string(log).unwrap_or_default().lines().count()).sum();
    let mut written: usize = 0;
    eventually("all lines are written", || {
        written = lines();
        written >= asked + TUNNELS
    });
    assert_eq!(written, asked + TUNNELS, "a line for each flow, in one file or the other");
}

#[test]
fn of_many_tunnels_those_that_lose_their_rule_are_closed_reported_or_kept_and_the_others_are_not_touched() {
    const EACH: usize = 200;
    for (on_revoke, revoked) in [("close", EACH), ("report", EACH), ("keep", 0)] {
        let runtime = crowd::runtime();
        let (rules, egret) = start(&runtime);
        let on_revoke_setting = format!("onRevoke: {on_revoke}");
        rules.set(false, &on_revoke_setting);
        reload(&egret, 1);
        let port = rules.tunnels.port();
        let mut losing = Tunnels::open(&runtime, &egret, &format!("third.test:{port}"), EACH);
        let mut keeping = Tunnels::open(&runtime, &egret, &format!("second.test:{port}"), EACH);
        rules.set(true, &on_revoke_setting);
        let line = reload(&egret, 2);
        assert!(line.contains(&format!("revoked={revoked} ")), "{on_revoke}: {line}");
        if on_revoke == "close" {
            assert_eq!(losing.ended(&runtime), EACH);
        } else {
            losing.echo(&runtime, |_| true);
        }
        keeping.echo(&runtime, |_| true);
        let open = if on_revoke == "close" { EACH } else { 2 * EACH };
        eventually("the count of tunnels is right", || egret.metric("egret_tunnels_open") == open as u64);
        let (_, head) = client::connect(egret.proxy(), format!("third.test:{port}"));
        assert!(head.starts_with("HTTP/1.1 403 "), "{on_revoke}: {head}");
    }
}

#[test]
fn a_reload_in_the_middle_of_an_answer_does_not_cut_it() {
    use std::io::{Read, Write};
    let runtime = crowd::runtime();
    let (rules, egret) = start(&runtime);
    let mut stream: TcpStream = client::tunnel(egret.proxy(), format!("first.test:{}", rules.tunnels.port()));
    let piece = vec![ECHO; 64 * 1024];
    let mut reader = stream.try_clone().unwrap();
    let total = piece.len() * 64;
    let reading = std::thread::spawn(move || {
        let mut received = Vec::with_capacity(total);
        reader.read_to_end(&mut received).unwrap();
        received.len()
    });
    for n in 0..64 {
        stream.write_all(&piece).unwrap();
        if n % 16 == 8 {
            rules.set(n % 32 == 8, "");
            reload(&egret, n / 16 + 1);
        }
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(reading.join().unwrap(), total);
}
