//! TLS between client and proxy.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Secured, count, secure, shown, trusting};
use crate::support::certificates::{Authority, Files};
use crate::support::client::{dial, echoes};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::peer::{Ran, command, run};
use crate::support::{Egret, Folder, Setup, egret, eventually};

const LISTENER: &str = "{ name: proxy, address: \"127.0.0.1:0\", tls: { certificate: own.pem, privateKey: own.key } }";

/// A proxy behind TLS whose certificate is in `own.pem`, and its authority in `ca.pem`.
struct World {
    folder: Folder,
    authority: Authority,
    egret: Egret,
}

impl World {
    fn new(setup: Setup<'_>) -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        authority.write(&folder, "ca.pem");
        authority.issue(&folder, "own", &["proxy.example", "127.0.0.1"]);
        let listeners = if setup.listeners.is_empty() { LISTENER } else { setup.listeners };
        let egret = Setup { listeners, hosts: &["plain.example", "secure.example"], ..setup }.start(&folder);
        Self { folder, authority, egret }
    }

    fn client(&self) -> Secured {
        secure(&trusting(&self.folder.path().join("ca.pem"), None), dial(self.egret.proxy())).unwrap()
    }

    fn curl(&self, args: &[&str]) -> Ran {
        let mut curl = command("curl");
        curl.args(["-q", "-sS", "--max-time", "15", "-x", &format!("https://{}", self.egret.proxy())]);
        curl.arg("--proxy-cacert")
            .arg(self.folder.path().join("ca.pem"))
            .arg("--cacert")
            .arg(self.folder.path().join("ca.pem"));
        run(curl.args(args))
    }
}

fn connect(stream: &mut (impl Read + Write), target: impl std::fmt::Display) -> String {
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").unwrap();
    stream.flush().unwrap();
    read_head(stream).expect("an answer")
}

fn back_and_forth(stream: &mut (impl Read + Write), bytes: &[u8]) -> bool {
    let mut back = vec![0; bytes.len()];
    stream.write_all(bytes).and_then(|()| stream.flush()).and_then(|()| stream.read_exact(&mut back)).is_ok()
        && back == bytes
}

#[test]
fn curl_reaches_origins_through_an_https_proxy() {
    let world = World::new(Setup {
        mesh: "accessLogFormat: '{\"line\": \"%REQ(:METHOD)% %RESPONSE_CODE%\", \"tls\": \"%DOWNSTREAM_TLS_VERSION%\"}'",
        ..Setup::default()
    });
    let plain = Origin::mirror();
    let tls = Origin::mirror_tls(world.authority.server(&["secure.example"]));
    let https = format!("https://secure.example:{}/", tls.address.port());
    let ran = world.curl(&["-v", "-d", "through two layers", &https]);
    assert!(ran.stderr.contains("Connection Established"), "{}", ran.stderr);
    assert_eq!(ran.succeeded(), "through two layers");
    world.egret.record("CONNECT").shows(&[("line", "CONNECT 200"), ("tls", "TLSv1.3")]);
    let urls = [1, 2, 3].map(|n| format!("http://plain.example:{}/{n}", plain.address.port()));
    let ran = world.curl(&["-w", "%{num_connects} ", "-d", "x", &urls[0], &urls[1], &urls[2]]);
    assert_eq!(ran.succeeded(), "x1 x0 x0 ", "one session carries all three");
    let upload = world.folder.write("upload", &"0123456789abcdef".repeat(200_000)); // 3.2 MB: beyond every buffer
    let sent = std::fs::read_to_string(&upload).unwrap();
    for url in [&https, &urls[0]] {
        assert!(world.curl(&["-T", upload.to_str().unwrap(), url]).succeeded() == sent, "{url}");
    }
    assert!(count(&world.egret, "egret_tls_handshakes_total{result=\"completed\"}") >= 4);
}

