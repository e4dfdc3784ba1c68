//! HTTP/2 by ALPN: clients that let TLS choose.

use crate::support::certificates::Authority;
use crate::support::origin::Origin;
use crate::support::peer::{Ran, command, run};
use crate::support::{Egret, Folder, Setup};

/// A proxy whose TLS listener prefers HTTP/2.
struct World {
    folder: Folder,
    authority: Authority,
    egret: Egret,
}

impl World {
    fn new() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        let ca = authority.write(&folder, "ca.pem");
        authority.issue(&folder, "own", &["127.0.0.1"]);
        let listeners = "{ name: proxy, address: \"127.0.0.1:0\", \
                         tls: { certificate: own.pem, privateKey: own.key, alpn: [h2, http/1.1] } }";
        let setup = Setup { listeners, hosts: &["secure.example"], system_roots: Some(&ca), ..Setup::default() };
        Self { egret: setup.start(&folder), folder, authority }
    }

    fn node(&self, script: &str, target: &str) -> Ran {
        let mut node = command("node");
        let proxy = format!("https://{}", self.egret.proxy());
        node.args(["-e", script, "--"]).arg(self.folder.path().join("ca.pem")).args([&proxy, target]);
        run(&mut node)
    }

    fn curl(&self, args: &[&str]) -> Ran {
        let mut curl = command("curl");
        let ca = self.folder.path().join("ca.pem");
        curl.args(["-q", "-sS", "--max-time", "15", "--cacert"]).arg(&ca).arg("--proxy-cacert").arg(&ca);
        run(curl.args(args))
    }
}

const NODE: &str = "
const http2 = require('http2'), fs = require('fs');
const [ca, proxy, target] = process.argv.slice(1);
const session = http2.connect(proxy, { ca: fs.readFileSync(ca) });
session.on('connect', () => console.log(session.alpnProtocol, session.encrypted));
const tunnel = session.request({ ':method': 'CONNECT', ':authority': target });
tunnel.on('response', (head) => {
    console.log(head[':status']);
    tunnel.write('through TLS');
});
tunnel.on('data', (data) => { console.log(data.toString()); tunnel.end(); });
tunnel.on('end', () => {
    const plain = session.request({ ':method': 'GET', ':scheme': 'http', ':authority': target, ':path': '/plain' });
    plain.on('response', (head) => console.log(head[':status'], head['via'] !== undefined));
    plain.on('end', () => session.close());
    plain.resume();
});
";

#[test]
fn node_gets_h2_and_has_a_tunnel_and_a_request_on_one_session() {
    let world = World::new();
    // An echo, for what begins without a request line; a request gets an answer.
    let origin = Origin::new(|mut stream| {
        use std::io::{Read, Write};
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            let answer = &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"[..];
            let _ = stream.write_all(if bytes.starts_with(b"GET ") { answer } else { &bytes[..n] });
        }
    });
    let ran = world.node(NODE, &origin.address.to_string());
    assert_eq!(ran.succeeded(), "h2 true\n200\nthrough TLS\n200 true\n");
    world.egret.record("CONNECT").shows(&[("protocol", "HTTP/2"), ("response_code", "200"), ("response_flags", "-")]);
    world.egret.record("/plain").shows(&[("protocol", "HTTP/2"), ("response_code", "200"), ("response_flags", "-")]);
    assert_eq!(world.egret.metric("egret_http2_connections_total"), 1);
}

#[test]
fn curl_asks_for_https_over_h2_and_we_originate_tls() {
    let world = World::new();
    let tls = Origin::mirror_tls(world.authority.server(&["secure.example"]));
    let url = format!("https://{}/originated", world.egret.proxy());
    let host = format!("Host: secure.example:{}", tls.address.port());
    let ran = world.curl(&["--http2", "-w", " %{http_version}", "-d", "two sessions", "-H", &host, &url]);
    assert_eq!(ran.succeeded(), "two sessions 2");
    assert!(tls.requests()[0].starts_with("POST /originated HTTP/1.1\r\n"), "{:?}", tls.requests());
    world.egret.record("/originated").shows(&[("protocol", "HTTP/2"), ("response_code", "200")]);
}

#[test]
fn who_offers_http_1_alone_gets_it() {
    let world = World::new();
    let tls = Origin::mirror_tls(world.authority.server(&["secure.example"]));
    let proxy = format!("https://{}", world.egret.proxy());
    let url = format!("https://secure.example:{}/", tls.address.port());
    assert_eq!(world.curl(&["-x", &proxy, "-d", "old way", &url]).succeeded(), "old way");
    world.egret.record("CONNECT").shows(&[("protocol", "HTTP/1.1"), ("response_code", "200")]);
    assert_eq!(world.egret.metric("egret_http2_connections_total"), 0);
}
