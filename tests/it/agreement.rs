//! `egret explain` and the proxy decide alike: the same questions to both, over many registries.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::support::dns::{Dns, Reply};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, client, egret, eventually, hello};

const REGISTRIES: usize = 40;
const ASKS: usize = 25;
/// Other flows: `AGREEMENT_SEED=… cargo test agreement`.
const SEED: u64 = 10;

#[test]
fn explain_and_the_proxy_agree_on_a_thousand_random_flows() {
    #[allow(clippy::disallowed_methods, reason = "to repeat a failure: a knob of this test")]
    let seed = std::env::var("AGREEMENT_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    eprintln!("AGREEMENT_SEED={seed}");
    let world = World::new();
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REGISTRIES {
                        return;
                    }
                    // A generator for each, so that a failing registry can be had again without those before it.
                    let mut rng = Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(number as u64));
                    judge(&mut rng, &world, number, &tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    assert!(
        tally.disagreements.is_empty(),
        "AGREEMENT_SEED={seed}: {} disagreements\n{}",
        tally.disagreements.len(),
        tally.disagreements.join("\n\n")
    );
    eprintln!("{tally:?}");
    // A generator that only makes refusals would prove nothing.
    assert_eq!(tally.flows, REGISTRIES * ASKS);
    assert!(tally.refused >= 200 && tally.answered >= 150 && tally.clusters >= 200, "{tally:?}");
    assert!(tally.inconsistent >= 20, "{tally:?}");
}

#[derive(Debug, Default)]
struct Tally {
    flows: usize,
    refused: usize,
    /// Allowed, and the upstream answered.
    answered: usize,
    /// Sent to the cluster of a service.
    clusters: usize,
    /// Tunnels that carried another name than they were asked for.
    inconsistent: usize,
    disagreements: Vec<String>,
}

/// What is there to be reached.
struct World {
    dns: Dns,
    origins: [Origin; 2],
    parent: Origin,
}

impl World {
    fn new() -> Self {
        let dns = Dns::new(|name| match name {
            "nx.test" => Reply::NoSuchName,
            "priv.test" => Reply::Addresses(vec![Ipv4Addr::new(10, 1, 2, 3)]),
            "mixed.test" => Reply::Addresses(vec![Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST]),
            "meta.test" => Reply::Addresses(vec![Ipv4Addr::new(169, 254, 169, 254)]),
            "none.test" => Reply::Addresses(vec![]),
            _ => Reply::Addresses(vec![Ipv4Addr::LOCALHOST]),
        });
        let origin = || Origin::new(|stream| serve(stream, HELLO));
        let parent = Origin::new(|stream| serve(stream, b"HTTP/1.1 200 OK\r\n\r\n"));
        Self { dns, origins: [origin(), origin()], parent }
    }

    fn origin(&self, rng: &mut Rng) -> u16 {
        self.origins[rng.usize(..2)].address.port()
    }

    /// A port to declare or to ask for: origins, ports with a meaning, and others.
    fn port(&self, rng: &mut Rng) -> u16 {
        match rng.u8(..8) {
            0 => 80,
            1 => 443,
            2 => 8080,
            _ => self.origin(rng),
        }
    }
}

/// Answers CONNECT with `connected`, all else with a greeting; a ClientHello is closed on, so that nobody waits for its answer.
fn serve(mut stream: TcpStream, connected: &[u8]) {
    let mut first = [0];
    while stream.peek(&mut first).is_ok_and(|read| read == 1 && first[0].is_ascii_uppercase()) {
        let Some(head) = read_head(&mut stream) else { return };
        let answer = if head.starts_with("CONNECT ") { connected } else { HELLO };
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// Runs one registry: each question to both, then compares.
fn judge(rng: &mut Rng, world: &World, number: usize, tally: &Mutex<Tally>) {
    let (folder, declared) = registry(rng, world);
    let egret = Egret::with_settings(&folder.settings());
    let questions: Vec<Question> = (0..ASKS).map(|_| Question::new(rng, world, &declared)).collect();
    let ask = |question: &Question| {
        let explained = question.explained(&folder);
        let answer = question.asked(&egret, explained["tunnel"] == "opaque");
        (explained, answer)
    };
    let answers: Vec<(Value, Answer)> = questions.iter().map(ask).collect();
    let mut lines = Vec::new();
    eventually("each flow is logged", || {
        lines = egret.stdout.so_far();
        lines.len() >= ASKS
    });
    assert_eq!(lines.len(), ASKS, "one line for each flow");
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut tally = tally.lock().unwrap();
    for (question, (explained, answer)) in questions.iter().zip(&answers) {
        let line = lines.iter().find(|line| {
            line["listener"] == answer.listener
                && line["downstream_remote_address"] == answer.client.to_string().as_str()
        });
        tally.flows += 1;
        tally.refused += usize::from(explained["decision"] == "deny");
        tally.answered += usize::from(explained["decision"] == "allow" && answer.error.is_none());
        tally.clusters += usize::from(explained["cluster"].as_str().is_some_and(|name| name.starts_with("outbound|")));
        tally.inconsistent += usize::from(line.is_some_and(|line| line["inconsistent"].is_string()));
        if let Err(why) = compare(explained, answer, line) {
            let line = line.map_or("none with this id".to_owned(), Value::to_string);
            let settings = std::fs::read_to_string(folder.settings()).unwrap();
            let rules = std::fs::read_to_string(folder.path().join("rules.yaml")).unwrap();
            tally.disagreements.push(format!(
                "registry {number}: {}: {why}\nexplain: {explained}\nanswer: {answer:?}\nline: {line}\n{settings}{rules}",
                question
            ));
        }
    }
}

/// What cannot be known without dialling: an allowed flow may end so.
const OF_THE_NETWORK: [&str; 12] = [
    "downstream_reset",
    "upstream_reset",
    "http_response_timeout",
    "hop_refused",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "destination_ip_unroutable",
    "tls_certificate_error",
    "tls_protocol_error",
    "tls_alert_received",
    "http_protocol_error",
];

fn compare(explained: &Value, answer: &Answer, line: Option<&Value>) -> Result<(), String> {
    let line = line.ok_or("the flow has no line")?;
    let expect = |what: &str, explained: &Value, done: Value| {
        if *explained == done { Ok(()) } else { Err(format!("{what} {explained} explained, but {done}")) }
    };
    let logged = line["reason"].as_str();
    if explained["decision"] == "deny" {
        expect("status", &explained["status"], answer.status.into())?;
        expect("reason", &explained["reason"], logged.into())?;
        // What is inconsistent is refused behind the 200.
        if answer.status.is_some() && logged != Some("inconsistent_tunnel") {
            expect("error", &explained["error"], answer.error.as_deref().into())?;
        }
    } else if let Some(reason) = logged.filter(|reason| !OF_THE_NETWORK.contains(reason)) {
        return Err(format!("allowed, and ended with {reason}"));
    } else if !explained["status"].is_null() && logged.is_none() {
        expect("status", &explained["status"], answer.status.into())?;
    }
    expect("cluster", &explained["cluster"], line["upstream_cluster"].clone())?;
    let stage = explained["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "consistency").unwrap();
    if logged.is_none_or(|reason| reason == "inconsistent_tunnel") && answer.said_name {
        let unfit = stage["result"] == "refuse" || stage["text"].as_str().unwrap().contains("it is logged");
        expect("inconsistency", &unfit.into(), line["inconsistent"].is_string().into())?;
    }
    // The log calls the refusing route block_all, as Istio does, and knows none of flows by SNI.
    if answer.status.is_some() && !explained["route"].is_null() {
        expect("route", &explained["route"], line["route_name"].clone())?;
    }
    if answer.status.is_some_and(|status| line["response_code"] != status) {
        return Err(format!("status {} logged, {:?} answered", line["response_code"], answer.status));
    }
    Ok(())
}

/// One flow as a client asks for it.
enum Question {
    /// To the `proxy` listener, with credentials perhaps.
    Request { method: &'static str, target: String, user: Option<&'static str>, sni: Option<&'static str> },
    /// A ClientHello to the `sni` listener.
    Hello { name: String },
}

#[derive(Debug)]
struct Answer {
    /// None of a TLS listener.
    status: Option<u16>,
    /// Of `Proxy-Status`; none: the upstream answered, or a tunnel was opened.
    error: Option<String>,
    /// The listener that was asked and our address there: by these the line is found.
    listener: &'static str,
    client: SocketAddr,
    /// A ClientHello went through the tunnel.
    said_name: bool,
}

impl Question {
    /// More often than not for something that is declared; otherwise for anything.
    fn new(rng: &mut Rng, world: &World, declared: &[(String, u16)]) -> Self {
        let (mut host, declared_port) = declared[rng.usize(..declared.len())].clone();
        if rng.u8(..4) == 0 {
            host = pick(rng, &ASKED_HOSTS).to_owned();
        }
        if rng.u8(..8) == 0
            && ServerName::try_from(host.as_str()).is_ok_and(|name| matches!(name, ServerName::DnsName(_)))
        {
            return Self::Hello { name: host };
        }
        let port = match rng.u8(..12) {
            0 => String::new(),
            1 => pick(rng, &[":", ":0", ":65536", ":4294967739", ":8o", ":-1", ":25", ":465"]).to_owned(),
            2 | 3 => format!(":{}", world.port(rng)),
            _ => format!(":{declared_port}"),
        };
        let user = pick(rng, &[None, Some("ann"), Some("ann"), Some("bob")]);
        if rng.bool() {
            let sni = pick(rng, &[None, Some("a.test"), Some("b.test"), Some("api.c.test"), Some("other.x.c.test")]);
            let same = SAID_NAMES.into_iter().find(|name| *name == host);
            let sni = if rng.bool() { same.or(sni) } else { sni };
            return Self::Request { method: "CONNECT", target: format!("{host}{port}"), user, sni };
        }
        let scheme = pick(rng, &["http", "http", "http", "http", "https", "HTTP", "ws", "ftp"]);
        let path = pick(rng, &["/", "/a/b?c=d", "", "/%2e%2e/x", "?q", "/#f"]);
        let method = pick(rng, &["GET", "GET", "HEAD", "DELETE", "OPTIONS", "POST", "PURGE"]);
        Self::Request { method, target: format!("{scheme}://{host}{port}{path}"), user, sni: None }
    }

    /// What the command says.
    fn explained(&self, folder: &Folder) -> Value {
        let settings = folder.settings();
        let mut args = vec!["explain", "-c", settings.to_str().unwrap(), "-o", "json", "--resolve"];
        match self {
            Self::Request { method, target, user, sni } => {
                args.extend(["-X", method]);
                args.extend(sni.iter().flat_map(|sni| ["--sni", sni]));
                args.extend(user.iter().flat_map(|user| ["--user", user]));
                args.extend(["--", target.as_str()]);
            }
            Self::Hello { name } => args.extend(["--listener", "sni", "--", name]),
        }
        let output = egret(&args);
        let code = output.status.code();
        let explained: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{self}: {code:?} {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(code, Some(if explained["decision"] == "allow" { 0 } else { 3 }), "{explained}");
        explained
    }

    /// What the proxy does.
    fn asked(&self, egret: &Egret, is_opaque: bool) -> Answer {
        match self {
            Self::Request { method, target, user, sni } => {
                let authority = target.split_once("://").map_or(target.as_str(), |(_, rest)| rest);
                let authority = authority.split(['/', '?', '#']).next().unwrap();
                let mut stream = client::dial(egret.proxy());
                let credentials = user.map(|user| format!("Proxy-Authorization: Basic {}\r\n", base64(user, PASSWORD)));
                let credentials = credentials.unwrap_or_default();
                write!(stream, "{method} {target} HTTP/1.1\r\nHost: {authority}\r\n{credentials}\r\n").unwrap();
                let head = read_head(&mut stream).unwrap_or_else(|| panic!("no answer to {self}"));
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                let sni = sni.filter(|_| is_opaque && status == 200);
                if let Some(sni) = sni {
                    stream.write_all(&hello::of(sni)).unwrap();
                    let _ = stream.read(&mut [0; 64]); // an alert of ours, or the end that the origin makes of it
                }
                let error = head.split("; error=").nth(1);
                let error = error.map(|rest| rest.split([';', '\r']).next().unwrap().to_owned());
                let client = stream.local_addr().unwrap();
                Answer { status: Some(status), error, listener: "proxy", client, said_name: sni.is_some() }
            }
            Self::Hello { name } => {
                let mut stream = client::dial(egret.address("sni"));
                stream.write_all(&hello::of(name)).unwrap();
                // An alert of ours, or the end that the origin makes of it.
                let _ = stream.read(&mut [0; 64]);
                let client = stream.local_addr().unwrap();
                Answer { status: None, error: None, listener: "sni", client, said_name: false }
            }
        }
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request { method, target, user, sni } => write!(f, "{method} {target} as {user:?} with SNI {sni:?}"),
            Self::Hello { name } => write!(f, "ClientHello for {name}"),
        }
    }
}

const PASSWORD: &str = "secret";

fn base64(user: &str, password: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}

const ASKED_HOSTS: [&str; 36] = [
    "a.test",
    "a.test",
    "A.Test",
    "a.test.",
    "b.test",
    "b.test",
    "api.c.test",
    "API.C.TEST.",
    "deep.x.c.test",
    "other.x.c.test",
    "c.test",
    "d.test",
    "unknown.test",
    "nx.test",
    "none.test",
    "priv.test",
    "mixed.test",
    "meta.test",
    "bücher.test",
    "localhost",
    "x.invalid",
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "[::ffff:127.0.0.1]",
    "[::1]",
    "127.0.0.2",
    "10.0.0.1",
    "10.7.3.4",
    "169.254.169.254",
    "0.0.0.0",
    "1.2.3.256",
    "a..test",
    "-a.test",
    "user@a.test",
];

/// Names that clients say in tunnels that they asked for.
const SAID_NAMES: [&str; 6] = ["a.test", "b.test", "d.test", "api.c.test", "other.x.c.test", "unknown.test"];

const DECLARED_HOSTS: [&str; 12] = [
    "a.test",
    "a.test",
    "a.test",
    "b.test",
    "b.test",
    "api.c.test",
    "*.c.test",
    "*.x.c.test",
    "d.test",
    "priv.test",
    "nx.test",
    "mixed.test",
];

/// Writes a random configuration that has no errors; gives some of the names and ports that it declares too.
fn registry(rng: &mut Rng, world: &World) -> (Folder, Vec<(String, u16)>) {
    let folder = Folder::new();
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    let htpasswd = folder.write("htpasswd", &format!("ann:{hash}\n"));
    for _ in 0..20 {
        let mut declared = Vec::new();
        folder.write("rules.yaml", &rules(rng, world, &mut declared));
        folder.write("egret.yaml", &settings(rng, world, &htpasswd));
        let settings = folder.settings();
        if egret(&["check", "-c", settings.to_str().unwrap()]).status.success() {
            return (folder, declared);
        }
    }
    panic!("20 bad configurations in a row; the last is in {}", folder.path().display());
}

fn settings(rng: &mut Rng, world: &World, htpasswd: &Path) -> String {
    let mode = pick(
        rng,
        &[
            "{ mode: REGISTRY_ONLY }",
            "{ mode: REGISTRY_ONLY }",
            "{}",
            "{ mode: REGISTRY_ONLY, report: true }",
            "{ mode: ALLOW_ANY }",
            "{ mode: ALLOW_ANY }",
            "{ mode: ALLOW_ANY, egressProxy: { host: parent.test, port: { number: 3128 } } }",
        ],
    );
    let opened = pick(
        rng,
        &["[127.0.0.0/8]", "[127.0.0.0/8]", "[127.0.0.0/8]", "[127.0.0.0/8, \"::1/128\"]", "[127.0.0.1/32]", "[]"],
    );
    let consistency = pick(rng, &["auto", "auto", "enforce", "warn", "off"]);
    let closed = pick(rng, &["[]", "[]", "[]", "[]", "[127.0.0.2/32]", "[127.0.0.0/8]"]);
    let clients = if rng.u8(..30) == 0 { "[192.0.2.0/24]" } else { "[127.0.0.0/8]" };
    let basic =
        if rng.u8(..8) == 0 { format!(", basic: {{ htpasswd: {} }}", htpasswd.display()) } else { String::new() };
    let allow: Vec<String> = (0..rng.usize(..3))
        .map(|_| {
            let port = world.port(rng);
            let host = pick(rng, &["a.test", "*.c.test", "d.test", "127.0.0.1", "127.0.0.0/30", "unknown.test"]);
            if rng.u8(..4) == 0 { format!("\"{host}\"") } else { format!("\"{host}:{port}\"") }
        })
        .collect();
    format!(
        "listeners:\n- {{ name: proxy, address: \"127.0.0.1:0\", clients: {{ from: {clients}{basic} }} }}\n\
         - {{ name: sni, protocol: sni, address: \"127.0.0.1:0\" }}\n\
         mesh: {{ outboundTrafficPolicy: {mode}, accessLogEncoding: JSON }}\n\
         consistency: {{ mode: {consistency} }}\naddresses: {{ allow: {opened}, deny: {closed} }}\ndns: {{ servers: [\"{}\"], hosts: null }}\nallow: [{}]\n\
         resources: [rules.yaml]\n",
        world.dns.address,
        allow.join(", ")
    )
}

fn rules(rng: &mut Rng, world: &World, declared: &mut Vec<(String, u16)>) -> String {
    let mut text = entry(
        "parent",
        &format!(
            "hosts: [parent.test]\nports: [{{ number: 3128, name: http, protocol: HTTP }}]\nresolution: STATIC\n\
             endpoints: [{{ address: 127.0.0.1, ports: {{ http: {} }} }}]",
            world.parent.address.port()
        ),
        "",
    );
    for index in 0..rng.usize(1..6) {
        text += &service_entry(rng, world, index, declared);
    }
    if rng.bool() {
        let policy = pick(
            rng,
            &[
                "tls: { mode: SIMPLE }",
                "tls: { mode: DISABLE }",
                "connectionPool: { tcp: { connectTimeout: 3s } }",
                "loadBalancer: { simple: PASSTHROUGH }",
                "loadBalancer: { simple: ROUND_ROBIN }",
                "portLevelSettings: [{ port: { number: 80 }, tls: { mode: SIMPLE } }]",
                "tls: { mode: SIMPLE, caCertificates: /no/such/file.pem }",
                "tunnel: { targetHost: far.test, targetPort: 443 }",
                "tunnel: { targetHost: 10.0.0.1, targetPort: 443 }",
            ],
        );
        let host = pick(rng, &["a.test", "b.test", "api.c.test", "\"*.c.test\"", "d.test"]);
        text += &resource("DestinationRule", "rule", &format!("host: {host}\ntrafficPolicy: {{ {policy} }}"), "");
    }
    if rng.bool() {
        text += &virtual_service(rng, world);
    }
    text
}

fn service_entry(rng: &mut Rng, world: &World, index: usize, declared: &mut Vec<(String, u16)>) -> String {
    let count = rng.usize(1..3);
    let hosts: Vec<&str> = (0..count).map(|_| pick(rng, &DECLARED_HOSTS)).collect();
    let wild = hosts.iter().any(|host| host.contains('*'));
    let resolution = match (wild, rng.u8(..6)) {
        (true, 0..3) => "DYNAMIC_DNS",
        (_, 0..2) => "NONE",
        (false, 2) => "DNS_ROUND_ROBIN",
        (false, 3) => "DNS",
        _ => "STATIC",
    };
    let mut spec = format!("hosts: {hosts:?}\nresolution: {resolution}\nports:\n");
    let ports = rng.usize(1..3);
    for port in 0..ports {
        let protocol = pick(rng, &["HTTP", "HTTP", "HTTP2", "HTTPS", "TLS", "TCP", "TCP", "MONGO"]);
        let number = world.port(rng);
        let origin = world.origin(rng);
        declared.extend(hosts.iter().map(|host| (host.replace('*', "any"), number)));
        let _ = writeln!(spec, "- {{ number: {number}, name: p{port}, protocol: {protocol}, targetPort: {origin} }}");
    }
    match (resolution, rng.u8(..4)) {
        ("NONE" | "DYNAMIC_DNS", 0) => spec += "addresses: [127.0.0.0/28]\n",
        ("NONE" | "DYNAMIC_DNS", 1) => spec += "addresses: [127.0.0.1]\n",
        (_, 0) => spec += "addresses: [10.0.0.1]\n",
        (_, 1) if resolution == "STATIC" => spec += "addresses: [10.7.0.0/16]\n",
        _ => {}
    }
    match (resolution, rng.u8(..4)) {
        ("STATIC", 0) if rng.bool() => {}
        ("STATIC", 1) => spec += "endpoints: [{ address: 127.0.0.1 }, { address: 127.0.0.1, weight: 2 }]\n",
        ("STATIC", _) => spec += "endpoints: [{ address: 127.0.0.1 }]\n",
        ("DNS" | "DNS_ROUND_ROBIN", 0) => spec += "endpoints: [{ address: mixed.test }]\n",
        _ => {}
    }
    if rng.u8(..6) == 0 {
        let _ = writeln!(spec, "exportTo: {}", pick(rng, &["[\".\"]", "[\"*\"]", "[\"~\"]", "[default]", "[other]"]));
    }
    let metadata = match rng.u8(..10) {
        3 => ", annotations: { egret.dev/consistency: off }",
        4 => ", annotations: { egret.dev/consistency: enforce }",
        0 | 1 => ", annotations: { egret.dev/allow-addresses: 127.0.0.0/8 }",
        2 => ", namespace: other",
        _ => "",
    };
    entry(&format!("entry-{index}"), spec.trim_end(), metadata)
}

fn virtual_service(rng: &mut Rng, world: &World) -> String {
    let host = pick(rng, &["a.test", "b.test", "\"*.c.test\"", "d.test"]);
    let to = pick(rng, &["a.test", "b.test", "api.c.test", "missing.test"]);
    let port = world.port(rng);
    let route = format!("route: [{{ destination: {{ host: {to}, port: {{ number: {port} }} }} }}]");
    let spec = match rng.u8(..4) {
        0 => format!("hosts: [{host}]\ntls:\n- match: [{{ sniHosts: [{host}] }}]\n  {route}"),
        1 => format!("hosts: [{host}]\ntcp:\n- {route}"),
        2 => format!("hosts: [{host}]\nhttp:\n- match: [{{ port: 80 }}]\n  {route}"),
        _ => format!("hosts: [{host}]\nhttp:\n- {route}"),
    };
    resource("VirtualService", "routes", &spec, "")
}

fn entry(name: &str, spec: &str, metadata: &str) -> String {
    resource("ServiceEntry", name, spec, metadata)
}

fn resource(kind: &str, name: &str, spec: &str, metadata: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{ name: {name}{metadata} }}\nspec:\n{spec}"
    )
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}
