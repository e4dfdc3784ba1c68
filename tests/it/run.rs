//! Starting, what stands on the standard streams, and the simplest flows.

use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::egret::{address_in, command};
use crate::support::origin::HELLO;
use crate::support::{Egret, Folder, client, egret, eventually, origin::Origin};

#[test]
fn without_configuration_it_says_where_it_listens_and_how_to_try_it() {
    let egret = Egret::spawn(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let line = egret.stderr.wait_for("listening ");
    let (proxy, admin) = (egret.proxy(), egret.admin());
    assert_eq!(line, format!("listening proxy={proxy} admin={admin}"));
    assert_ne!(proxy.port(), admin.port());
    let hint = egret.stderr.wait_for("try: ");
    assert_eq!(hint, format!("try: curl -x http://{proxy} https://example.com/"));
    assert_eq!(client::get_from(admin, "/readyz").status, 200);
}

#[test]
fn with_a_configuration_there_is_no_hint_and_the_admin_port_can_be_off() {
    let folder = Folder::with_settings("listeners: [{ name: front, address: \"127.0.0.1:0\" }]\nadmin: off\n");
    let mut egret = Egret::spawn(&["run".as_ref(), "-c".as_ref(), folder.settings().as_os_str()]);
    let line = egret.stderr.wait_for("listening ");
    assert_eq!(line, format!("listening front={}", egret.address("front")));
    assert_eq!(egret.stop(), Some(0));
    assert!(!egret.stderr.all().iter().any(|line| line.contains("try: ")));
}

#[test]
fn the_listening_line_is_there_whatever_the_log_level() {
    let mut quiet = command(&["run", "--listen", "127.0.0.1:0", "--admin", "off"]);
    quiet.env("RUST_LOG", "off");
    let mut egret = Egret::spawn_command(quiet);
    assert_eq!(egret.stop(), Some(0));
    let lines = egret.stderr.all();
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn a_connect_reaches_its_origin_and_leaves_one_line() {
    let origin = Origin::echo();
    let mut egret = Egret::start();
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    assert!(client::echoes(&mut tunnel, b"ping"));
    drop(tunnel);
    let line = egret.stdout.wait_for("CONNECT");
    assert!(line.contains("\"CONNECT - HTTP/1.1\" 200 ") && line.contains(&origin.address.to_string()), "{line}");
    assert_eq!(egret.stop(), Some(0));
    assert_eq!(egret.stdout.all().len(), 1);
}

#[test]
fn a_plain_request_reaches_its_origin_without_proxy_fields() {
    let origin = Origin::http(HELLO);
    let egret = Egret::start();
    let answer = client::get(egret.proxy(), &format!("http://{}/a?b=c", origin.address));
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
    let requests = origin.requests();
    assert!(requests[0].starts_with("GET /a?b=c HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[0].contains(&format!("Host: {}\r\n", origin.address)));
    egret.stdout.wait_for("GET /a?b=c HTTP/1.1");
}

#[test]
fn special_addresses_are_refused_unless_they_are_opened() {
    let origin = Origin::echo();
    let egret = Egret::with(&[]);
    let (_, head) = client::connect(egret.proxy(), origin.address);
    assert!(head.starts_with("HTTP/1.1 403 Destination Address Prohibited\r\n"), "{head}");
    let answer = client::get(egret.proxy(), &format!("http://{}/", origin.address));
    assert!(answer.head.contains("; error=destination_ip_prohibited;"), "{}", answer.head);
}

#[test]
fn an_address_in_use_is_69_and_nothing_is_served() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for args in [["--listen", &address, "--admin", "off"], ["--listen", "127.0.0.1:0", "--admin", &address]] {
        let output = egret(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{stderr}");
        assert!(stderr.contains(&format!("cannot listen on {address}: Address already in use")), "{stderr}");
        assert!(!stderr.contains("listening "), "{stderr}");
    }
}

#[test]
fn a_bad_configuration_is_78_and_a_missing_one_66() {
    let folder = Folder::with_settings("mesh: { connectTimeout: soon }\nthread: 2\n");
    let output = egret(&["run".as_ref(), "-c".as_ref(), folder.settings().as_os_str()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("egret.yaml:1:25") && stderr.contains("egret.yaml:2:1"), "both are named: {stderr}");
    let missing = folder.path().join("none.yaml");
    assert_eq!(egret(&["run".as_ref(), "-c".as_ref(), missing.as_os_str()]).status.code(), Some(66));
}

#[test]
fn an_open_proxy_is_refused_at_start() {
    let settings = "listeners: [{ address: \"0.0.0.0:0\", clients: { from: null } }]\nadmin: off\n";
    let folder = Folder::with_settings(settings);
    let output = egret(&["run".as_ref(), "-c".as_ref(), folder.settings().as_os_str()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("open proxy"), "{stderr}");
}

#[test]
fn sigusr1_opens_the_access_log_again() {
    let origin = Origin::http(HELLO);
    let folder = Folder::new();
    let log = folder.path().join("access.log");
    let settings = format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         mesh: {{ accessLogFile: {} }}\n",
        log.display()
    );
    let egret = Egret::with_settings(&folder.write("egret.yaml", &settings));
    let url = |path: &str| format!("http://{}/{path}", origin.address);
    let holds = |file: &std::path::Path, text: &str| std::fs::read_to_string(file).is_ok_and(|log| log.contains(text));
    client::get(egret.proxy(), &url("first"));
    eventually("the first line is written", || holds(&log, "/first"));
    let moved = folder.path().join("access.log.1");
    std::fs::rename(&log, &moved).unwrap();
    egret.signal(Signal::USR1);
    eventually("the file is there again", || log.exists());
    client::get(egret.proxy(), &url("second"));
    eventually("the second line is in the new file", || holds(&log, "/second"));
    assert!(holds(&moved, "/first") && !holds(&moved, "/second"));
}

#[test]
fn rust_log_beats_the_command_line() {
    let mut loud = command(&["run", "--listen", "127.0.0.1:0", "--admin", "off", "--log-level", "error"]);
    loud.env("RUST_LOG", "info");
    let mut egret = Egret::spawn_command(loud);
    assert_eq!(egret.stop(), Some(0));
    egret.stderr.wait_for("drained");
}

#[test]
fn a_filter_that_is_none_is_a_usage_error() {
    let output = command(&["run", "--log-level", "=="]).stdout(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_listening_line_is_read_by_name() {
    let line = "listening proxy=127.0.0.1:1 admin=127.0.0.1:2";
    assert_eq!(address_in(line, "admin"), Some("127.0.0.1:2".parse().unwrap()));
    assert_eq!(address_in(line, "sni"), None);
}
