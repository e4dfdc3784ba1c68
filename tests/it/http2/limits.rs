//! The settings' `limits` as they meet connections and streams of HTTP/2.

use std::thread::sleep;
use std::time::Duration;

use crate::attacks::dns_server::SilentDns;
use crate::limits::reached;
use crate::support::frames::{
    ACK, CANCEL, DATA, END_STREAM, Frames, GOAWAY, HEADERS, NO_ERROR, PING, RST_STREAM, block, frame, get,
};
use crate::support::origin::{HELLO, Origin};
use crate::support::peer::{command, run};
use crate::support::{Egret, Folder, Setup, eventually};
use crate::wire::proxy;

const NODE: &str = "
const http2 = require('http2');
const [port, target] = process.argv.slice(1);
const session = http2.connect('http://127.0.0.1:' + port);
const ask = (login, then) => {
    const fields = { ':method': 'CONNECT', ':authority': target };
    if (login) fields['proxy-authorization'] = 'Basic ' + Buffer.from(login).toString('base64');
    const tunnel = session.request(fields);
    tunnel.on('response', (head) => {
        console.log(head[':status'], head['proxy-authenticate'] || '');
        if (head[':status'] === 200) tunnel.end('known'); else tunnel.resume();
    });
    tunnel.on('data', (data) => head_of(data));
    tunnel.on('end', then);
};
const head_of = (data) => { if (data.toString() === 'known') console.log('known'); };
ask('', () => ask('ada:wrong', () => ask('ada:s3cret', () => session.close())));
";

#[test]
fn credentials_are_asked_for_on_the_stream_and_the_next_stream_may_bring_them() {
    let folder = Folder::new();
    let users = folder.path().join("users");
    run(command("htpasswd").args(["-cbB", "-C", "4"]).arg(users).args(["ada", "s3cret"])).succeeded();
    let listeners = "{ name: proxy, address: \"127.0.0.1:0\", clients: { basic: { htpasswd: users } } }";
    let egret = Setup { listeners, ..Setup::default() }.start(&folder);
    let origin = Origin::echo();
    let mut node = command("node");
    node.args(["-e", NODE, "--", &egret.proxy().port().to_string(), &origin.address.to_string()]);
    let challenge = "407 Basic realm=\"egret\", charset=\"UTF-8\"";
    let said = run(&mut node).succeeded();
    assert_eq!(said.lines().map(str::trim_end).collect::<Vec<_>>(), [challenge, challenge, "200", "known"]);
    egret.record("authentication_required").shows(&[("protocol", "HTTP/2"), ("response_code", "407")]);
    egret.record("\"identity\":\"ada\"").shows(&[("protocol", "HTTP/2"), ("response_code", "200")]);
}

/// The connection's last frames: GOAWAY without an error, a PING that says when it has arrived, and the end.
fn ends_in_order(client: &mut Frames) {
    assert_eq!(client.wait(|frame| frame.kind == GOAWAY).code(), NO_ERROR);
    let ping = client.wait(|frame| frame.kind == PING && frame.flags & ACK == 0);
    client.send(PING, ACK, 0, &ping.payload);
    assert_eq!(client.find(|frame| !matches!(frame.kind, GOAWAY | RST_STREAM)), None);
}

#[test]
fn a_connection_ends_after_so_many_requests_and_those_that_run_are_served() {
    let (egret, _folder) = proxy("limits: { requestsPerConnection: 3 }");
    let (origin, echo) = (Origin::http(HELLO), Origin::echo());
    let mut client = Frames::open(egret.proxy());
    client.connect(1, echo.address);
    assert_eq!(client.status(1), 200);
    client.get(3, origin.address, "/");
    assert_eq!(client.status(3), 200);
    assert!(client.is_alive());
    assert_eq!(reached(&egret, "requests_per_connection"), 0, "two are allowed, and so is a third");
    client.get(5, origin.address, "/");
    assert_eq!(client.wait(|frame| frame.kind == GOAWAY).code(), NO_ERROR);
    assert_eq!(client.status(5), 200);
    assert_eq!(reached(&egret, "requests_per_connection"), 1);
    client.send(DATA, 0, 1, b"the tunnel lives on");
    assert_eq!(client.data(1, 19), b"the tunnel lives on");
    client.send(DATA, END_STREAM, 1, b"");
    client.wait(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0);
    client.find(|_| false);
    assert_eq!(origin.requests().len(), 2);
    let mut next = Frames::open(egret.proxy());
    next.get(1, origin.address, "/");
    assert_eq!(next.status(1), 200);
}

