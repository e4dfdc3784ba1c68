//! Chromium, by `--proxy-server`: to a proxy behind TLS it speaks HTTP/2 where it may, each tunnel a stream.

use super::{OPENED, REFUSED, REFUSING, World};
use crate::support::certificates::Authority;
use crate::support::chromium::Chromium;
use crate::support::nginx::Nginx;
use crate::support::{Folder, Setup};

/// A page that is whole once it has fetched ten more files, half of them from a second host.
const PAGE: &str = "<!DOCTYPE html><title>waiting</title><script>
const hosts = [location.host, location.host.replace('secure', 'other')];
Promise.all([...Array(10).keys()].map((n) => fetch('https://' + hosts[n % 2] + '/part?' + n, { mode: 'cors' })
    .then((answer) => answer.text())))
    .then((parts) => { document.title = parts.join(''); }, (error) => { document.title = 'failed: ' + error; });
</script>";

fn web() -> (Folder, Nginx) {
    let folder = Folder::new();
    folder.write("www/page.html", PAGE);
    folder.write("www/part", "p");
    let certificate = Authority::new().issue(&folder, "web", &["secure.example", "other.example"]);
    let nginx =
        Nginx::start(&folder, "add_header Access-Control-Allow-Origin *; types { text/html html; }", &certificate);
    (folder, nginx)
}

#[test]
fn pages_come_through_tunnels_of_either_protocol() {
    let (_folder, nginx) = web();
    let port = nginx.tls().port();
    let hosts = &["secure.example", "other.example"];
    let tls = |alpn: &str| {
        format!(
            "{{ name: proxy, address: \"127.0.0.1:0\", tls: {{ certificate: own.pem, privateKey: own.key, alpn: [{alpn}] }} }}"
        )
    };
    for (listeners, scheme, protocol) in [
        (String::new(), "http", "HTTP/1.1"),
        (tls("http/1.1"), "https", "HTTP/1.1"),
        (tls("h2, http/1.1"), "https", "HTTP/2"),
    ] {
        let folder = Folder::new();
        Authority::new().issue(&folder, "own", &["127.0.0.1"]);
        let egret = Setup { listeners: &listeners, hosts, ..Setup::default() }.start(&folder);
        let proxy = format!("{scheme}://{}", egret.proxy());
        let mut page = Chromium::open_through(&proxy, &format!("https://secure.example:{port}/page.html"));
        page.until("document.title === 'pppppppppp'");
        if protocol == "HTTP/2" {
            assert!(egret.metric("egret_http2_streams_total") >= 2); // of how many connections is Chromium's choice
        }
        drop(page);
        for host in hosts {
            let record = egret.record(&format!("\"{host}:{port}\""));
            record.shows(OPENED);
            record.shows(&[("protocol", protocol)]);
        }
    }
}

#[test]
fn a_refusal_is_the_page_or_an_error_of_the_tunnel() {
    let world = World::with(REFUSING);
    let mut page = Chromium::open_through(&world.proxy(), &world.http("/"));
    let text = page.value("document.body.innerText");
    let port = world.plain.address.port();
    assert_eq!(
        text.as_str().map(str::trim),
        Some(&*format!("egret: no route allows plain.example:{port} (not_found)"))
    );
    drop(page);
    let mut page = Chromium::open_through(&world.proxy(), &world.https("/"));
    page.until("document.body.innerText.includes('ERR_TUNNEL_CONNECTION_FAILED')");
    world.egret.record("CONNECT").shows(REFUSED);
}
