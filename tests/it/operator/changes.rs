//! Reload, drain and kill, over a Unix socket and with a token.

use std::os::unix::fs::MetadataExt;

use super::{ask, ask_socket};
use crate::support::origin::Origin;
use crate::support::{Egret, Folder, client, eventually};

const REST: &str = "addresses: { allow: [127.0.0.0/8] }\ndrain: 5s\n";
const LISTENERS: &str = "listeners: [{ name: proxy, address: \"127.0.0.1:0\" }]\n";

fn with_socket(folder: &Folder) -> Egret {
    let settings = folder.write("egret.yaml", &format!("{LISTENERS}{REST}admin: {{ address: \"unix:admin.sock\" }}\n"));
    Egret::spawn(&["run".as_ref(), "-c".as_ref(), settings.as_os_str()])
}

#[test]
fn a_socket_is_announced_kept_from_others_and_gone_at_the_end() {
    let folder = Folder::new();
    let mut egret = with_socket(&folder);
    let socket = folder.path().join("admin.sock");
    egret.stderr.wait_for(&format!("admin=unix:{}", socket.display()));
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    assert_eq!(ask_socket(&socket, &[], "/readyz").body, "ready\n");
    assert_eq!(egret.stop(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn over_the_socket_a_tunnel_is_killed_and_the_log_says_so() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = with_socket(&folder);
    let socket = folder.path().join("admin.sock");
    let mut killed = client::tunnel(egret.proxy(), origin.address);
    let mut kept = client::tunnel(egret.proxy(), origin.address);
    assert!(client::echoes(&mut killed, b"four") && client::echoes(&mut kept, b"x"));
    let listed = ask_socket(&socket, &[], "/tunnels?sort=bytes").json();
    assert_eq!(listed["open"], 2);
    let tunnel = &listed["tunnels"][0];
    assert_eq!((&tunnel["sent_bytes"], &tunnel["received_bytes"]), (&4.into(), &4.into()));
    assert_eq!(tunnel["target"], origin.address.to_string());
    assert_eq!(tunnel["cluster"], "PassthroughCluster");
    let told = ask_socket(&socket, &["-X", "POST"], &format!("/tunnels/{}/kill", tunnel["id"]));
    assert_eq!((told.status, told.json()["killed"].as_bool()), (200, Some(true)));
    assert!(client::ends(&mut killed));
    assert!(client::echoes(&mut kept, b"still here"));
    let line = egret.stdout.wait_for("CONNECT");
    assert!(line.contains(" killed "), "{line}");
}

#[test]
fn a_reload_answers_with_its_report() {
    let folder = Folder::new();
    let egret = with_socket(&folder);
    let socket = folder.path().join("admin.sock");
    let told = ask_socket(&socket, &["-X", "POST"], "/reload");
    assert_eq!((told.status, told.json()["ok"].as_bool()), (200, Some(true)), "{}", told.body);
    assert!(told.json()["generation"].as_u64().unwrap() >= 2, "{}", told.body);
    folder.write("egret.yaml", &format!("{LISTENERS}{REST}admin: {{ address: \"unix:admin.sock\" }}\nthread: 1\n"));
    let told = ask_socket(&socket, &["-X", "POST"], "/reload");
    assert_eq!((told.status, told.json()["ok"].as_bool()), (422, Some(false)), "{}", told.body);
    assert!(told.body.contains("egret.yaml:5:1"), "{}", told.body);
    eventually("both are in the log", || {
        egret.stderr.so_far().iter().filter(|line| line.contains("POST /reload")).count() == 2
    });
}

#[test]
fn a_drain_ends_the_process_in_order() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let mut egret = with_socket(&folder);
    let socket = folder.path().join("admin.sock");
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    let told = ask_socket(&socket, &["-X", "POST"], "/drain");
    assert_eq!((told.status, told.json()["deadline_s"].as_f64()), (202, Some(5.0)), "{}", told.body);
    eventually("it is draining", || ask_socket(&socket, &[], "/readyz").body == "draining\n");
    assert!(client::echoes(&mut tunnel, b"until the end"));
    drop(tunnel);
    assert_eq!(egret.wait().code(), Some(0));
}

#[test]
fn over_tcp_changes_need_the_token_of_the_file_as_it_is_now() {
    let folder = Folder::new();
    folder.write("token", "0123456789abcdef\n");
    let settings = format!("{LISTENERS}{REST}admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\n");
    let settings = folder.write("egret.yaml", &settings);
    let egret = Egret::spawn(&["run".as_ref(), "-c".as_ref(), settings.as_os_str()]);
    let reload =
        |token: &str| ask(&egret, &["-X", "POST", "-H", &format!("Authorization: Bearer {token}")], "/reload").status;
    assert_eq!(ask(&egret, &["-X", "POST"], "/reload").status, 401);
    assert_eq!((reload("0123456789abcdeX"), reload("0123456789abcdef")), (401, 200));
    assert_eq!(ask(&egret, &[], "/tunnels").status, 200, "reading needs no token");
    folder.write("token", "another-token-of-ours\n");
    eventually("the changed file counts", || reload("another-token-of-ours") == 200);
    assert_eq!(reload("0123456789abcdef"), 401);
}

#[test]
fn a_token_file_that_is_missing_or_too_short_is_a_bad_configuration() {
    let folder = Folder::new();
    folder.write("token", "short");
    for file in ["token", "none"] {
        let settings = folder.write("egret.yaml", &format!("admin: {{ tokenFile: {file} }}\n"));
        let output = crate::support::egret(&["check".as_ref(), "-c".as_ref(), settings.as_os_str()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{text}");
        assert!(text.contains("egret.yaml:1:21") && text.contains("admin.tokenFile"), "{text}");
    }
}

#[test]
fn pages_of_other_sites_and_rebound_names_are_refused() {
    let egret = Egret::start();
    assert_eq!(ask(&egret, &["-H", "Host: rebound.example:15000"], "/tunnels").status, 403);
    assert_eq!(ask(&egret, &["-X", "POST", "-H", "Origin: http://evil.example"], "/reload").status, 403);
    assert_eq!(ask(&egret, &["-X", "POST", "-H", "Sec-Fetch-Site: cross-site"], "/reload").status, 403);
}
