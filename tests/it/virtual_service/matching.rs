//! Which route takes a request, and what the log says of it.

use super::*;
use crate::support::{client, egret};

fn routes() -> String {
    format!(
        "http:\n- name: api\n  match: [{{ name: v1, uri: {{ prefix: /api }} }}, {{ headers: {{ x-to: {{ exact: b }} }}, withoutHeaders: {{ x-not: {{}} }} }}]\n  {}\n- name: rest\n  match: [{{ uri: {{ regex: '/(static|img)/.*' }} }}, {{ queryParams: {{ to: {{ exact: a }} }}, method: {{ regex: 'GET|HEAD' }} }}]\n  {}",
        to("b"),
        to("a")
    )
}

#[test]
fn requests_go_where_they_fit_and_404_where_they_do_not() {
    let world = World::new(&routes());
    for (args, expected) in [
        (&["http://a.example/api/x?y"][..], "b\n200"),
        (&["-H", "X-To: b", "http://a.example/elsewhere"], "b\n200"),
        (&["http://a.example/static/x"], "a\n200"),
        (&["http://a.example/?to=a"], "a\n200"),
        (&["http://a.example:82/api"], "b\n200"),
    ] {
        assert_eq!(world.get(args), expected, "{args:?}");
    }
    for args in [
        &["http://a.example/"][..],
        &["-d", "x", "http://a.example/?to=a"],
        &["-H", "X-To: b", "-H", "X-Not: 1", "http://a.example/"],
        &["http://a.example/static"],
    ] {
        let answer = world.get(args);
        assert!(answer.ends_with("\n404") && answer.contains("route_not_found"), "{args:?}: {answer}");
    }
    let heads = world.b.requests();
    assert!(
        heads[0].starts_with("GET /api/x?y HTTP/1.1\r\n") && field(&heads[0], "host") == Some("a.example"),
        "{heads:?}"
    );
    world.egret.record("/api/x?y").shows(&[
        ("route_name", "api.v1"),
        ("response_code", "200"),
        ("upstream_cluster", "outbound|80||b.example"),
    ]);
    world.egret.record("\"response_code\":404").shows(&[
        ("response_flags", "NR"),
        ("response_code_details", "route_not_found"),
        ("upstream_cluster", ""),
    ]);
}

#[test]
fn a_path_that_two_could_read_differently_is_not_routed() {
    let world = World::new(&format!("http:\n- match: [{{ uri: {{ prefix: /admin }} }}]\n  {}\n- {}", to("b"), to("a")));
    for path in ["/public/..%2fadmin", "/public/%2e%2E/admin", "//admin", "/x\\..\\admin", "/./admin", "/a/../b"] {
        let answer = world.get(&[&format!("http://a.example{path}")]);
        assert!(answer.ends_with("\n400"), "{path}: {answer}");
    }
    assert_eq!(world.get(&["http://a.example/public/admin%20x"]), "a\n200");
    // What the path does not decide is forwarded as it came.
    assert_eq!(world.get(&["http://b.example/x/../y//z"]), "b\n200");
    assert!(world.b.requests()[0].starts_with("GET /x/../y//z HTTP/1.1\r\n"));
    assert_eq!(world.a.requests().len(), 1);
}

#[test]
fn a_tunnel_to_a_port_with_routes_is_served_from_inside_request_by_request() {
    let world = World::new(&routes());
    let urls = ["http://a.example/api", "http://a.example/static/x", "http://a.example/"];
    let got = world.get(&["-p", urls[0], urls[1], urls[2]]);
    assert!(got.starts_with("b\n200a\n200") && got.ends_with("\n404"), "{got}");
    world.egret.record("CONNECT").shows(&[("response_code", "200"), ("authority", "a.example:80")]);
    // Where nothing is declared the first bytes decide: HTTP has routes, all else is copied.
    let mut tunnel = client::tunnel(world.egret.proxy(), "a.example:82");
    client::send(&mut tunnel, "GET /api HTTP/1.1\r\nHost: a.example:82\r\n\r\n");
    assert_eq!(client::read_answer(&mut tunnel).body, b"b");
}

