//! New configurations under a running proxy.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, Folder, client, eventually};

const LISTENER: &str = "{ name: proxy, address: \"127.0.0.1:0\" }";

/// A configuration under which `origin.test` is this machine.
struct Rules {
    folder: Folder,
}

impl Rules {
    fn new(rest: &str) -> Self {
        let rules = Self { folder: Folder::new() };
        rules.folder.write("hosts", "127.0.0.1 origin.test other.test\n");
        rules.set(rest);
        rules
    }

    fn set(&self, rest: &str) {
        self.set_listeners(LISTENER, rest);
    }

    fn set_listeners(&self, listeners: &str, rest: &str) {
        let hosts = self.folder.path().join("hosts");
        self.folder.write(
            "egret.yaml",
            &format!(
                "listeners: [{listeners}]\naddresses: {{ allow: [127.0.0.0/8] }}\ndns: {{ hosts: {} }}\n\
                 mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }} }}\n{rest}\n",
                hosts.display()
            ),
        );
    }

    fn start(&self) -> Egret {
        Egret::with_settings(&self.folder.settings())
    }
}

fn allow(names: &[&str], origin: &Origin) -> String {
    let entries: Vec<String> = names.iter().map(|name| format!("\"{name}:{}\"", origin.address.port())).collect();
    format!("allow: [{}]", entries.join(", "))
}

