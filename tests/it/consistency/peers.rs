//! Programs that people have: curl with another name in TLS than in CONNECT, mail and ssh, where the server speaks first.

use std::io::{BufRead, BufReader, Write};
use std::process::Command;

use super::{ENFORCE, proxy};
use crate::support::certificates::Authority;
use crate::support::origin::Origin;
use crate::support::peer::{Peer, command, run};
use crate::support::{Egret, Folder};

fn curl(egret: &Egret) -> Command {
    let mut curl = command("curl");
    curl.args(["-sSk", "--max-time", "15", "-x", &format!("http://{}", egret.proxy())]);
    curl
}

#[test]
fn curl_reaches_whom_it_asked_for_and_nobody_else_through_the_same_tunnel() {
    let origin = Origin::mirror_tls(Authority::new().server(&["ok.test", "evil.test"]));
    let port = origin.address.port();
    let (egret, _folder) = proxy(port, "TLS", ENFORCE, "");
    assert_eq!(run(curl(&egret).arg(format!("https://ok.test:{port}/"))).code, Some(0));
    let fronting = format!("evil.test:{port}:ok.test:{port}");
    let ran = run(curl(&egret).args(["--connect-to", &fronting, &format!("https://evil.test:{port}/")]));
    assert_eq!(ran.code, Some(35), "{ran:?}"); // CURLE_SSL_CONNECT_ERROR
    assert!(ran.stderr.contains("unrecognized name"), "{ran:?}");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn curl_in_the_clear_is_told_why() {
    let origin = Origin::mirror();
    let port = origin.address.port();
    let (egret, _folder) = proxy(port, "TCP", ENFORCE, "");
    let url = format!("http://ok.test:{port}/");
    assert_eq!(run(curl(&egret).args(["-p", &url])).code, Some(0));
    let ran = run(curl(&egret).args(["-p", "-H", "Host: evil.test", &url]));
    assert!(ran.stdout.contains("the request inside names evil.test, the tunnel was asked for ok.test"), "{ran:?}");
    assert_eq!(origin.requests().len(), 1);
}

/// Takes one mail (RFC 5321).
fn mail_server() -> Origin {
    Origin::new(|stream| {
        let mut out = stream.try_clone().unwrap();
        out.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        let mut in_data = false;
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let answer = match (line.split(' ').next().unwrap_or_default(), in_data) {
                (".", true) => {
                    in_data = false;
                    "250 taken"
                }
                (_, true) => continue,
                ("DATA", _) => {
                    in_data = true;
                    "354 go on"
                }
                ("QUIT", _) => "221 bye",
                _ => "250 yes",
            };
            if write!(out, "{answer}\r\n").is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_mail_goes_through() {
    let server = mail_server();
    let port = server.address.port();
    let (egret, folder) = proxy(port, "TCP", ENFORCE, "");
    let mail = folder.write("mail", "Subject: hello\r\n\r\nhello\r\n");
    let mut curl = curl(&egret);
    curl.args(["-p", "--mail-from", "a@ok.test", "--mail-rcpt", "b@ok.test", "-T"]).arg(mail);
    let ran = run(curl.arg(format!("smtp://ok.test:{port}/client.example")));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// An ssh server for whoever runs the tests, with keys of its own.
fn ssh_server(folder: &Folder) -> Peer {
    for key in ["host_key", "client_key"] {
        let path = folder.path().join(key);
        run(command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path)).succeeded();
    }
    // Where sshd runs as root it wants this folder, which its service makes otherwise.
    let _ = std::fs::create_dir_all("/run/sshd");
    let folder = folder.path().to_owned();
    Peer::start(move |[port]| {
        // By its whole path, or it refuses to start.
        let mut sshd = command("sshd");
        sshd.args(["-D", "-e", "-f", "/dev/null", "-p", &port.to_string(), "-o", "ListenAddress=127.0.0.1", "-h"]);
        sshd.arg(folder.join("host_key")).args(["-o", "UsePAM=no", "-o", "StrictModes=no", "-o", "PidFile=none", "-o"]);
        sshd.arg(format!("AuthorizedKeysFile={}", folder.join("client_key.pub").display()));
        sshd
    })
}

#[test]
fn ssh_works_through_a_tunnel_that_is_watched() {
    let keys = Folder::new();
    let server = ssh_server(&keys);
    let port = server.address().port();
    let (egret, _folder) = proxy(port, "TCP", ENFORCE, "");
    let by_proxy = format!("ProxyCommand=nc -X connect -x {} %h %p", egret.proxy());
    let mut ssh = command("ssh");
    ssh.args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o"]);
    ssh.args(["UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", &by_proxy, "-i"]);
    ssh.arg(keys.path().join("client_key")).args(["-p", &port.to_string(), "ok.test", "echo through"]);
    let ran = run(&mut ssh);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "through\n"), "{ran:?}");
    let line = egret.stdout.wait_for("CONNECT");
    assert!(!line.contains("inconsistent"), "{line}");
}
