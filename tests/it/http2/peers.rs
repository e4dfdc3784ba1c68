//! Clients of HTTP/2 that others wrote.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

use crate::support::Egret;
use crate::support::origin::{HELLO, Origin, field, read_head};
use crate::support::peer::{command, run};

#[test]
fn curl_by_prior_knowledge() {
    let origin = Origin::mirror();
    let egret = Egret::start();
    let mut curl = command("curl");
    curl.args(["-q", "-sS", "-f", "--http2-prior-knowledge", "-d", "from curl", "-w", " %{http_version}"]);
    curl.args(["-H", &format!("Host: {}", origin.address), &format!("http://{}/curl", egret.proxy())]);
    assert_eq!(run(&mut curl).succeeded(), "from curl 2");
    assert!(origin.requests()[0].starts_with("POST /curl HTTP/1.1\r\n"));
}

#[test]
fn h2load_with_many_streams() {
    let origin = Origin::http(HELLO);
    let egret = Egret::start();
    let mut h2load = command("h2load");
    h2load.args(["-n", "2000", "-c", "2", "-m", "50", "-H", &format!(":authority: {}", origin.address)]);
    h2load.arg(format!("http://{}/load", egret.proxy()));
    let said = run(&mut h2load).succeeded();
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
}

const NODE: &str = "
const http2 = require('http2');
const [port, target] = process.argv.slice(1);
const session = http2.connect('http://127.0.0.1:' + port);
const tunnel = session.request({ ':method': 'CONNECT', ':authority': target });
tunnel.on('response', (head) => { console.log(head[':status']); tunnel.write('through node'); });
tunnel.on('data', (data) => { console.log(data.toString()); tunnel.end(); });
tunnel.on('end', () => session.close());
";

#[test]
fn node_opens_a_tunnel() {
    let origin = Origin::echo();
    let egret = Egret::start();
    let mut node = command("node");
    node.args(["-e", NODE, "--", &egret.proxy().port().to_string(), &origin.address.to_string()]);
    assert_eq!(run(&mut node).succeeded(), "200\nthrough node\n");
}

const WEBSOCKET: &str = "
const http2 = require('http2');
const [port, target] = process.argv.slice(1);
const session = http2.connect('http://127.0.0.1:' + port);
session.on('remoteSettings', (settings) => {
    console.log(settings.enableConnectProtocol);
    const chat = session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'http', ':authority': target,
        ':path': '/chat', 'sec-websocket-version': '13' });
    chat.on('response', (head) => { console.log(head[':status'], head['sec-websocket-accept']); chat.write('frames'); });
    chat.on('data', (data) => { console.log(data.toString()); chat.end(); });
    chat.on('error', (error) => console.log(error.code));
    chat.on('close', () => session.close());
});
";

/// An origin that answers the key of an upgrade rightly, or not, and then echoes.
fn websocket(right: bool) -> Origin {
    Origin::new(move |mut stream| {
        let head = read_head(&mut stream).unwrap();
        let key = field(&head, "sec-websocket-key").unwrap_or_default().to_owned();
        let sum = Sha1::new().chain_update(&key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
        let accept = if right { BASE64.encode(sum) } else { "of another key".to_owned() };
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket";
        let _ =
            write!(stream, "HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
    })
}

#[test]
fn node_opens_a_websocket_by_extended_connect() {
    let egret = Egret::start();
    for (right, said) in [(true, "true\n200 undefined\nframes\n"), (false, "true\n502 undefined\n")] {
        let origin = websocket(right);
        let mut node = command("node");
        node.args(["-e", WEBSOCKET, "--", &egret.proxy().port().to_string(), &origin.address.to_string()]);
        let heard = run(&mut node).succeeded();
        assert!(heard.starts_with(said), "{heard}");
    }
    assert!(egret.stdout.wait_for("/chat").contains("HTTP/2"));
}
