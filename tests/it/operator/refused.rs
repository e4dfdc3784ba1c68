//! What is refused before anything is routed stands among the refusals, too.

use serde_json::Value;

use super::ask;
use crate::support::origin::Origin;
use crate::support::{Egret, Folder, Setup, client, eventually};

fn refusal(egret: &Egret, reason: &str) -> Value {
    let told = ask(egret, &[], "/refusals").json();
    let found = told["refusals"].as_array().unwrap().iter().find(|one| one["reason"] == reason).cloned();
    found.unwrap_or(Value::Null)
}

/// Each is one line however many names were asked for: nobody unknown fills the list.
#[test]
fn what_comes_before_routing_is_told_by_listener_and_reason() {
    let folder = Folder::new();
    // Nobody is in it.
    folder.write("users", "");
    let listeners = "{ name: asks, address: \"127.0.0.1:0\", clients: { basic: { htpasswd: users } } }, \
                     { name: closed, address: \"127.0.0.1:0\", clients: { from: [192.0.2.1] } }";
    let egret =
        Setup { listeners, more: "limits: { headBytes: 1KiB, requestsPerSecondPerClient: 4 }\n", ..Setup::default() }
            .start(&folder);
    let (asks, closed) = (egret.address("asks"), egret.address("closed"));
    for host in ["a.test:443", "b.test:443"] {
        let (_, head) = client::connect(asks, host);
        assert!(head.starts_with("HTTP/1.1 407 "), "{head}");
    }
    let (_, head) = client::connect(closed, "a.test:443");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    for (request, status) in [
        ("GET /not-for-a-proxy HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), "400"),
        ("NONSENSE\r\n\r\n".to_owned(), "400"),
        (format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", "x".repeat(2000)), "431"),
    ] {
        let mut stream = client::dial(closed);
        client::send(&mut stream, &request);
        let answer = client::read_answer(&mut stream);
        assert!(answer.head.starts_with(&format!("HTTP/1.1 {status} ")), "{}", answer.head);
    }
    let login = refusal(&egret, "authentication_required");
    assert_eq!((&login["times"], &login["listener"], &login["target"]), (&2.into(), &"asks".into(), &Value::Null));
    assert_eq!(login["asked_by"], "connect");
    let denied = refusal(&egret, "client_denied");
    assert_eq!((&denied["listener"], &denied["times"]), (&"closed".into(), &1.into()));
    assert_eq!(denied["remedies"][0]["yaml"], "clients: { from: [\"127.0.0.1\"] }");
    let bad = refusal(&egret, "http_request_error");
    assert_eq!((&bad["times"], &bad["asked_by"]), (&2.into(), &"unreadable".into()), "{bad}");
    assert_eq!(refusal(&egret, "http_request_head_too_large")["times"], 1);
    // Beyond the pace.
    eventually("the client is too fast", || {
        client::connect(asks, "a.test:443");
        refusal(&egret, "request_rate_limited") != Value::Null
    });
}

#[test]
fn a_limit_that_is_met_behind_the_rules_names_its_target() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = Setup { more: "limits: { tunnels: 1, tunnelsPerClient: 1 }\n", ..Setup::default() }.start(&folder);
    let tunnel = client::tunnel(egret.proxy(), origin.address);
    let (_, head) = client::connect(egret.proxy(), origin.address);
    assert!(head.starts_with("HTTP/1.1 503 Proxy Limit Reached\r\n"), "{head}");
    let told = refusal(&egret, "connection_limit_reached");
    assert_eq!(told["times"], 1, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("the limit of 1 tunnels"), "{told}");
    drop(tunnel);
}