#[test]
fn weights_divide_requests() {
    let world = World::new(
        "http:\n- route: [{ destination: { host: a.example }, weight: 20 }, { destination: { host: b.example }, weight: 80 }]",
    );
    world.curl(&["-f", "-o", "/dev/null", "http://a.example/[1-500]"]).succeeded();
    let (a, b) = (world.a.requests().len(), world.b.requests().len());
    assert!(a + b == 500 && a.abs_diff(100) < 50, "{a} and {b}"); // 500 draws of 0.2: 9 is one standard deviation
}

#[test]
fn tcp_routes_carry_tunnels_elsewhere() {
    let world = World::new(&format!("tcp:\n- match: [{{ port: 81 }}]\n  {}", to("b")));
    let mut tunnel = client::tunnel(world.egret.proxy(), "a.example:81");
    client::send(&mut tunnel, "GET / HTTP/1.1\r\nHost: a.example:81\r\n\r\n");
    assert_eq!(client::read_answer(&mut tunnel).body, b"b");
    drop(tunnel);
    world.egret.record("CONNECT").shows(&[("upstream_cluster", "outbound|81||b.example")]);
}

#[test]
fn explain_knows_the_route_by_path_and_header() {
    let folder = Folder::new();
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: a }\nspec:\n  hosts: [a.example]\n  resolution: DNS\n  ports: [{ number: 80, name: http, protocol: HTTP }]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: a }\nspec:\n  hosts: [a.example]\n  http:\n  - name: one\n    match: [{ uri: { prefix: /one } }]\n    route: [{ destination: { host: a.example } }]\n";
    let more = "  - name: two\n    match: [{ headers: { x-to: { exact: two } }, uri: { prefix: /t } }]\n    timeout: 3s\n    route: [{ destination: { host: a.example }, weight: 1 }, { destination: { host: b.example }, weight: 3 }]\n  - match: [{ uri: { exact: /moved } }]\n    redirect: { uri: /one }\n";
    let rules = folder.write("rules.yaml", &format!("{entry}{more}"));
    let explain_with = |more: &[&str], url: &str| {
        let output = egret(&[&["explain", "-f", rules.to_str().unwrap(), "-o", "json"], more, &[url]].concat());
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let explain = |url: &str| explain_with(&[], url);
    let one = explain("http://a.example/one");
    assert_eq!((&one["decision"], &one["route"]), (&"allow".into(), &"one".into()));
    let none = explain("http://a.example/two");
    assert_eq!(
        (&none["decision"], &none["status"], &none["reason"]),
        (&"deny".into(), &404.into(), &"route_not_found".into())
    );
    assert_eq!(none["nearest"]["rule"], "http[0] of VirtualService default/a");
    assert_eq!(
        (&none["nearest"]["differs_in"], &none["nearest"]["declared"]),
        (&"uri".into(), &"prefix \"/one\"".into())
    );
    // With a header it is the second: said are its parts, what else it does, and why it is not the first.
    let two = explain_with(&["-H", "X-To: two"], "http://a.example/two");
    assert_eq!(
        (&two["decision"], &two["route"], &two["cluster"]),
        (&"allow".into(), &"two".into(), &"outbound|80||a.example".into())
    );
    let parts = serde_json::json!([{ "cluster": "outbound|80||a.example", "weight": 1 }, { "cluster": "outbound|80||b.example", "weight": 3 }]);
    assert_eq!(two["destinations"], parts);
    let text = two["stages"][4]["text"].as_str().unwrap();
    assert!(text.starts_with("route two (http[1] of VirtualService default/a) to clusters "), "{text}");
    assert!(text.ends_with("; timeout 3s; not http[0]: uri is not prefix \"/one\""), "{text}");
    let moved = explain("http://a.example/moved");
    assert_eq!(
        (&moved["decision"], &moved["status"], &moved["cluster"]),
        (&"allow".into(), &301.into(), &serde_json::Value::Null)
    );
    assert_eq!(egret(&["explain", "-H", "X: y", "a.example:80"]).status.code(), Some(64));
}
