//! `tunnel` of DestinationRules, the sidecar's part of Istio's own test: whatever goes to `external` goes through a forward proxy.
//!
//! The files say port 3128; Istio runs them with 4128 (TLS), 5128 (HTTP/2) and 6128 (HTTP/2 over TLS), too. squid speaks no HTTP/2: there
//! another Egret is the forward proxy.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ServerConnection, StreamOwned};

use super::{Task, assert_line, curl, openssl, start};
use crate::support::certificates::Authority;
use crate::support::origin::{Origin, read_head};
use crate::support::peer::{Peer, command};
use crate::support::world::{in_a_world_with, name_of, write};
use crate::support::{Egret, Folder, eventually};

/// Of the proxy and of the server; the cluster's addresses are private.
const PROXY: &str = "10.96.0.7";
const SERVER: &str = "10.96.0.8";

/// The Services of namespace `external`, as Istio's test deploys them; `addresses` stands for pods.
fn services(port: u16) -> String {
    let http = if is_http2(port) { "http2" } else { "http" };
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: external, namespace: external }}
spec: {{ clusterIP: 172.21.0.8, ports: [{{ name: tcp, port: 86 }}, {{ name: https, port: 443 }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: external-forward-proxy, namespace: external }}
spec: {{ clusterIP: 172.21.0.7, ports: [{{ name: {http}-connect-{port}, port: {port} }}] }}
---
apiVersion: v1
kind: Endpoints
metadata: {{ name: external-forward-proxy, namespace: external }}
subsets: [{{ addresses: [{{ ip: {PROXY} }}], ports: [{{ name: {http}-connect-{port}, port: {port} }}] }}]
"
    )
}

fn is_http2(port: u16) -> bool {
    matches!(port, 5128 | 6128)
}

/// Says who asked, as Istio's echo server does.
fn server(authority: &Authority) -> [Origin; 2] {
    let answer = |stream: &mut dyn ReadWrite, from: &str| {
        while let Some(head) = read_head(&mut &mut *stream) {
            let method = head.split(' ').next().unwrap();
            let said = format!("remoteAddr={from} method={method}\n");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    };
    let tls = authority.server(&["external.external.svc.cluster.local"]);
    let from = |stream: &TcpStream| stream.peer_addr().unwrap().ip().to_string();
    let plain = Origin::at(&format!("{SERVER}:86"), move |mut stream| {
        let from = from(&stream);
        answer(&mut stream, &from);
    });
    let tls = Origin::at(&format!("{SERVER}:443"), move |stream| {
        let from = from(&stream);
        answer(&mut StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), stream), &from);
    });
    [plain, tls]
}

trait ReadWrite: std::io::Read + Write {}
impl<S: std::io::Read + Write> ReadWrite for S {}

/// A forward proxy on this port, in the clear or behind TLS, that asks servers from its own address.
enum Proxy {
    Squid { _process: Peer },
    Egret(Egret),
}

impl Proxy {
    fn start(folder: &Folder, port: u16, over_tls: bool) -> Self {
        if over_tls {
            let commands = "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=external-forward-proxy -keyout proxy.key -out proxy.crt";
            openssl(folder.path(), commands);
            for name in ["proxy.crt", "proxy.key"] {
                write(format!("/etc/forward-proxy/{name}"), std::fs::read(folder.path().join(name)).unwrap());
            }
        }
        if is_http2(port) {
            Self::Egret(other_egret(port, over_tls))
        } else {
            Self::Squid { _process: squid(port, over_tls) }
        }
    }

    fn has_connected_to(&self, target: u16) -> bool {
        match self {
            Self::Squid { .. } => {
                let promised = format!("CONNECT external.external:{target} - HIER_DIRECT/{SERVER} ");
                std::fs::read_to_string("/var/log/squid/access.log").unwrap_or_default().contains(&promised)
            }
            Self::Egret(egret) => egret.stdout.so_far().iter().any(|line| {
                line.contains("\"CONNECT - HTTP/2\" 200 ")
                    && line.contains(&format!("\"external.external:{target}\" \"{SERVER}:{target}\""))
            }),
        }
    }
}

fn other_egret(port: u16, over_tls: bool) -> Egret {
    let tls =
        "tls: { certificate: /etc/forward-proxy/proxy.crt, privateKey: /etc/forward-proxy/proxy.key, alpn: [h2] }, ";
    let tls = if over_tls { tls } else { "" };
    let settings = format!(
        "listeners: [{{ name: proxy, address: \"{PROXY}:{port}\", {tls}clients: {{ from: [{PROXY}/32] }} }}]\n\
         addresses: {{ allow: [{SERVER}/32] }}\ndial: {{ source: [{PROXY}] }}\nadmin: {{ address: off }}\n"
    );
    write("/etc/forward-proxy/egret.yaml", settings);
    Egret::spawn(&["run", "-c", "/etc/forward-proxy/egret.yaml"])
}

