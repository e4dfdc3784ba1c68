//! What a route has done with a request beside sending it on.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::*;
use crate::support::client;
use crate::support::origin::{HELLO, read_head};

#[test]
fn a_redirect_is_answered_and_nothing_goes_out() {
    let world = World::new(
        "http:\n- name: moved\n  match: [{ uri: { prefix: /old } }]\n  redirect: { prefixRewrite: /new, scheme: https, redirectCode: 308 }\n- redirect: { uri: /lerp, authority: b.example }",
    );
    let told = |args: &[&str]| {
        let format = ["-o", "/dev/null", "-w", "%{http_code} %header{location}"];
        world.curl(&[&format, args].concat()).succeeded()
    };
    assert_eq!(told(&["http://a.example/old/x?y=z"]), "308 https://a.example/new/x?y=z");
    assert_eq!(told(&["http://a.example:82/other?q"]), "301 http://b.example/lerp?q");
    assert_eq!(told(&["-d", "body", "http://a.example/"]), "301 http://b.example/lerp");
    assert_eq!(told(&["-p", "http://a.example/"]), "301 http://b.example/lerp", "inside a tunnel too");
    // The connection stays: nothing about the answer breaks its framing.
    let mut stream = client::dial(world.egret.proxy());
    for _ in 0..2 {
        assert_eq!(client::ask(&mut stream, "GET", "http://a.example/").status, 301);
    }
    world.egret.record("/old/x").shows(&[
        ("response_code", "308"),
        ("response_code_details", "direct_response"),
        ("response_flags", "-"),
        ("route_name", "moved"),
        ("upstream_cluster", ""),
    ]);
    assert!(world.a.requests().is_empty() && world.b.requests().is_empty());
}

#[test]
fn a_direct_response_has_status_body_and_headers() {
    let world = World::new(
        "http:\n- match: [{ uri: { exact: /empty } }]\n  directResponse: { status: 204 }\n- directResponse: { status: 418, body: { string: short and stout } }\n  headers: { response: { set: { X-Pot: tea, Content-Type: text/tea } } }",
    );
    let printed = world.curl(&["-i", "http://a.example/"]).succeeded();
    assert!(printed.starts_with("HTTP/1.1 418 "), "{printed}");
    assert_eq!(field(&printed, "x-pot"), Some("tea"));
    assert_eq!(field(&printed, "content-type"), Some("text/tea"));
    assert!(printed.ends_with("\r\n\r\nshort and stout"), "{printed}");
    let head = world.curl(&["-I", "http://a.example/"]).succeeded();
    assert!(head.ends_with("\r\n\r\n") && field(&head, "content-length") == Some("15"), "{head}");
    let empty = world.curl(&["-i", "http://a.example/empty"]).succeeded();
    assert!(empty.starts_with("HTTP/1.1 204 No Content\r\n") && field(&empty, "content-length").is_none(), "{empty}");
    assert!(world.a.requests().is_empty());
}

#[test]
fn paths_and_hosts_are_rewritten() {
    let world = World::new(&format!(
        "http:\n- match: [{{ uri: {{ prefix: /api/ }} }}]\n  rewrite: {{ uri: /v2/, authority: other.example }}\n  {b}\n- match: [{{ uri: {{ exact: /one }} }}]\n  rewrite: {{ uri: /two }}\n  {b}\n- match: [{{ uri: {{ prefix: /service/ }} }}]\n  rewrite: {{ uriRegexRewrite: {{ match: '^/service/([^/]+)(/.*)$', rewrite: '\\2/instance/\\1' }} }}\n  {b}\n- headers: {{ request: {{ set: {{ Host: 'set.example:8080' }} }} }}\n  {b}",
        b = to("b")
    ));
    for (path, line, host) in [
        ("/api/x?y=/api/", "GET /v2/x?y=/api/ HTTP/1.1", "other.example"),
        ("/one?two", "GET /two?two HTTP/1.1", "a.example"),
        ("/service/foo/v1/api", "GET /v1/api/instance/foo HTTP/1.1", "a.example"),
        ("/rest", "GET /rest HTTP/1.1", "set.example:8080"),
    ] {
        assert_eq!(world.get(&[&format!("http://a.example{path}")]), "b\n200", "{path}");
        let head = world.b.requests().pop().unwrap();
        assert_eq!(head.lines().next(), Some(line), "{path}");
        assert_eq!(field(&head, "host"), Some(host), "{path}");
    }
    // The log shows what was asked for.
    world.egret.record("/api/x").shows(&[("authority", "a.example"), ("path", "/api/x?y=/api/")]);
}

