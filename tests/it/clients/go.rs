//! Go's net/http, with the proxy in the environment. Of a refused tunnel it shows the reason phrase and nothing else.

use std::path::{Path, PathBuf};

use super::{BEHIND_TLS, OPENED, REFUSED, REFUSING, World};
use crate::support::Folder;
use crate::support::peer::{Ran, command, command_at, run};

const PROGRAM: &str = r#"
package main

import (
    "fmt"
    "io"
    "net/http"
    "os"
    "strings"
    "time"
)

func main() {
    client := &http.Client{Timeout: 15 * time.Second}
    for _, url := range os.Args[1:] {
        answer, err := client.Post(url, "text/plain", strings.NewReader("from Go"))
        if err != nil {
            fmt.Fprintln(os.Stderr, err)
            os.Exit(1)
        }
        body, _ := io.ReadAll(answer.Body)
        answer.Body.Close()
        fmt.Println(answer.StatusCode, strings.TrimSpace(string(body)))
    }
}
"#;

fn build(folder: &Folder) -> PathBuf {
    let source = folder.write("ask/main.go", PROGRAM);
    let program = source.with_file_name("ask");
    let mut go = command("go");
    go.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOTOOLCHAIN", "local");
    go.env("GOCACHE", folder.path().join("cache")).env("HOME", folder.path());
    run(go.arg("build").arg("-o").arg(&program).arg(source)).succeeded();
    program
}

fn ask(program: &Path, world: &World, proxy: &str, urls: &[&str]) -> Ran {
    let mut ask = command_at(program);
    run(ask.env("HTTP_PROXY", proxy).env("HTTPS_PROXY", proxy).env("SSL_CERT_FILE", &world.ca).args(urls))
}

#[test]
fn net_http_goes_by_the_environment() {
    let folder = Folder::new();
    let program = build(&folder);
    let world = World::new();
    let ran =
        ask(&program, &world, &world.proxy(), &[&world.http("/plain"), &world.https("/tls"), &world.https("/again")]);
    assert_eq!(ran.succeeded(), "200 from Go\n".repeat(3));
    assert!(world.plain.requests()[0].starts_with("POST /plain HTTP/1.1\r\n"));
    world.egret.record("/plain").shows(&[("method", "POST"), ("response_code", "200"), ("response_flags", "-")]);
    world.egret.record("CONNECT").shows(OPENED);
    assert_eq!(world.egret.stdout.so_far().len(), 2, "one tunnel for both requests");

    // It offers h2 to the proxy, and before 1.24 it could not use it: so http/1.1 comes first in tls.alpn.
    let world = World::with(BEHIND_TLS);
    let ran = ask(&program, &world, &world.https_proxy(), &[&world.http("/plain"), &world.https("/tls")]);
    assert_eq!(ran.succeeded(), "200 from Go\n".repeat(2));
    world.egret.record("/plain").shows(&[("protocol", "HTTP/1.1"), ("response_code", "200"), ("response_flags", "-")]);
    world.egret.record("CONNECT").shows(OPENED);
}

#[test]
fn a_refused_tunnel_says_why_in_its_phrase() {
    let folder = Folder::new();
    let program = build(&folder);
    let world = World::with(REFUSING);
    let ran = ask(&program, &world, &world.proxy(), &[&world.https("/")]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.trim_end().ends_with("Destination Not Allowed"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
    let ran = ask(&program, &world, &world.proxy(), &[&world.http("/")]);
    let port = world.plain.address.port();
    assert_eq!(ran.succeeded(), format!("403 egret: no route allows plain.example:{port} (not_found)\n"));
}
