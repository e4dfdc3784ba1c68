//! Which targets go through a parent and which do not: lists of the settings, and the annotation `egret.dev/via`.

use std::process::Output;

use serde_json::Value;

use super::{parent, rule};
use crate::support::certificates::Authority;
use crate::support::egret::egret as run_egret;
use crate::support::origin::{Origin, field};
use crate::support::squid::{Squid, Squidly};
use crate::support::{Egret, Folder, Setup, client};

const NAMES: &[&str] =
    &["origin.example", "far.example", "api.far.example", "near.example", "www.near.example", "plain.example"];

/// A squid, an echo, and a proxy that reaches both.
struct World {
    squid: Squid,
    echo: Origin,
    folder: Folder,
    egret: Egret,
}

impl World {
    fn new(mesh: &str, parents: &str, rules: impl Fn(u16) -> String) -> Self {
        let squid = Squid::start(Squidly { hosts: NAMES, ..Squidly::default() }, &Authority::new());
        let echo = Origin::echo();
        let folder = Folder::new();
        let rules = parent(squid.plain().port()) + &rules(echo.address.port());
        let parents = parents.replace("PORT", &echo.address.port().to_string());
        let egret = Setup { mesh, more: &parents, rules: &rules, hosts: NAMES, ..Setup::default() }.start(&folder);
        Self { squid, echo, folder, egret }
    }

    /// True if a tunnel to this host goes through the parent; it works either way.
    fn goes_through(&self, host: &str, n: usize) -> bool {
        let target = format!("{host}:{}", self.echo.address.port());
        let mut tunnel = client::tunnel(self.egret.proxy(), &target);
        assert!(client::echoes(&mut tunnel, host.as_bytes()), "{host}");
        drop(tunnel);
        let record = self.egret.nth_record(&target, n);
        record.shows(&[("response_code", "200"), ("response_flags", "-")]);
        let hop = record.get("hop");
        assert!(hop.is_empty() || hop == self.squid.plain().to_string(), "{hop}");
        !hop.is_empty()
    }

    fn explain(&self, host: &str) -> Value {
        let settings = self.folder.path().join("egret.yaml");
        let target = format!("{host}:{}", self.echo.address.port());
        let Output { stdout, stderr, .. } =
            run_egret(&["explain", "-c", settings.to_str().unwrap(), "-o", "json", &target]);
        serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)))
    }
}

