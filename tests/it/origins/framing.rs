//! HTTP in the clear as nginx frames it: by length, chunked, up to the end; kept and closed connections.

use std::io::{Read, Write};

use super::World;
use crate::support::origin::{Origin, field, read_head};
use crate::support::peer::{Peer, command, run};
use crate::support::{Egret, Folder, Setup, client};

fn started() -> (World, Egret, String) {
    let world = World::new(&["edition.example"]);
    world.folder.write("www/big.bin", &"0123456789abcdef".repeat(65_536)); // 1 MiB
    let rules = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: plain }}
spec:
  hosts: [plain.example]
  resolution: DNS
  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {} }}]
",
        world.nginx.plain().port()
    );
    let egret = world.start(&rules);
    let proxy = format!("http://{}", egret.proxy());
    (world, egret, proxy)
}

#[test]
fn a_file_comes_whole_and_in_ranges() {
    let (world, egret, proxy) = started();
    let curl = |args: &[&str]| run(command("curl").args(["-q", "-sS", "-x", &proxy]).args(args)).succeeded();
    assert_eq!(curl(&["http://plain.example/big.bin"]).len(), 1 << 20);
    egret.record("/big.bin\"").shows(&[
        ("response_code", "200"),
        ("bytes_sent", "1048576"),
        ("upstream_cluster", "outbound|80||plain.example"),
    ]);
    assert_eq!(curl(&["-r", "16-19", "http://plain.example/big.bin?range"]), "0123");
    egret.record("/big.bin?range\"").shows(&[("response_code", "206"), ("bytes_sent", "4"), ("reused", "true")]);
    assert!(world.nginx.line("?range", 1).ends_with("requests=2"), "one connection for both");
}

#[test]
fn a_chunked_answer_stays_chunked_for_1_1_and_ends_by_close_for_1_0() {
    let (world, egret, _) = started();
    world.folder.write("www/chunked.txt", &"text ".repeat(10_000));
    let mut stream = client::dial(egret.proxy());
    client::send(
        &mut stream,
        "GET http://plain.example/chunked HTTP/1.1\r\nHost: plain.example\r\nConnection: close\r\n\r\n",
    );
    let head = read_head(&mut stream).unwrap();
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    assert!(body.ends_with("\r\n0\r\n\r\n"), "{}", &body[body.len() - 20..]);
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, "GET http://plain.example/chunked?old HTTP/1.0\r\n\r\n");
    let head = read_head(&mut stream).unwrap();
    assert_eq!(field(&head, "transfer-encoding"), None, "{head}");
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    assert_eq!(body, "text ".repeat(10_000));
    egret.record("/chunked\"").shows(&[("response_code", "200"), ("response_flags", "-"), ("bytes_sent", "50000")]);
    egret.record("/chunked?old\"").shows(&[
        ("response_code", "200"),
        ("protocol", "HTTP/1.0"),
        ("bytes_sent", "50000"),
    ]);
}

#[test]
fn a_connection_that_nginx_closes_is_not_used_again() {
    let (world, egret, _) = started();
    for n in 1..=2 {
        let answer = client::get(egret.proxy(), &format!("http://plain.example/close?{n}"));
        assert_eq!(String::from_utf8_lossy(&answer.body), "close\n");
        assert!(world.nginx.line(&format!("/close?{n} "), 1).ends_with("requests=1"));
        egret.record(&format!("/close?{n}\"")).shows(&[("reused", "false"), ("response_code", "200")]);
    }
}

#[test]
fn an_answer_up_to_the_end_is_chunked_for_1_1() {
    let (world, egret, proxy) = started();
    world.folder.write("www/until-end.txt", "up to the end\n");
    let ran =
        run(command("curl").args(["-q", "-sS", "-x", &proxy, "-D", "-", "http://plain.example/until-end"])).succeeded();
    assert!(ran.ends_with("\r\n\r\nup to the end\n"), "{ran}");
    assert!(!ran.contains("Content-Length:"), "{ran}");
    egret.record("/until-end").shows(&[("response_code", "200"), ("response_flags", "-"), ("bytes_sent", "14")]);
}

/// Python's server speaks HTTP/1.0 unless told otherwise.
#[test]
fn an_origin_of_http_1_0_is_asked_once_per_connection() {
    let folder = Folder::new();
    folder.write("page", "from 1.0\n");
    let server = Peer::start(|[port]: [u16; 1]| {
        let mut python = command("python3");
        python.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]).current_dir(folder.path());
        python
    });
    let egret = Setup { hosts: &["old.example"], ..Setup::default() }.start(&folder);
    let url = |page: &str| format!("http://old.example:{}/{page}", server.address().port());
    let mut stream = client::dial(egret.proxy());
    for n in ["1", "2"] {
        let answer = client::ask(&mut stream, "GET", &url(&format!("page?{n}")));
        assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "ours is 1.1: {}", answer.head);
        assert_eq!(String::from_utf8_lossy(&answer.body), "from 1.0\n");
        egret.record(&format!("page?{n}\"")).shows(&[("response_code", "200"), ("reused", "false")]);
    }
}

/// What is cut off must not look complete: curl says 18, "transferred a partial file".
#[test]
fn a_truncated_answer_never_looks_complete() {
    let folder = Folder::new();
    let egret = Setup { hosts: &["cut.example"], ..Setup::default() }.start(&folder);
    let proxy = format!("http://{}", egret.proxy());
    for (name, answer) in [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        ("chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nhalf"),
        ("end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
    ] {
        let origin = Origin::new(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
        });
        let url = format!("http://cut.example:{}/{name}", origin.address.port());
        let ran = run(command("curl").args(["-q", "-sS", "-x", &proxy, &url]));
        assert!(matches!(ran.code, Some(18 | 56)), "{name}: {ran:?}"); // 56: the connection was reset
        let record = egret.record(&format!("/{name}\""));
        record.shows(&[("response_code", "200"), ("response_flags", "UC")]);
    }
}

#[test]
fn errors_of_the_origin_are_the_origins() {
    let (world, egret, proxy) = started();
    let ran =
        run(command("curl").args(["-q", "-sS", "-x", &proxy, "-D", "-", "http://plain.example/absent"])).succeeded();
    assert!(ran.starts_with("HTTP/1.1 404 Not Found\r\n") && ran.contains("Server: nginx"), "{ran}");
    assert!(!ran.to_ascii_lowercase().contains("proxy-status"), "not ours: {ran}");
    egret.record("/absent").shows(&[
        ("response_code", "404"),
        ("response_flags", "-"),
        ("response_code_details", "via_upstream"),
        ("reason", ""),
    ]);
    assert!(world.nginx.line("/absent", 1).contains(" 404 "));
}

#[test]
fn requests_that_nginx_refuses_to_read_leave_no_connection_behind() {
    let (world, egret, _) = started();
    // Over nginx's client_max_body_size: it answers at once and closes, before the body has come.
    let mut stream = client::dial(egret.proxy());
    let length = 2 << 20;
    client::send(
        &mut stream,
        &format!("POST http://plain.example/big HTTP/1.1\r\nHost: plain.example\r\nContent-Length: {length}\r\n\r\n"),
    );
    let answer = client::read_answer(&mut stream);
    assert_eq!(answer.status, 413, "{}", answer.head);
    let _ = stream.write_all(&[0; 1024]);
    egret.record("/big\"").shows(&[("response_code", "413"), ("method", "POST")]);
    assert_eq!(client::get(egret.proxy(), "http://plain.example/politics").status, 200);
    assert!(
        world.nginx.line("/politics", 1).ends_with("requests=1"),
        "the connection with the unread body was not kept"
    );
}