#[test]
fn headers_are_set_added_and_removed_on_both_ways() {
    let world = World::new(
        "http:\n- headers:\n    request: { set: { X-Set: route }, add: { X-Add: more }, remove: [X-Gone] }\n    response: { set: { Server: us }, add: { X-Back: '100%%' }, remove: [X-Nothing] }\n  route:\n  - destination: { host: b.example }\n    headers: { request: { set: { X-To: b } }, response: { add: { X-From: b } } }",
    );
    let printed = world
        .curl(&[
            "-i",
            "-H",
            "x-set: mine",
            "-H",
            "X-Add: mine",
            "-H",
            "X-GONE: 1",
            "-H",
            "X-Kept: 1",
            "http://a.example/",
        ])
        .succeeded();
    let head = world.b.requests().pop().unwrap();
    let all = |head: &str, name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(all(&head, "x-set"), ["route"]);
    assert_eq!(all(&head, "x-add"), ["mine", "more"]);
    assert_eq!(all(&head, "x-to"), ["b"]);
    assert!(all(&head, "x-gone").is_empty() && all(&head, "x-kept") == ["1"], "{head}");
    assert_eq!(all(&printed, "server"), ["us"]);
    assert_eq!(all(&printed, "x-back"), ["100%"]);
    assert_eq!(all(&printed, "x-from"), ["b"]);
}

/// An origin that reads requests and says nothing, or `answer` and then nothing.
fn silent(answer: &'static [u8]) -> Origin {
    Origin::new(move |mut stream| {
        while read_head(&mut stream).is_some() {
            let _ = stream.write_all(answer);
            let mut rest = [0; 4096];
            while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
        }
    })
}

#[test]
fn a_route_s_timeout_is_504_and_counts_from_the_end_of_the_request() {
    let world = World::with(silent(b""), Origin::http(FROM_B), "", &format!("http:\n- timeout: 500ms\n  {}", to("a")));
    let started = Instant::now();
    let answer = world.get(&["http://a.example/slow"]);
    let took = started.elapsed();
    assert!(answer.ends_with("\n504"), "{answer}");
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(5), "{took:?}");
    world.egret.record("/slow").shows(&[("response_code", "504"), ("response_flags", "UT")]);
    // A body that takes longer than the timeout is not in time's way: the clock starts behind it.
    let mut stream = client::dial(world.egret.proxy());
    client::send(&mut stream, "PUT http://a.example/upload HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n");
    let started = Instant::now();
    for byte in ["a", "b", "c", "d"] {
        std::thread::sleep(Duration::from_millis(250)); // longer in all than the timeout; nothing is waited for
        client::send(&mut stream, byte);
    }
    let answer = client::read_answer(&mut stream);
    assert_eq!(answer.status, 504);
    assert!(started.elapsed() >= Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[test]
fn an_answer_that_does_not_end_in_time_is_broken_off() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let world = World::with(silent(half), Origin::http(FROM_B), "", &format!("http:\n- timeout: 300ms\n  {}", to("a")));
    let ran = world.curl(&["http://a.example/"]);
    assert!(ran.code == Some(18) || ran.code == Some(56), "{ran:?}"); // partial file, or the reset
    world.egret.record("GET").shows(&[("response_code", "200")]);
}

#[test]
fn faults_abort_and_delay_as_often_as_they_are_asked_to() {
    let world = World::new(&format!(
        "http:\n- match: [{{ uri: {{ exact: /abort }} }}]\n  fault: {{ abort: {{ httpStatus: 555, percentage: {{ value: 100 }} }} }}\n  {a}\n- match: [{{ uri: {{ exact: /grpc }} }}]\n  fault: {{ abort: {{ grpcStatus: UNAVAILABLE, percentage: {{ value: 100 }} }} }}\n  {a}\n- match: [{{ uri: {{ exact: /delay }} }}]\n  fault: {{ delay: {{ fixedDelay: 400ms, percentage: {{ value: 100 }} }} }}\n  {a}\n- match: [{{ uri: {{ prefix: /some }} }}]\n  fault: {{ abort: {{ httpStatus: 503, percentage: {{ value: 50 }} }} }}\n  {a}\n- fault: {{ abort: {{ httpStatus: 503 }}, delay: {{ fixedDelay: 30s }} }}\n  {a}",
        a = to("a")
    ));
    assert_eq!(world.get(&["http://a.example/abort"]), "fault filter abort\n555");
    world.egret.record("/abort").shows(&[("response_flags", "FI"), ("response_code_details", "fault_filter_abort")]);
    let grpc = world.curl(&["-i", "http://a.example/grpc"]).succeeded();
    assert!(grpc.starts_with("HTTP/1.1 200 ") && field(&grpc, "grpc-status") == Some("14"), "{grpc}");
    assert!(world.a.requests().is_empty());
    let started = Instant::now();
    assert_eq!(world.get(&["http://a.example/delay"]), "a\n200");
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    world.egret.record("/delay").shows(&[("response_flags", "DI"), ("response_code", "200")]);
    let statuses = world.curl(&["-w", " %{http_code}", "-o", "/dev/null", "http://a.example/some[1-200]"]).succeeded();
    let aborted = statuses.matches("503").count();
    assert!(aborted.abs_diff(100) < 40, "{aborted} of 200"); // 7 is one standard deviation
    assert_eq!(world.get(&["http://a.example/"]), "a\n200", "without a percentage nothing goes wrong");
}

