//! Credentials as users give them to their client: in the address of the proxy.

use std::process::Command;

use super::World;
use crate::support::origin::field;
use crate::support::peer::{command, run};

/// Fetches the URL through the proxy and prints the body.
fn fetch(client: &str, proxy: &str, world: &World, url: &str) -> Command {
    let mut fetch = command(client);
    fetch.env("http_proxy", proxy).env("https_proxy", proxy).env("SSL_CERT_FILE", &world.ca);
    match client {
        "wget" => {
            let certificate = format!("--ca-certificate={}", world.ca.display());
            fetch.args(["--no-config", "-nv", "--tries=1", "-O", "-", &certificate])
        }
        "curl" => fetch.args(["-q", "-sS", "-f", "--cacert"]).arg(&world.ca),
        _ => {
            fetch.args(["-c", "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode(), end='')"])
        }
    };
    fetch.arg(url);
    fetch
}

#[test]
fn right_ones_pass_and_wrong_ones_are_407() {
    let world = World::with_login();
    for client in ["curl", "wget", "python3"] {
        for url in [world.http(&format!("/{client}")), world.https(&format!("/{client}"))] {
            let right = run(&mut fetch(client, &world.proxy_as("ada:s3cret@"), &world, &url));
            assert_eq!(right.succeeded(), "", "{client}: the mirror of a request without body");
            let wrong = run(&mut fetch(client, &world.proxy_as("ada:wrong@"), &world, &url));
            assert_ne!(wrong.code, Some(0), "{client}: {wrong:?}");
            let words = ["407", "Proxy Authentication Required", "HTTP response code said error"]; // the last is curl's for plain HTTP
            assert!(words.iter().any(|words| wrong.stderr.contains(words)), "{client}: {wrong:?}");
        }
        world.egret.record(&format!("/{client}\"")).shows(&[("response_code", "200"), ("identity", "ada")]);
    }
    for head in world.plain.requests().iter().chain(&world.tls.requests()) {
        assert_eq!(field(head, "proxy-authorization"), None, "{head}");
    }
}
