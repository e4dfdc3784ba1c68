//! CONNECT: what goes through, how each side may end, and what a refusal leaves behind.

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::sync::mpsc;

use super::{answers, converse, proxy, read_to_end};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, client};

/// What the address rules refuse without asking the network.
const REFUSED: &str = "CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: 10.0.0.1:443\r\n\r\n";

#[test]
fn bytes_in_the_packet_of_the_head_reach_the_target() {
    let origin = Origin::echo();
    let (egret, _folder) = proxy("");
    let mut stream = client::dial(egret.proxy());
    write!(stream, "CONNECT {o} HTTP/1.1\r\nHost: {o}\r\n\r\nearly", o = origin.address).unwrap();
    assert!(read_head(&mut stream).unwrap().starts_with("HTTP/1.1 200 "));
    let mut early = [0; 5];
    stream.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
    assert!(client::echoes(&mut stream, b"later"));
}

#[test]
fn a_200_to_connect_has_neither_length_nor_coding() {
    let origin = Origin::echo();
    let (egret, _folder) = proxy("");
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut stream = client::dial(egret.proxy());
        write!(stream, "CONNECT {o} {version}\r\nHost: {o}\r\n\r\n", o = origin.address).unwrap();
        let head = read_head(&mut stream).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        assert!(client::echoes(&mut stream, b"through"));
    }
}

#[test]
fn a_client_that_is_done_sending_still_gets_the_answer() {
    let origin = Origin::new(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let (egret, _folder) = proxy("");
    let mut stream = client::tunnel(egret.proxy(), origin.address);
    stream.write_all(b"abc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), "cba");
}

#[test]
fn a_target_that_is_done_sending_still_gets_the_rest() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        tell.send(all).unwrap();
    });
    let (egret, _folder) = proxy("");
    let mut stream = client::tunnel(egret.proxy(), origin.address);
    assert_eq!(read_to_end(&mut stream), "bye");
    stream.write_all(b"one more thing").unwrap();
    drop(stream);
    assert_eq!(told.recv_timeout(crate::support::PATIENCE).unwrap(), b"one more thing");
}

#[test]
fn a_reset_of_one_side_is_a_reset_of_the_other() {
    let origin = Origin::new(|mut stream| {
        stream.read_exact(&mut [0; 2]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let (egret, _folder) = proxy("");
    let mut stream = client::tunnel(egret.proxy(), origin.address);
    stream.write_all(b"go").unwrap();
    assert_eq!(super::read_to_reset(&mut stream), "");
}

#[test]
fn what_is_pipelined_behind_a_refused_connect_is_not_served() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let behind = format!("GET http://{o}/behind HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address);
    for request in [REFUSED.to_owned() + &behind, REFUSED.to_owned() + "\x16\x03\x01\x02\x00\x01", REFUSED.to_owned()] {
        let text = converse(egret.proxy(), &request);
        assert!(text.starts_with("HTTP/1.1 403 ") && text.contains("\r\nConnection: close\r\n"), "{text:?}");
        assert_eq!(answers(&text), 1, "{text:?}");
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn a_refusal_arrives_whole_though_the_client_sent_on_meanwhile() {
    // A DNS server that says nothing: the refusal comes a moment after the client's bytes.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (egret, _folder) = proxy(&format!(
        "dns: {{ servers: [\"{}\"], hosts: null, timeout: 200ms, attempts: 1 }}",
        silent.local_addr().unwrap()
    ));
    let mut stream = client::dial(egret.proxy());
    stream.write_all(b"CONNECT name.test-domain.org:443 HTTP/1.1\r\nHost: name.test-domain.org:443\r\n\r\n").unwrap();
    silent.recv_from(&mut [0; 512]).unwrap(); // the head was read; what follows is another packet
    stream.write_all(&[b'x'; 32 * 1024]).unwrap();
    let text = read_to_end(&mut stream);
    assert!(text.starts_with("HTTP/1.1 504 ") && text.ends_with("(dns_timeout)\n"), "{text:?}");
}

fn with_password() -> (Egret, Folder) {
    let folder = Folder::new();
    let htpasswd = folder.write("htpasswd", &format!("ada:{}\n", bcrypt::hash("lace", 4).unwrap()));
    folder.write(
        "egret.yaml",
        &format!(
            "listeners: [{{ name: proxy, address: \"127.0.0.1:0\", clients: {{ basic: {{ htpasswd: {} }} }} }}]\n\
             addresses: {{ allow: [127.0.0.0/8] }}\n",
            htpasswd.display()
        ),
    );
    (Egret::with_settings(&folder.settings()), folder)
}

#[test]
fn a_407_keeps_the_connection_unless_bytes_follow_the_connect() {
    let origin = Origin::echo();
    let (egret, _folder) = with_password();
    let ask = |more: &str| format!("CONNECT {o} HTTP/1.1\r\nHost: {o}\r\n{more}\r\n", o = origin.address);
    let mut stream = client::dial(egret.proxy());
    for wrong in ["", "Proxy-Authorization: Basic YWRhOndyb25n\r\n"] {
        stream.write_all(ask(wrong).as_bytes()).unwrap();
        let answer = client::read_answer(&mut stream);
        assert_eq!(answer.status, 407);
        assert!(answer.head.contains("\r\nProxy-Authenticate: Basic realm=\"egret\""), "{}", answer.head);
        assert!(!answer.head.contains("Connection: close"), "{}", answer.head);
    }
    stream.write_all(ask("Proxy-Authorization: Basic YWRhOmxhY2U=\r\n").as_bytes()).unwrap();
    assert!(read_head(&mut stream).unwrap().starts_with("HTTP/1.1 200 "));
    assert!(client::echoes(&mut stream, b"in"));

    let behind = ask("") + &ask("Proxy-Authorization: Basic YWRhOmxhY2U=\r\n");
    let text = converse(egret.proxy(), behind);
    assert!(text.starts_with("HTTP/1.1 407 ") && text.contains("\r\nConnection: close\r\n"), "{text:?}");
    assert_eq!(answers(&text), 1, "{text:?}");
}

#[test]
fn the_credentials_of_the_proxy_stay_with_it() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = with_password();
    let mut stream = client::dial(egret.proxy());
    write!(
        stream,
        "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nProxy-Authorization: Basic YWRhOmxhY2U=\r\n\r\n",
        o = origin.address
    )
    .unwrap();
    assert_eq!(client::read_answer(&mut stream).status, 200);
    let head = origin.requests().remove(0).to_ascii_lowercase();
    assert!(!head.contains("proxy-") && !head.contains("ywrhomxhy2u"), "{head}");
    let line = egret.stdout.wait_for("GET / HTTP/1.1");
    assert!(!line.contains("YWRhOmxhY2U"), "{line}");
}