#[test]
fn a_connection_without_streams_ends_after_its_idle_time_and_one_with_a_tunnel_does_not() {
    let (egret, _folder) = proxy("limits: { keepAliveIdle: 500ms, tunnelIdle: 1h, headTime: 20s }");
    let (origin, echo) = (Origin::http(HELLO), Origin::echo());
    let mut busy = Frames::open(egret.proxy());
    busy.connect(1, echo.address);
    assert_eq!(busy.status(1), 200);
    let mut idle = Frames::open(egret.proxy());
    idle.get(1, origin.address, "/");
    assert_eq!(idle.status(1), 200);
    assert_eq!(reached(&egret, "keep_alive_idle"), 0);
    idle.data(1, usize::MAX);
    ends_in_order(&mut idle);
    assert_eq!((reached(&egret, "keep_alive_idle"), reached(&egret, "head_time")), (1, 0));
    assert!(busy.is_alive(), "it is older than the one that ended");
    // Once its tunnel is over it is idle, too.
    busy.send(DATA, END_STREAM, 1, b"");
    busy.wait(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0);
    ends_in_order(&mut busy);
    assert_eq!(reached(&egret, "keep_alive_idle"), 2);
}

#[test]
fn a_connection_whose_first_request_does_not_come_ends_as_a_slow_head_does() {
    let (egret, _folder) = proxy("limits: { keepAliveIdle: 0, headTime: 400ms }");
    let mut client = Frames::open(egret.proxy());
    ends_in_order(&mut client);
    assert_eq!((reached(&egret, "head_time"), reached(&egret, "keep_alive_idle")), (1, 0));
    // Between two requests there is no limit.
    let origin = Origin::http(HELLO);
    let mut client = Frames::open(egret.proxy());
    client.get(1, origin.address, "/");
    assert_eq!(client.status(1), 200);
    sleep(Duration::from_millis(900)); // what is tested is that nothing happens meanwhile
    client.get(3, origin.address, "/");
    assert_eq!(client.status(3), 200);
}

#[test]
fn an_idle_tunnel_ends_and_its_neighbour_does_not() {
    let (egret, _folder) = proxy("limits: { tunnelIdle: 600ms, keepAliveIdle: 1h }");
    let echo = Origin::echo();
    let mut client = Frames::open(egret.proxy());
    for stream in [1, 3] {
        client.connect(stream, echo.address);
        assert_eq!(client.status(stream), 200);
    }
    let idle = std::time::Instant::now();
    let mut end = None;
    while end.is_none() {
        client.send(DATA, 0, 3, b"busy");
        assert_eq!(client.data(3, 4), b"busy");
        sleep(Duration::from_millis(50)); // the neighbour's pace
        end = client.seen(|frame| frame.stream == 1);
    }
    // In order, as a FIN would be; and what the client still sends is not wanted (RFC 9113 §8.1).
    assert!(end.as_ref().is_some_and(|end| end.kind == DATA && end.flags & END_STREAM != 0), "{end:?}");
    assert_eq!(client.reset(1), NO_ERROR);
    assert!(idle.elapsed() >= Duration::from_millis(550), "{:?}", idle.elapsed());
    assert_eq!(reached(&egret, "tunnel_idle"), 1);
    client.send(DATA, 0, 3, b"lives");
    assert_eq!(client.data(3, 5), b"lives");
    eventually("one tunnel is left", || egret.metric("egret_tunnels_open") == 1);
}

#[test]
fn requests_beyond_the_rate_are_answered_429_on_their_stream() {
    let (egret, _folder) = proxy("limits: { requestsPerSecondPerClient: 1, requestsBurstPerClient: 3 }");
    let (origin, echo) = (Origin::http(HELLO), Origin::echo());
    let began = std::time::Instant::now();
    let mut client = Frames::open(egret.proxy());
    client.get(1, origin.address, "/");
    client.connect(3, echo.address);
    client.get(5, origin.address, "/");
    assert_eq!([1, 3, 5].map(|stream| client.status(stream)), [200; 3], "whichever came first");
    client.get(7, origin.address, "/");
    let status = client.status(7);
    if began.elapsed() < Duration::from_secs(1) {
        assert_eq!((status, reached(&egret, "requests_per_second_per_client")), (429, 1));
    }
    client.send(DATA, 0, 3, b"the tunnel is not concerned");
    assert_eq!(client.data(3, 27), b"the tunnel is not concerned");
}

/// A proxy whose only service has routes of HTTP, so that a CONNECT to it is served from the inside.
fn terminating(folder: &Folder, origin: &Origin, limits: &str) -> (Egret, String) {
    let port = origin.address.port();
    let rules = format!(
        "{{ apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{ name: web }}, spec: {{ hosts: [web.example], \
         ports: [{{ number: {port}, name: http, protocol: HTTP }}], resolution: DNS }} }}\n---\n\
         {{ apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{ name: web }}, spec: {{ hosts: [web.example], \
         http: [{{ route: [{{ destination: {{ host: web.example, port: {{ number: {port} }} }} }}] }}] }} }}\n"
    );
    let setup = Setup { rules: &rules, hosts: &["web.example"], more: limits, ..Setup::default() };
    (setup.start(folder), format!("web.example:{port}"))
}