#[test]
fn a_client_that_leaves_during_a_delay_is_not_waited_for() {
    let world = World::new(&format!(
        "http:\n- fault: {{ delay: {{ fixedDelay: 60s, percentage: {{ value: 100 }} }} }}\n  {}",
        to("a")
    ));
    let mut stream = client::dial(world.egret.proxy());
    client::send(&mut stream, "GET http://a.example/gone HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap(); // a reset, not an end
    drop(stream);
    world.egret.record("/gone").shows(&[("response_flags", "DC,DI")]);
    assert!(world.a.requests().is_empty());
}

#[test]
fn preflights_are_answered_for_those_who_may_ask() {
    let world = World::new(&format!(
        "http:\n- corsPolicy: {{ allowOrigins: [{{ exact: 'https://page.example' }}], allowMethods: [GET, PUT], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 24h, allowCredentials: true }}\n  {}",
        to("a")
    ));
    let ask = |origin: &str, more: &[&str]| {
        let origin = format!("Origin: {origin}");
        world.curl(&[&["-i", "-H", &origin], more, &["http://a.example/"]].concat()).succeeded()
    };
    let preflight = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT"];
    let allowed = ask("https://page.example", &preflight);
    for (name, value) in [
        ("access-control-allow-origin", "https://page.example"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "86400"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(field(&allowed, name), Some(value), "{allowed}");
    }
    assert!(world.a.requests().is_empty(), "it is answered here");
    let other = ask("https://evil.example", &preflight);
    assert!(field(&other, "access-control-allow-origin").is_none() && world.a.requests().len() == 1, "{other}");
    let plain = ask("https://page.example", &[]);
    assert_eq!(field(&plain, "access-control-allow-origin"), Some("https://page.example"));
    assert_eq!(field(&plain, "access-control-expose-headers"), Some("x-b"));
    assert!(field(&ask("https://evil.example", &[]), "access-control-allow-origin").is_none());
}

#[test]
fn a_delegate_says_where_its_root_sends_requests() {
    let delegate = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: part }\nspec:\n  http:\n  - name: inner\n    match: [{ uri: { prefix: /part/b } }]\n    route: [{ destination: { host: b.example } }]\n  - match: [{ headers: { x-in: {} } }]\n    directResponse: { status: 299 }\n";
    let routes = format!(
        "http:\n- name: root\n  match: [{{ uri: {{ prefix: /part }} }}]\n  headers: {{ request: {{ set: {{ x-by: root }} }} }}\n  delegate: {{ name: part }}\n- match: [{{ uri: {{ prefix: /lost }} }}]\n  delegate: {{ name: nobody, namespace: default }}\n- {}",
        to("a")
    );
    let world = World::with(Origin::http(FROM_A), Origin::http(FROM_B), delegate, &routes);
    assert_eq!(world.get(&["http://a.example/part/b"]), "b\n200");
    assert_eq!(field(&world.b.requests()[0], "x-by"), Some("root"), "what the delegate leaves open is the root's");
    world.egret.record("/part/b").shows(&[("route_name", "root-inner")]);
    assert!(world.get(&["-H", "X-In: 1", "http://a.example/part"]).ends_with("\n299"));
    assert_eq!(
        world.get(&["http://a.example/part"]),
        "a\n200",
        "the delegate takes nothing of it: the next route does"
    );
    assert_eq!(world.get(&["-H", "X-In: 1", "http://a.example/other"]), "a\n200", "the root does not delegate it");
    assert!(world.get(&["http://a.example/lost"]).ends_with("\n503"));
}

#[test]
fn a_route_with_actions_keeps_connections_and_bodies_whole() {
    let world = World::with(
        Origin::mirror(),
        Origin::http(HELLO),
        "",
        &format!("http:\n- headers: {{ request: {{ set: {{ x-a: '1' }} }} }}\n  timeout: 10s\n  {}", to("a")),
    );
    let folder = Folder::new();
    let file = folder.write("upload", &"0123456789abcdef".repeat(100_000));
    for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
        let upload = format!("@{}", file.display());
        let url = "http://a.example/";
        let back = world.curl(&[&["--data-binary", &upload][..], more, &[url]].concat()).succeeded();
        assert!(back.len() == 1_600_000, "{} bytes came back", back.len());
    }
}