fn squid(port: u16, over_tls: bool) -> Peer {
    let listen = if over_tls {
        format!("https_port {PROXY}:{port} tls-cert=/etc/forward-proxy/proxy.crt tls-key=/etc/forward-proxy/proxy.key")
    } else {
        format!("http_port {PROXY}:{port}")
    };
    let config = format!("{listen}\nhttp_access allow all\ncache deny all\ntcp_outgoing_address {PROXY}\n");
    write("/etc/squid/squid.conf", config);
    let mut squid = command("squid");
    squid.args(["-N", "-f", "/etc/squid/squid.conf"]);
    Peer::start_at(squid, &[format!("{PROXY}:{port}").parse().unwrap()])
}

fn sidecar(test: &str, port: u16, over_tls: bool) {
    let Some(task) = Task::named("tunnel", test) else { return };
    // The rule's target is the short name, which the proxy resolves.
    let names = [("external.external", SERVER), ("proxy.invalid", PROXY)];
    in_a_world_with(test, &names, |_| {
        let folder = Folder::new();
        let authority = Authority::new();
        let ca = authority.write(&folder, "ca.pem");
        let _server = server(&authority);
        let proxy = Proxy::start(&folder, port, over_tls);
        let rule = if over_tls { "tls" } else { "plain" };
        let names = [
            format!("01-destinationrule-tunnel-{rule}-proxy.v1.15+.yaml"),
            "02-sidecar-virtualservice.v1.15+.yaml".to_owned(),
        ];
        let mut files: Vec<PathBuf> = names.iter().map(|name| task.file(name)).collect();
        if port != 3128 {
            // The template's variable forwardProxyPort has another value.
            for (file, name) in files.iter_mut().zip(&names) {
                *file = folder.write(
                    &format!("{port}-{name}"),
                    &task.read(name).replace("number: 3128", &format!("number: {port}")),
                );
            }
        }
        files.push(folder.write("services.yaml", &services(port)));
        let egret = start(&files, super::REGISTRY_ONLY);
        let host = "external.external.svc.cluster.local";
        let said = format!("remoteAddr={PROXY} method=GET\n");
        let ca = ca.to_str().unwrap();
        for (n, (subset, target, arguments, request)) in [
            ("tcp", 86, vec!["-sS", "http://external.external.svc.cluster.local:86/plain"], "GET /plain HTTP/1.1"),
            ("tcp", 86, vec!["-sS", "-p", "http://external.external.svc.cluster.local:86/"], "CONNECT - HTTP/1.1"),
            (
                "tls",
                443,
                vec!["-sS", "--cacert", ca, "https://external.external.svc.cluster.local/"],
                "CONNECT - HTTP/1.1",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let started = egret.stdout.so_far().len();
            assert_eq!(curl(&egret, &arguments).succeeded(), said, "{arguments:?}");
            eventually("it is logged", || egret.stdout.so_far().len() > started);
            assert_line(
                &egret.stdout.so_far()[n],
                &format!(
                    "[…] \"{request}\" 200 - via_upstream - \"-\" … … … … \"-\" \"curl/…\" \"…\" \"{host}:{target}\" \"{PROXY}:{port}\" \
                     outbound|{port}|external-svc-{subset}|external-forward-proxy.external.svc.cluster.local … {} 127.0.0.1:… - default",
                    egret.proxy()
                ),
            );
        }
        drop(egret); // a tunnel is logged when it ends
        for target in [86, 443] {
            eventually("the proxy logs it", || proxy.has_connected_to(target));
        }
    });
}

#[test]
fn through_a_plain_proxy() {
    sidecar(name_of(through_a_plain_proxy), 3128, false);
}

#[test]
fn through_a_proxy_behind_tls_on_the_files_port() {
    sidecar(name_of(through_a_proxy_behind_tls_on_the_files_port), 3128, true);
}

#[test]
fn through_a_proxy_behind_tls() {
    sidecar(name_of(through_a_proxy_behind_tls), 4128, true);
}

#[test]
fn through_a_proxy_of_http2() {
    sidecar(name_of(through_a_proxy_of_http2), 5128, false);
}

#[test]
fn through_a_proxy_of_http2_behind_tls() {
    sidecar(name_of(through_a_proxy_of_http2_behind_tls), 6128, true);
}
