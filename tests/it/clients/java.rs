//! Java's two: `java.net.http.HttpClient`, and `HttpURLConnection` as the system properties configure it.

use super::{REFUSED, REFUSING, TUNNELLED, World};
use crate::support::peer::{Ran, command, run};

const PROGRAM: &str = r#"
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.*;

class Ask {
    public static void main(String[] args) throws Exception {
        KeyStore roots = KeyStore.getInstance(KeyStore.getDefaultType());
        roots.load(null, null);
        try (InputStream pem = Files.newInputStream(Path.of(args[1]))) {
            roots.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(roots);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        try {
            for (int n = 3; n < args.length; n++) {
                if (args[0].equals("client")) client(tls, Integer.parseInt(args[2]), args[n]);
                else connection(tls, args[n]);
            }
        } catch (IOException error) {
            System.err.println(error);
            System.exit(1);
        }
    }

    static void client(SSLContext tls, int port, String url) throws Exception {
        HttpClient client = HttpClient.newBuilder().sslContext(tls)
            .proxy(ProxySelector.of(new InetSocketAddress("127.0.0.1", port))).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url))
            .POST(HttpRequest.BodyPublishers.ofString("from Java")).build();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body().strip());
    }

    static void connection(SSLContext tls, String url) throws Exception {
        HttpsURLConnection.setDefaultSSLSocketFactory(tls.getSocketFactory());
        HttpURLConnection connection = (HttpURLConnection) new URL(url).openConnection();
        connection.setDoOutput(true);
        connection.getOutputStream().write("from Java".getBytes());
        int status = connection.getResponseCode();
        InputStream body = status < 400 ? connection.getInputStream() : connection.getErrorStream();
        System.out.println(status + " " + new String(body.readAllBytes()).strip());
    }
}
"#;

fn java(world: &World, which: &str, urls: &[&str]) -> Ran {
    let source = world.folder.write("Ask.java", PROGRAM);
    let port = world.egret.proxy().port().to_string();
    let mut java = command("java");
    for scheme in ["http", "https"] {
        java.arg(format!("-D{scheme}.proxyHost=127.0.0.1")).arg(format!("-D{scheme}.proxyPort={port}"));
    }
    java.arg("-XX:TieredStopAtLevel=1").arg(source).arg(which).arg(&world.ca).arg(port);
    run(java.args(urls))
}

#[test]
fn both_reach_plain_and_secure_origins() {
    let world = World::new();
    for (n, which) in ["client", "connection"].iter().enumerate() {
        let urls = [world.http(&format!("/{which}")), world.https(&format!("/{which}"))];
        let ran = java(&world, which, &[&urls[0], &urls[1]]);
        assert_eq!(ran.succeeded(), "200 from Java\n".repeat(2), "{which}");
        let head = &world.plain.requests()[n];
        assert!(head.starts_with(&format!("POST /{which} HTTP/1.1\r\n")), "{head}");
        // HttpClient asks every plain origin for h2c: that is between it and us.
        assert!(!head.to_lowercase().contains("http2-settings"), "{head}");
        world.egret.record(&format!("/{which}\"")).shows(&[("response_code", "200"), ("response_flags", "-")]);
        world.egret.nth_record("CONNECT", n + 1).shows(TUNNELLED);
    }
}

#[test]
fn a_refused_tunnel_is_shown() {
    let world = World::with(REFUSING);
    // HttpClient takes the refusal for the origin's answer, as its manual says.
    let ran = java(&world, "client", &[&world.https("/")]);
    assert!(ran.stdout.starts_with("403") || ran.stderr.contains("403"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
    let ran = java(&world, "connection", &[&world.https("/")]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("HTTP/1.1 403 Destination Not Allowed"), "{ran:?}");
    let port = world.plain.address.port();
    for which in ["client", "connection"] {
        let ran = java(&world, which, &[&world.http("/")]);
        assert_eq!(
            ran.succeeded(),
            format!("403 egret: no route allows plain.example:{port} (not_found)\n"),
            "{which}"
        );
    }
}
