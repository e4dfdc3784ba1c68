//! PROXY headers to upstreams: nginx and a plain socket read them.

use super::*;
use crate::support::peer::{Peer, command};

/// nginx that wants a PROXY header and answers with what it read.
fn nginx(folder: &Folder) -> Peer {
    Peer::start(|[port]: [u16; 1]| {
        let mut config = String::from(
            "daemon off;\nmaster_process off;\npid proxied.pid;\nerror_log stderr error;\nevents {}\nhttp { access_log off;\n",
        );
        for temp in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            config.push_str(&format!("{temp}_temp_path proxied-{temp};\n"));
        }
        config.push_str(&format!(
            "server {{ listen 127.0.0.1:{port} proxy_protocol; default_type text/plain;\n\
             location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port $connection_requests\"; }} }} }}\n"
        ));
        let mut nginx = command("nginx");
        nginx.arg("-p").arg(folder.path()).args(["-e", "stderr", "-c"]).arg(folder.write("proxied.conf", &config));
        nginx
    })
}

fn policy(version: &str) -> String {
    format!("proxyProtocol: {{ version: {version} }}")
}

#[test]
fn nginx_reads_the_clients_address_in_both_versions() {
    for version in ["V1", "V2"] {
        let folder = Folder::new();
        let nginx = nginx(&folder);
        let port = nginx.address().port();
        let listeners = "{ name: proxy, address: \"127.0.0.1:0\" }";
        let rules = rules(port, &policy(version));
        let egret = Setup { listeners, rules: &rules, hosts: &["api.example"], ..Setup::default() }.start(&folder);
        let mut clients = [client::dial(egret.proxy()), client::dial(egret.proxy())];
        for n in 1..=2 {
            for stream in &mut clients {
                let own = stream.local_addr().unwrap();
                let answer = client::ask(stream, "GET", URL);
                // Each client has connections of its own, and keeps them.
                let expected = format!("127.0.0.1 {} 127.0.0.1 {port} {n}", own.port());
                assert_eq!(String::from_utf8_lossy(&answer.body), expected, "{version}");
            }
        }
        // Inside a tunnel it comes before what the client says.
        let mut tunnel = client::tunnel(egret.proxy(), "api.example:443");
        let own = tunnel.local_addr().unwrap();
        client::send(&mut tunnel, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let told = String::from_utf8(client::read_answer(&mut tunnel).body).unwrap();
        assert!(told.starts_with(&format!("127.0.0.1 {} ", own.port())), "{version}: {told}");
    }
}

#[test]
fn who_has_no_address_is_unknown_or_local() {
    for (version, expected) in [("V1", &b"PROXY UNKNOWN\r\n"[..]), ("V2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")] {
        let folder = Folder::new();
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = seen.clone();
        let origin = Origin::new(move |mut stream| {
            let mut header = vec![0; expected.len()];
            stream.read_exact(&mut header).unwrap();
            *kept.lock().unwrap() = header;
            while read_head(&mut stream).is_some() {
                stream.write_all(HELLO).unwrap();
            }
        });
        let socket = folder.path().join("proxy.sock");
        let listeners = format!("{{ name: proxy, address: \"unix:{}\" }}", socket.display());
        let rules = rules(origin.address.port(), &policy(version));
        let egret =
            Setup { listeners: &listeners, rules: &rules, hosts: &["api.example"], ..Setup::default() }.start(&folder);
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        write!(stream, "GET {URL} HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n").unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        assert_eq!(*seen.lock().unwrap(), expected, "{version}");
        drop(egret);
    }
}

#[test]
fn haproxy_takes_the_header_and_tells_its_origin() {
    let folder = Folder::new();
    let origin = Origin::http(HELLO);
    let behind = origin.address;
    let haproxy = Peer::start(|[port]: [u16; 1]| {
        let config = format!(
            "defaults\n mode http\n timeout client 20s\n timeout server 20s\n timeout connect 20s\n\
             frontend in\n bind 127.0.0.1:{port} accept-proxy\n default_backend out\n\
             backend out\n http-request set-header X-Seen %[src]:%[src_port]\n server one {behind}\n"
        );
        let mut haproxy = command("haproxy");
        haproxy.args(["-q", "-db", "-f"]).arg(folder.write("haproxy.cfg", &config));
        haproxy
    });
    let rules = rules(haproxy.address().port(), &policy("V2"));
    let egret = Setup { rules: &rules, hosts: &["api.example"], ..Setup::default() }.start(&folder);
    let mut stream = client::dial(egret.proxy());
    let own = stream.local_addr().unwrap();
    assert_eq!(client::ask(&mut stream, "GET", URL).status, 200);
    assert!(origin.requests()[0].contains(&format!("127.0.0.1:{}", own.port())), "{:?}", origin.requests());
}
