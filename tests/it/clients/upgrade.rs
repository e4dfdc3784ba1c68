//! WebSocket through absolute-form: `101`, and from there on bytes.

use std::io::Write;

use crate::support::origin::{Origin, field, read_head};
use crate::support::peer::{command, run};
use crate::support::{Egret, Folder, Setup, client};

/// Switches to whatever is asked for, greets at once, and sends bytes back.
fn switching() -> Origin {
    Origin::new(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        let Some(protocol) = field(&head, "upgrade") else {
            stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").unwrap();
            return;
        };
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nhello");
        stream.write_all(answer.as_bytes()).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
    })
}

fn started() -> (Folder, Egret, Origin) {
    let folder = Folder::new();
    let egret = Setup { hosts: &["chat.example"], ..Setup::default() }.start(&folder);
    (folder, egret, switching())
}

#[test]
fn a_websocket_is_switched_to_and_its_bytes_flow_both_ways() {
    let (_folder, egret, origin) = started();
    // `ws://` is what aiohttp writes.
    for scheme in ["http", "ws"] {
        let mut stream = client::dial(egret.proxy());
        let authority = format!("chat.example:{}", origin.address.port());
        write!(
            stream,
            "GET {scheme}://{authority}/{scheme} HTTP/1.1\r\nHost: {authority}\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nearly"
        )
        .unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert_eq!(field(&head, "upgrade"), Some("websocket"), "{head}");
        let mut greeting = [0; 10];
        std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
        assert_eq!(&greeting, b"helloearly");
        assert!(client::echoes(&mut stream, b"frame"));
        drop(stream);
        let record = egret.record(&format!("/{scheme}\""));
        record.shows(&[("response_code", "101"), ("response_flags", "-"), ("upstream_cluster", "PassthroughCluster")]);
    }
}

#[test]
fn nothing_but_websocket_is_switched_to() {
    let (_folder, egret, origin) = started();
    let mut stream = client::dial(egret.proxy());
    let authority = format!("chat.example:{}", origin.address.port());
    write!(
        stream,
        "GET http://{authority}/h2c HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    .unwrap();
    assert_eq!(client::read_answer(&mut stream).status, 426);
    egret.record("/h2c").shows(&[("response_code", "426")]);
}

#[test]
fn node_sees_the_upgrade() {
    let (_folder, egret, origin) = started();
    let script = "
const http = require('http');
const [port, url] = process.argv.slice(1);
const headers = { Host: new URL(url).host, Connection: 'Upgrade', Upgrade: 'websocket' };
http.request({ port, path: url, headers }).on('upgrade', (answer, socket, head) => {
    let seen = head.toString();
    socket.on('data', (data) => { if ((seen += data) === 'helloping') { console.log(answer.statusCode, seen); socket.end(); } });
    socket.write('ping');
}).end();
";
    let url = format!("http://chat.example:{}/node", origin.address.port());
    let ran = run(command("node").args(["-e", script, "--", &egret.proxy().port().to_string(), &url]));
    assert_eq!(ran.succeeded(), "101 helloping\n");
}