#[test]
fn unknown_targets_follow_the_most_specific_entry_and_egress_proxy_where_there_is_none() {
    let world = World::new(
        super::BY_POLICY,
        "parents: { always: [api.far.example], never: [far.example, .near.example, 127.0.0.0/8] }",
        |_| String::new(),
    );
    for (host, through, by) in [
        ("origin.example", true, "mesh.outboundTrafficPolicy"),
        ("far.example", false, "parents.never[0]"),
        ("api.far.example", true, "parents.always[0]"),
        ("near.example", true, "mesh.outboundTrafficPolicy"),
        ("www.near.example", false, "parents.never[1]"),
        ("127.0.0.1", false, "parents.never[2]"),
    ] {
        assert_eq!(world.goes_through(host, 1), through, "{host}");
        let explained = world.explain(host);
        let said = if through { &explained["via"][0]["by"] } else { &explained["straight"]["by"] };
        assert_eq!(said, by, "{explained}");
        let at = if through { &explained["via"][0]["at"] } else { &explained["straight"]["at"] };
        assert!(at.as_str().is_some_and(|at| at.contains("egret.yaml:")), "{explained}");
        assert_eq!(explained["via"].as_array().map(Vec::len), Some(usize::from(through)));
        let route = explained["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "route").unwrap();
        assert!(route["text"].as_str().unwrap().contains(by), "{route}");
    }
}

#[test]
fn known_services_go_through_the_parent_of_the_list_and_an_annotation_counts_more() {
    let service = |host: &str, annotations: &str, port: u16| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {}, annotations: {{ {annotations} }} }}\nspec:\n  hosts: [{host}]\n  resolution: DNS\n  ports: [{{ number: {port}, name: tcp, protocol: TCP }}]\n",
            host.replace('.', "-")
        )
    };
    let world = World::new(
        "outboundTrafficPolicy: { mode: REGISTRY_ONLY }",
        "parents: { through: \"parent.example:3128\", always: [\"*\"], never: [near.example] }",
        |port| {
            [
                service("origin.example", "", port),
                service("far.example", "egret.dev/via: direct", port),
                service("near.example", "", port),
                service("www.near.example", "egret.dev/via: \"parent.example:3128\"", port),
                service("plain.example", "", port),
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: plain, annotations: { egret.dev/via: direct } }\nspec: { host: plain.example }\n".to_owned(),
            ]
            .concat()
        },
    );
    for (host, through) in [
        ("origin.example", true),
        ("far.example", false),
        ("near.example", false),
        ("www.near.example", true),
        ("plain.example", false),
    ] {
        assert_eq!(world.goes_through(host, 1), through, "{host}");
    }
    let by = |host: &str, key: &str| world.explain(host)[key].clone();
    assert_eq!(by("far.example", "straight")["by"], "ServiceEntry default/far-example");
    assert_eq!(by("plain.example", "straight")["by"], "DestinationRule default/plain");
    assert_eq!(by("www.near.example", "via")[0]["by"], "ServiceEntry default/www-near-example");
    // The squid saw those, and no other.
    let line = world.squid.line("www.near.example");
    assert!(line.contains("TCP_TUNNEL/200"), "{line}");
}

#[test]
fn a_parent_that_is_not_there_fails_its_targets_and_is_named() {
    let world = World::new(
        "outboundTrafficPolicy: { mode: ALLOW_ANY }",
        "parents: { through: \"nobody.example:3128\", always: [origin.example] }",
        |_| String::new(),
    );
    let (_, head) = client::connect(world.egret.proxy(), format!("origin.example:{}", world.echo.address.port()));
    assert!(head.starts_with("HTTP/1.1 503 Proxy Configuration Error\r\n"), "never straight in its place: {head}");
    world.egret.record("origin.example").shows(&[("response_flags", "NC"), ("response_code", "503")]);
    assert!(!world.goes_through("far.example", 1));
    let line = world.egret.stderr.wait_for("W180");
    assert!(line.contains("parents.through") && line.contains("nobody.example"), "{line}");
}