fn status(proxy: SocketAddr, name: &str, origin: &Origin) -> String {
    let (_, head) = client::connect(proxy, format!("{name}:{}", origin.address.port()));
    head.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn sighup_puts_new_rules_in_force() {
    let origin = Origin::echo();
    let rules = Rules::new("");
    let egret = rules.start();
    assert_eq!(status(egret.proxy(), "origin.test", &origin), "403");
    rules.set(&allow(&["origin.test"], &origin));
    let line = egret.reload();
    assert!(line.contains("reloaded") && !line.contains("not reloaded"), "{line}");
    assert_eq!(status(egret.proxy(), "origin.test", &origin), "200");
    assert_eq!(status(egret.proxy(), "other.test", &origin), "403");
}

#[test]
fn a_changed_file_is_noticed_without_a_signal() {
    let origin = Origin::echo();
    let rules = Rules::new("");
    let egret = rules.start();
    rules.set(&allow(&["origin.test"], &origin));
    let line = egret.stderr.wait_for("reloaded");
    assert!(line.contains("a file changed"), "{line}");
    assert_eq!(status(egret.proxy(), "origin.test", &origin), "200");
}

#[test]
fn a_bad_configuration_keeps_the_old_one_and_says_all_that_is_wrong() {
    let origin = Origin::echo();
    let rules = Rules::new(&allow(&["origin.test"], &origin));
    let egret = rules.start();
    rules.set("thread: 1\ndrain: soon");
    let line = egret.reload();
    assert!(line.contains("not reloaded") && line.contains("errors=2"), "{line}");
    egret.stderr.wait_for("egret.yaml:5:1");
    egret.stderr.wait_for("egret.yaml:6:8");
    assert_eq!(status(egret.proxy(), "origin.test", &origin), "200");
    rules.set(&allow(&["other.test"], &origin));
    let line = egret.reload();
    assert!(!line.contains("not reloaded"), "{line}");
    assert_eq!(status(egret.proxy(), "origin.test", &origin), "403");
}

#[test]
fn a_listener_that_cannot_be_bound_keeps_the_old_generation_whole() {
    let origin = Origin::echo();
    let rules = Rules::new(&allow(&["origin.test"], &origin));
    let egret = rules.start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = format!("{LISTENER}, {{ name: second, address: \"{}\" }}", taken.local_addr().unwrap());
    rules.set_listeners(&second, &allow(&["other.test"], &origin));
    let line = egret.reload();
    assert!(line.contains("not reloaded") && line.contains("listener second"), "{line}");
    assert_eq!(status(egret.proxy(), "origin.test", &origin), "200");
    assert_eq!(status(egret.proxy(), "other.test", &origin), "403");
}

#[test]
fn listeners_come_and_go_and_those_that_stay_keep_their_port() {
    let origin = Origin::echo();
    let rules = Rules::new(&allow(&["origin.test"], &origin));
    let egret = rules.start();
    rules.set_listeners(
        &format!("{LISTENER}, {{ name: second, address: \"127.0.0.1:0\" }}"),
        &allow(&["origin.test"], &origin),
    );
    egret.reload();
    let line = egret.stderr.wait_for("second=");
    assert_eq!(crate::support::egret::address_in(&line, "proxy"), Some(egret.proxy()), "{line}");
    let second = crate::support::egret::address_in(&line, "second").unwrap();
    let mut tunnel = client::tunnel(second, format!("origin.test:{}", origin.address.port()));
    rules.set(&allow(&["origin.test"], &origin));
    egret.reload();
    eventually("the second listener is closed", || TcpStream::connect(second).is_err());
    assert!(client::echoes(&mut tunnel, b"its tunnels stay"));
    assert_eq!(status(egret.proxy(), "origin.test", &origin), "200");
}

#[test]
fn tunnels_that_are_still_allowed_live_through_many_reloads() {
    let origin = Origin::echo();
    let rules = Rules::new(&allow(&["origin.test"], &origin));
    let egret = rules.start();
    let mut tunnel = client::tunnel(egret.proxy(), format!("origin.test:{}", origin.address.port()));
    for _ in 0..20 {
        let line = egret.reload();
        assert!(line.contains("revoked=0"), "{line}");
        assert!(client::echoes(&mut tunnel, b"still here"));
    }
}

#[test]
fn tunnels_that_are_no_longer_allowed_are_ended_or_reported_or_kept() {
    for (on_revoke, revoked, stays) in [("close", 1, false), ("report", 1, true), ("keep", 0, true)] {
        let origin = Origin::echo();
        let on_revoke = format!("onRevoke: {on_revoke}\n");
        let rules = Rules::new(&(on_revoke.clone() + &allow(&["origin.test", "other.test"], &origin)));
        let egret = rules.start();
        let mut revoked_tunnel = client::tunnel(egret.proxy(), format!("origin.test:{}", origin.address.port()));
        let mut kept_tunnel = client::tunnel(egret.proxy(), format!("other.test:{}", origin.address.port()));
        rules.set(&(on_revoke.clone() + &allow(&["other.test"], &origin)));
        let line = egret.reload();
        assert!(line.contains(&format!("revoked={revoked}")), "{on_revoke}: {line}");
        if stays {
            assert!(client::echoes(&mut revoked_tunnel, b"x"), "{on_revoke}");
        } else {
            assert!(client::ends(&mut revoked_tunnel), "{on_revoke}");
        }
        assert!(client::echoes(&mut kept_tunnel, b"x"), "{on_revoke}");
    }
}

#[test]
fn limits_and_clients_are_swapped() {
    let origin = Origin::http(HELLO);
    let rules = Rules::new(&allow(&["origin.test"], &origin));
    let egret = rules.start();
    let url = format!("http://origin.test:{}/", origin.address.port());
    let with_fields = |fields: usize| {
        let mut stream = client::dial(egret.proxy());
        let more = "X: y\r\n".repeat(fields - 1);
        write!(stream, "GET {url} HTTP/1.1\r\nHost: origin.test:{}\r\n{more}\r\n", origin.address.port()).unwrap();
        client::read_answer(&mut stream).status
    };
    assert_eq!(with_fields(11), 200);
    rules.set(&format!("{}\nlimits: {{ headFields: 10 }}", allow(&["origin.test"], &origin)));
    egret.reload();
    assert_eq!((with_fields(10), with_fields(11)), (200, 431));
    let nobody = "{ name: proxy, address: \"127.0.0.1:0\", clients: { from: [192.0.2.0/24] } }";
    rules.set_listeners(nobody, &allow(&["origin.test"], &origin));
    egret.reload();
    assert_eq!(client::get(egret.proxy(), &url).status, 403);
}

#[test]
fn the_answer_to_a_reload_says_what_changed_and_which_tunnels_are_no_longer_allowed() {
    let origin = Origin::echo();
    let rules = Rules::new(&allow(&["origin.test", "other.test"], &origin));
    let token = rules.folder.write("token", "0123456789abcdef0123456789abcdef\n");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let admin = format!("admin: {{ tokenFile: {} }}\n", token.display());
    rules.set(&(admin.clone() + &allow(&["origin.test", "other.test"], &origin)));
    let egret = rules.start();
    let mut revoked = client::tunnel(egret.proxy(), format!("other.test:{}", origin.address.port()));
    let mut stays = client::tunnel(egret.proxy(), format!("origin.test:{}", origin.address.port()));
    rules.set(&(admin + "drain: 7s\n" + &allow(&["origin.test", "new.test"], &origin)));
    let mut stream = client::dial(egret.admin());
    write!(
        stream,
        "POST /reload HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\nContent-Length: 0\r\n\r\n",
        egret.admin()
    )
    .unwrap();
    let answer = client::read_answer(&mut stream);
    let report: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let port = origin.address.port();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(
        report["rules"]["names"],
        serde_json::json!([format!("added allow new.test:{port}"), format!("removed allow other.test:{port}")])
    );
    assert_eq!((&report["rules"]["total"], &report["rules"]["changed"]), (&2.into(), &0.into()), "{report}");
    assert_eq!(report["settings"], serde_json::json!(["drain"]), "{report}");
    assert_eq!((&report["revoked"], &report["closed"]), (&1.into(), &true.into()), "{report}");
    let tunnel = &report["tunnels"][0];
    assert_eq!(tunnel["target"], format!("other.test:{port}"));
    assert_eq!(tunnel["client"], revoked.local_addr().unwrap().to_string());
    let rule = tunnel["rule"].as_str().unwrap();
    assert!(rule.ends_with("egret.yaml:4:9") || rule.contains("egret.yaml:4:"), "{report}");
    assert!(client::ends(&mut revoked) && client::echoes(&mut stays, b"x"));
}

#[test]
fn a_warning_is_said_once_and_not_again_at_each_reload() {
    let rules = Rules::new("gateways: [{ name: g, ports: [{ port: 80 }] }]");
    let egret = rules.start();
    egret.stderr.wait_for("W001");
    rules.set("gateways: [{ name: g, ports: [{ port: 80 }] }]\ncredentials: { certificates: /etc/nowhere }");
    egret.reload();
    egret.reload();
    let warnings = |what: &str| egret.stderr.so_far().iter().filter(|line| line.contains(what)).count();
    assert_eq!((warnings("gateways[0]"), warnings("credentials.certificates")), (1, 1), "{:?}", egret.stderr.so_far());
}