#[test]
fn between_two_requests_inside_a_tunnel_keep_alive_has_its_own_time() {
    let origin = Origin::http(HELLO);
    let ask = |client: &mut Frames, target: &str| {
        client.send(DATA, 0, 1, format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes());
        let mut answer = String::new();
        while !answer.ends_with("hello") {
            answer += &String::from_utf8(client.data(1, 1)).unwrap();
        }
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    };
    let folder = Folder::new();
    let (egret, target) = terminating(&folder, &origin, "limits: { headTime: 300ms, keepAliveIdle: 0 }");
    let mut client = Frames::open(egret.proxy());
    client.connect(1, &target);
    assert_eq!(client.status(1), 200);
    ask(&mut client, &target);
    sleep(Duration::from_millis(900)); // what is tested is that nothing happens meanwhile
    ask(&mut client, &target);
    // A head that has begun has its own time all the same.
    client.send(DATA, 0, 1, b"GET / HT");
    let late = String::from_utf8(client.data(1, usize::MAX)).unwrap();
    assert!(late.starts_with("HTTP/1.1 408 "), "{late}");
    assert_eq!((reached(&egret, "head_time"), reached(&egret, "keep_alive_idle")), (1, 0));

    let folder = Folder::new();
    let (egret, target) = terminating(&folder, &origin, "limits: { headTime: 20s, keepAliveIdle: 500ms }");
    let mut client = Frames::open(egret.proxy());
    client.connect(1, &target);
    assert_eq!(client.status(1), 200);
    ask(&mut client, &target);
    assert_eq!(client.data(1, usize::MAX), b"", "ended in order");
    assert_eq!((reached(&egret, "head_time"), reached(&egret, "keep_alive_idle")), (0, 1));
}

#[test]
fn a_reset_connect_is_a_pending_dial_until_its_dial_is_cancelled() {
    const DIALS: u64 = 3;
    let dns = SilentDns::new();
    let (egret, _folder) = proxy(&format!(
        "limits: {{ pendingDials: {DIALS} }}\ndns: {{ servers: [\"{}\"], hosts: null, timeout: 30s }}",
        dns.address()
    ));
    let mut client = Frames::open(egret.proxy());
    let connect = |stream: u32| {
        let target = format!("n{stream}.example.org:443");
        frame(HEADERS, 4, stream, &block(&[(":method", "CONNECT"), (":authority", &target)]))
    };
    let mut stream = 1;
    for _ in 0..DIALS {
        client.bytes(&connect(stream));
        dns.wait_for_query();
        dns.wait_for_query(); // both families
        stream += 2;
    }
    assert_eq!((egret.metric("egret_dials_pending"), reached(&egret, "pending_dials")), (DIALS, 0));
    client.bytes(&connect(stream));
    assert_eq!(client.status(stream), 503);
    assert_eq!(reached(&egret, "pending_dials"), 1);
    // Each reset comes in one packet with the next CONNECT: whichever is looked at first, there are never more dials than allowed, and
    // every one that was let in has asked.
    for _ in 0..20 {
        let (first, next) = (stream - 2 * DIALS as u32, stream + 2);
        client.bytes(&[frame(RST_STREAM, 0, first, &CANCEL.to_be_bytes()), connect(next)].concat());
        // The third answers always; the one that came with the reset may be refused.
        eventually("it is decided", || {
            assert!(egret.metric("egret_dials_pending") <= DIALS);
            client.is_alive();
            client.seen(|frame| frame.stream == next && frame.kind == HEADERS).is_some()
                || egret.metric("egret_dials_pending") == DIALS
        });
        // Wherever it was refused another one takes the place, so that the next round begins with all of them taken.
        stream = next;
        while egret.metric("egret_dials_pending") < DIALS {
            stream += 2;
            client.bytes(&connect(stream));
            client.is_alive();
        }
    }
    for open in (1..=stream).step_by(2) {
        client.send(RST_STREAM, 0, open, &CANCEL.to_be_bytes());
    }
    eventually("nothing is under way", || {
        egret.metric("egret_dials_pending") == 0
            && egret.metric("egret_dns_queries_pending") == 0
            && egret.metric("egret_http2_streams_open") == 0
    });
}

#[test]
fn a_stream_that_was_reset_counts_until_its_task_has_ended() {
    let dns = SilentDns::new();
    let (egret, _folder) = proxy(&format!("dns: {{ servers: [\"{}\"], hosts: null, timeout: 30s }}", dns.address()));
    let mut client = Frames::open(egret.proxy());
    let ask = |stream: u32| frame(HEADERS, 5, stream, &block(&get(&format!("n{stream}.example.org"), "/")));
    let first: Vec<u32> = (0..100).map(|n| 2 * n + 1).collect();
    client.bytes(&first.iter().flat_map(|stream| ask(*stream)).collect::<Vec<_>>());
    eventually("all are dialled", || egret.metric("egret_dials_pending") == 100);
    // As many again, in the same packets as the resets that make room for them.
    let more: Vec<u8> = first
        .iter()
        .flat_map(|stream| [frame(RST_STREAM, 0, *stream, &CANCEL.to_be_bytes()), ask(stream + 200)].concat())
        .collect();
    client.bytes(&more);
    eventually("the second hundred is dialled, and the first is not any more", || {
        let (streams, dials) = (egret.metric("egret_http2_streams_open"), egret.metric("egret_dials_pending"));
        assert!(streams <= 100 && dials <= 100, "{streams} streams, {dials} dials");
        egret.metric("egret_http2_streams_total") == 200 && dials == 100
    });
}