/// Plain in, CONNECT to the parent, TLS inside of it: what Envoy needs two hops for.
#[test]
fn tls_is_originated_inside_the_tunnel_whatever_the_parent_is() {
    let authority = Authority::new();
    let squid =
        Squid::start(Squidly { hosts: NAMES, login: Some(("egret", "pass")), ..Squidly::default() }, &authority);
    let open = Squid::start(Squidly { hosts: NAMES, ..Squidly::default() }, &authority);
    let origin = Origin::mirror_tls(authority.server(&["origin.example"]));
    let other = Origin::mirror_tls(authority.server(&["other.example"]));
    let folder = Folder::new();
    let ca = authority.write(&folder, "ca.pem");
    let login = "egret.dev/proxy-authorization: \"secret://login\"";
    let to_parent = format!("trafficPolicy: {{ tls: {{ mode: SIMPLE, caCertificates: {} }} }}", ca.display());
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: { name: login }\nstringData: { username: egret, password: pass }\n";
    for (port, annotations, policy, squid) in [
        (open.plain().port(), "", "", &open),
        (squid.plain().port(), login, "", &squid),
        (open.tls().port(), "", &*to_parent, &open),
        (squid.tls().port(), login, &*to_parent, &squid),
    ] {
        let rules = format!(
            "{}{}{secret}---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: origin, annotations: {{ egret.dev/via: \"parent.example:3128\" }} }}
spec:
  hosts: [origin.example]
  resolution: DNS
  ports:
  - {{ number: 80, name: http, protocol: HTTP, targetPort: {} }}
  - {{ number: 81, name: http-wrong, protocol: HTTP, targetPort: {} }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: origin }}
spec:
  host: origin.example
  trafficPolicy: {{ tls: {{ mode: SIMPLE, caCertificates: {} }} }}
",
            parent(port),
            rule(annotations, policy),
            origin.address.port(),
            other.address.port(),
            ca.display()
        );
        let egret = Setup { mesh: "outboundTrafficPolicy: { mode: REGISTRY_ONLY }", rules: &rules, ..Setup::default() }
            .start(&folder);
        let before = origin.requests().len();
        for n in 1..=2 {
            let answer = client::get(egret.proxy(), &format!("http://origin.example/inside{n}"));
            assert_eq!(answer.status, 200, "{}", answer.head);
            egret.record(&format!("/inside{n}")).shows(&[
                ("response_code", "200"),
                ("response_flags", "-"),
                ("upstream_cluster", "outbound|80||origin.example"),
                ("hop", &format!("127.0.0.1:{port}")),
                ("reused", if n == 1 { "false" } else { "true" }),
            ]);
        }
        let head = &origin.requests()[before];
        assert!(
            head.starts_with("GET /inside1 HTTP/1.1\r\n") && field(head, "host") == Some("origin.example"),
            "{head}"
        );
        // The certificate is held against the origin's name, not the parent's.
        let answer = client::get(egret.proxy(), "http://origin.example:81/wrong");
        assert!(answer.head.starts_with("HTTP/1.1 502 Upstream Certificate Invalid\r\n"), "{}", answer.head);
        let record = egret.record("/wrong");
        record.shows(&[("response_flags", "UF"), ("reason", "tls_certificate_error")]);
        assert!(record.get("upstream_transport_failure_reason").contains("other.example"), "{record:?}");
        drop(egret);
        let line = squid.line(&format!("CONNECT origin.example:{}", origin.address.port()));
        assert!(line.contains("TCP_TUNNEL/200"), "{line}");
    }
}

#[test]
fn credentials_rotate_three_times_and_the_next_connect_has_the_new_ones() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    let parent_origin = Origin::new(move |mut stream| {
        let Some(head) = crate::support::origin::read_head(&mut stream) else { return };
        log.lock().unwrap().push(field(&head, "proxy-authorization").unwrap_or_default().to_owned());
        let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n");
        if let Ok(mut reader) = stream.try_clone() {
            let _ = std::io::copy(&mut reader, &mut stream);
        }
    });
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("mounted")).unwrap();
    let from_file = format!("egret.dev/proxy-authorization: \"file://{}/login\"", folder.path().display());
    let from_secret = "egret.dev/proxy-authorization: \"secret://login\"".to_owned();
    let more = format!("secrets: [{{ name: login, dir: {}/mounted }}]", folder.path().display());
    for (annotation, file, spell) in [(from_file, "login", "Bearer "), (from_secret, "mounted/token", "")] {
        let write = |n: usize| folder.write(file, &format!("{spell}token-{n}\n"));
        write(0);
        let rules = parent(parent_origin.address.port()) + &rule(&annotation, "");
        let egret = Setup { more: &more, ..super::by_policy(&rules) }.start(&folder);
        for n in 0..=3 {
            if n > 0 {
                write(n);
                egret.stderr.wait_for_nth("reloaded", n);
            }
            seen.lock().unwrap().clear();
            assert!(client::echoes(&mut client::tunnel(egret.proxy(), "origin.example:443"), b"x"));
            assert_eq!(*seen.lock().unwrap(), [format!("Bearer token-{n}")], "{file}");
        }
        assert!(
            !egret.stderr.so_far().concat().contains("token-") && !egret.stdout.so_far().concat().contains("token-")
        );
    }
}