#[test]
fn a_session_ends_with_its_close_notify() {
    let world = World::new(Setup::default());
    let origin = Origin::http(HELLO);
    let mut stream = world.client();
    let host = origin.address;
    write!(stream, "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an end without close_notify would be an error here");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    // A tunnel ends so too, and a half-close goes through both layers.
    let echo = Origin::echo();
    let mut stream = world.client();
    assert!(connect(&mut stream, echo.address).starts_with("HTTP/1.1 200 "));
    stream.write_all(b"all of it").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "all of it");
}

#[test]
fn an_idle_session_waits_longer_than_a_head_may_take() {
    let world = World::new(Setup { more: "limits: { headTime: 300ms }", ..Setup::default() });
    let origin = Origin::http(HELLO);
    let mut stream = world.client();
    for pause in [0, 700] {
        std::thread::sleep(std::time::Duration::from_millis(pause)); // what is tested is that nothing happens meanwhile
        write!(stream, "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address).unwrap();
        assert!(read_head(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 "));
        stream.read_exact(&mut [0; 5]).unwrap();
    }
}

#[test]
fn who_is_slow_or_speaks_something_else_is_told_and_counted() {
    let world = World::new(Setup { more: "limits: { headTime: 300ms }", ..Setup::default() });
    // The beginning of a hello, and nothing more.
    let mut slow = dial(world.egret.proxy());
    slow.write_all(&[22, 3, 1]).unwrap();
    assert_eq!(slow.read(&mut [0]).unwrap_or(0), 0, "closed");
    let record = world.egret.record("http_request_timeout");
    record.shows(&[("response_code", "0"), ("detail", "the TLS handshake was not complete in time")]);
    assert_eq!(count(&world.egret, "egret_tls_handshakes_total{result=\"timed_out\"}"), 1);
    // Plain HTTP is answered in its own words.
    let mut plain = dial(world.egret.proxy());
    let head = connect(&mut plain, "plain.example:443");
    assert!(head.starts_with("HTTP/1.1 400 Bad Request: this port speaks TLS: write https:// "), "{head}");
    let mut ssh = dial(world.egret.proxy());
    ssh.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").unwrap();
    assert_eq!(ssh.read(&mut [0]).unwrap_or(0), 0, "closed without a word");
    eventually("both are counted", || count(&world.egret, "egret_tls_handshakes_total{result=\"not_tls\"}") == 2);
    // A hello that is none.
    let mut broken = dial(world.egret.proxy());
    broken.write_all(&[22, 3, 1, 0, 4, 1, 0, 0, 0]).unwrap();
    let mut answer = Vec::new();
    let _ = broken.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    eventually("it is counted", || count(&world.egret, "egret_tls_handshakes_total{result=\"failed\"}") == 1);
    // Who opens a connection and leaves is no flow.
    let lines = world.egret.stdout.so_far().len();
    drop(TcpStream::connect(world.egret.proxy()).unwrap());
    eventually("it is counted", || count(&world.egret, "egret_tls_handshakes_total{result=\"client_gone\"}") == 1);
    assert_eq!(world.egret.stdout.so_far().len(), lines);
}

/// Puts a certificate and its key in the place of those in use, one file after the other.
fn replace(folder: &Folder, files: &Files) {
    folder.write("own.pem", &std::fs::read_to_string(&files.certificate).unwrap());
    folder.write("own.key", &std::fs::read_to_string(&files.key).unwrap());
}

#[test]
fn a_new_certificate_is_shown_without_a_connection_lost_and_a_bad_one_is_not() {
    let world = World::new(Setup::default());
    let (proxy, config) = (world.egret.proxy(), trusting(&world.folder.path().join("ca.pem"), None));
    let before = shown(&config, proxy);
    let echo = Origin::echo();
    let mut tunnel = world.client();
    assert!(connect(&mut tunnel, echo.address).starts_with("HTTP/1.1 200 "));

    let next = world.authority.issue(&world.folder, "next", &["proxy.example"]);
    let expected = CertificateDer::from_pem_file(&next.certificate).unwrap().to_vec();
    replace(&world.folder, &next);
    eventually("the new certificate is shown", || shown(&config, proxy) == expected);
    assert_ne!(before, expected);
    assert!(back_and_forth(&mut tunnel, b"still there"));

    // A key that is another's: the certificate stays, the log says why, and all else that is new comes into force.
    let other = world.authority.issue(&world.folder, "other", &["proxy.example"]);
    world.folder.write("own.key", &std::fs::read_to_string(&other.key).unwrap());
    let line = world.egret.stderr.wait_for("does not belong to the certificate");
    assert!(line.contains("warning[W046]: listeners[0].tls.privateKey: ") && line.contains("own.key: "), "{line}");
    assert!(line.contains("the listener goes on with what it had"), "{line}");
    assert_eq!(shown(&config, proxy), expected);
    assert!(back_and_forth(&mut tunnel, b"and still"));
    let settings = std::fs::read_to_string(world.folder.settings()).unwrap();
    world.folder.write("egret.yaml", &format!("{settings}drain: 7s\n"));
    let line = world.egret.stderr.wait_for("settings=\"drain\"");
    assert!(line.contains("reloaded") && !line.contains("not reloaded"), "{line}");
    assert_eq!(shown(&config, proxy), expected);

    // Its other half comes: both are good again.
    world.folder.write("own.pem", &std::fs::read_to_string(&other.certificate).unwrap());
    let expected = CertificateDer::from_pem_file(&other.certificate).unwrap().to_vec();
    eventually("the third certificate is shown", || shown(&config, proxy) == expected);
    assert!(back_and_forth(&mut tunnel, b"to the end"));

    // Other files than before have nothing to go on with: that is an error, and nothing of it comes into force.
    world.folder.write("egret.yaml", &settings.replace("own.key", "nowhere.key"));
    let line = world.egret.stderr.wait_for("nowhere.key: No such file");
    assert!(line.contains("error[E002]: listeners[0].tls.privateKey: "), "{line}");
    world.egret.stderr.wait_for("not reloaded, the old configuration stays");
    assert_eq!(shown(&config, proxy), expected);
}

#[test]
fn certificates_behind_a_link_are_watched_as_kubernetes_changes_them() {
    let (folder, authority) = (Folder::new(), Authority::new());
    authority.write(&folder, "ca.pem");
    let generation = |name: &str| {
        let files = authority.issue(&folder, name, &["proxy.example"]);
        folder.write(&format!("mounted/{name}/tls.crt"), &std::fs::read_to_string(&files.certificate).unwrap());
        folder.write(&format!("mounted/{name}/tls.key"), &std::fs::read_to_string(&files.key).unwrap());
        let link = folder.path().join("mounted/..data");
        let new = folder.path().join("mounted/..data_tmp");
        std::os::unix::fs::symlink(name, &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
        CertificateDer::from_pem_file(&files.certificate).unwrap().to_vec()
    };
    let first = generation("..1");
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), folder.path().join("mounted").join(name)).unwrap();
    }
    let listeners =
        "{ name: proxy, address: \"127.0.0.1:0\", tls: { certificate: mounted/tls.crt, privateKey: mounted/tls.key } }";
    let egret = Setup { listeners, ..Setup::default() }.start(&folder);
    let config = trusting(&folder.path().join("ca.pem"), None);
    assert_eq!(shown(&config, egret.proxy()), first);
    let second = generation("..2");
    eventually("the second certificate is shown", || shown(&config, egret.proxy()) == second);
}

#[test]
fn tls_comes_and_goes_by_reload_on_the_same_socket() {
    let world = World::new(Setup::default());
    let (proxy, echo) = (world.egret.proxy(), Origin::echo());
    let mut secured = world.client();
    assert!(connect(&mut secured, echo.address).starts_with("HTTP/1.1 200 "));
    let settings = std::fs::read_to_string(world.folder.settings()).unwrap();
    world.folder.write("egret.yaml", &settings.replace(", tls: { certificate: own.pem, privateKey: own.key }", ""));
    assert!(world.egret.reload().contains("reloaded"));
    let mut plain = dial(proxy);
    assert!(connect(&mut plain, echo.address).starts_with("HTTP/1.1 200 "));
    assert!(echoes(&mut plain, b"in the clear") && back_and_forth(&mut secured, b"in its session"));
    world.folder.write("egret.yaml", &settings);
    assert!(world.egret.reload().contains("reloaded"));
    assert!(connect(&mut world.client(), echo.address).starts_with("HTTP/1.1 200 "));
}

#[test]
fn check_names_what_is_wrong_with_certificates() {
    let (folder, authority) = (Folder::new(), Authority::new());
    authority.issue(&folder, "own", &["proxy.example"]);
    authority.issue(&folder, "other", &["proxy.example"]);
    authority.issue_expired(&folder, "old", &["proxy.example"]);
    let check = |tls: &str, code: i32| {
        folder.write("egret.yaml", &format!("listeners: [{{ tls: {{ {tls} }} }}]\n"));
        let out = egret(&["check".as_ref(), "--strict".as_ref(), "-c".as_ref(), folder.settings().as_os_str()]);
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert_eq!(out.status.code(), Some(code), "{text}");
        text
    };
    check("certificate: own.pem, privateKey: own.key", 0);
    let text = check("certificate: own.pem, privateKey: other.key", 65);
    assert!(text.contains("E045") && text.contains("other.key: does not belong to the certificate"), "{text}");
    assert!(text.contains("egret.yaml:1:56"), "{text}");
    let text = check("certificate: nowhere.pem, privateKey: own.key", 65);
    assert!(text.contains("E002") && text.contains("nowhere.pem: No such file"), "{text}");
    let text = check("certificate: own.key, privateKey: own.key", 65);
    assert!(text.contains("E045") && text.contains("no certificate (BEGIN CERTIFICATE) in it"), "{text}");
    let text = check("certificate: old.pem, privateKey: old.key", 1);
    assert!(text.contains("W045") && text.contains("has expired on 2002-01-01T00:00:00Z"), "{text}");
}

#[test]
fn the_end_of_each_certificate_is_a_metric() {
    let world = World::new(Setup {
        listeners: "{ name: proxy, address: \"127.0.0.1:0\", tls: { certificate: own.pem, privateKey: own.key, clientCa: ca.pem } }",
        ..Setup::default()
    });
    for role in ["certificate", "clientCa"] {
        let row = format!("egret_certificate_expiry_timestamp_seconds{{listener=\"proxy\",role=\"{role}\"}}");
        assert!(count(&world.egret, &row) > 4_000_000_000, "{row}");
    }
}

#[test]
fn openssl_agrees_on_the_protocol_that_the_settings_put_first() {
    let negotiated = |alpn: &str, offered: &str| {
        let listeners = format!(
            "{{ name: proxy, address: \"127.0.0.1:0\", tls: {{ certificate: own.pem, privateKey: own.key, {alpn} }} }}"
        );
        let world = World::new(Setup { listeners: &listeners, ..Setup::default() });
        let mut openssl = command("openssl");
        openssl.args(["s_client", "-connect", &world.egret.proxy().to_string(), "-alpn", offered, "-CAfile"]);
        let ran = run(openssl.arg(world.folder.path().join("ca.pem")));
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix("ALPN protocol: ")).map(str::to_owned);
        line.unwrap_or_else(|| ran.stdout.lines().filter(|line| line.contains("ALPN")).collect())
    };
    assert_eq!(negotiated("", "h2,http/1.1"), "http/1.1", "Go before 1.24 offers h2 to a proxy and cannot use it");
    assert_eq!(negotiated("alpn: [http/1.1, h2]", "h2,http/1.1"), "http/1.1");
    assert_eq!(negotiated("alpn: [h2, http/1.1]", "http/1.1,h2"), "h2");
}
