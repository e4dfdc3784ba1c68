//! "Using an External HTTPS Proxy": the application asks a squid of its company, and Egret carries what it says to that.

use std::io::copy;
use std::net::{SocketAddr, TcpListener};

use super::{Task, assert_line, nginx, public, start};
use crate::support::peer::{self, Peer, command, run};
use crate::support::world::{in_a_world_with, name_of, write};
use crate::support::{Folder, client, eventually};

const PROXY_IP: &str = "172.30.109.95";
const PROXY_PORT: &str = "3128";
const WIKIPEDIA: &str = "91.198.174.192";

/// What redirection does for an application with a sidecar: its connections to the company's proxy come to ours.
fn redirected(egret: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let tunnel = client::tunnel(egret, format!("{PROXY_IP}:{PROXY_PORT}"));
            for (mut from, mut to) in [(client.try_clone().unwrap(), tunnel.try_clone().unwrap()), (tunnel, client)] {
                std::thread::spawn(move || {
                    let _ = copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}

/// squid by the task's file, where its Deployment mounts it. Only `-N` (stay in the foreground) is not the task's.
fn squid(task: &Task) -> Peer {
    write("/etc/squid/squid.conf", task.read("01-squid-conf.v1.6+1.7+1.27.conf"));
    let mut squid = command("squid");
    squid.args(["-N", "-f", "/etc/squid/squid.conf"]);
    Peer::start_at(squid, &[format!("{PROXY_IP}:{PROXY_PORT}").parse().unwrap()])
}

fn lines_of_squid() -> Vec<String> {
    let log = std::fs::read_to_string("/var/log/squid/access.log").unwrap_or_default();
    log.lines().filter(|line| line.contains("CONNECT")).map(str::to_owned).collect()
}

#[test]
fn https_goes_through_the_company_s_proxy() {
    let test = name_of(https_goes_through_the_company_s_proxy);
    let Some(task) = Task::named("http-proxy", test) else { return };
    in_a_world_with(test, &[("en.wikipedia.org", WIKIPEDIA), ("proxy.invalid", PROXY_IP)], |_| {
        let folder = Folder::new();
        let files = public(&folder, &["en.wikipedia.org"]);
        let (certificate, key) = (files.certificate.display(), files.key.display());
        write(
            "/etc/nginx/nginx.conf",
            format!(
                "events {{}}\nhttp {{ ssl_certificate {certificate}; ssl_certificate_key {key}; server {{ listen {WIKIPEDIA}:443 ssl; \
                 location /wiki/ {{ return 200 '<title>Wikipedia, the free encyclopedia</title>\\n'; }} }} }}\n"
            ),
        );
        let _wikipedia = nginx(&[&format!("{WIKIPEDIA}:443")]);
        let _squid = squid(&task);
        let ask = |proxy: &str| {
            let mut curl = peer::command("curl");
            run(curl.env("HTTPS_PROXY", proxy).args(["-q", "-sS", "https://en.wikipedia.org/wiki/Main_Page"]))
        };
        let title = "<title>Wikipedia, the free encyclopedia</title>\n";
        assert_eq!(ask(&format!("{PROXY_IP}:{PROXY_PORT}")).succeeded(), title, "without Egret, as the task begins");
        for (n, version, deployment) in [(2, "v1.27", "v1.7+1.27"), (3, "v1.7", "v1.7+1.27"), (4, "v1.6", "v1.6")] {
            // What the shell of the page puts in.
            let entry = task.read(&format!("03-tcp-serviceentry-for-proxy.{version}.yaml"));
            let entry = entry.replace("$PROXY_IP", PROXY_IP).replace("$PROXY_PORT", PROXY_PORT);
            let entry = folder.write(&format!("proxy.{version}.yaml"), &entry);
            let deployment = task.file(&format!("02-squid-deployment.{deployment}.yaml"));
            let egret = start(&[deployment, entry], super::REGISTRY_ONLY);
            assert_eq!(ask(&redirected(egret.proxy()).to_string()).succeeded(), title, "{version}");
            assert_line(
                &egret.stdout.wait_for("CONNECT"),
                &format!(
                    "[…] \"CONNECT - HTTP/1.1\" 200 - via_upstream - \"-\" … … … … \"-\" \"-\" \"…\" \"{PROXY_IP}:{PROXY_PORT}\" \
                     \"{PROXY_IP}:{PROXY_PORT}\" outbound|3128||my-company-proxy.com … {} 127.0.0.1:… - default",
                    egret.proxy()
                ),
            );
            let mut lines = Vec::new();
            eventually("squid logs it", || {
                lines = lines_of_squid();
                lines.len() >= n
            });
            let promised = format!("TCP_TUNNEL/200 … CONNECT en.wikipedia.org:443 - HIER_DIRECT/{WIKIPEDIA} -");
            let line = &lines[n - 1];
            assert_line(&line[line.find("TCP_").expect("a status")..], &promised);
            // "Do not create service entries for the external services you access through the external proxy": they need none.
            let (_, head) = client::connect(egret.proxy(), "en.wikipedia.org:443");
            assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        }
    });
}
