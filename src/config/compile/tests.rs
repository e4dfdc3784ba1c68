//! Documents to decisions: what a flow meets under whole configurations.

use std::path::Path;
use std::sync::Arc;

use crate::config::Diagnostics;
use crate::config::load::{Configuration, Sources};
use crate::route::sample::{ask, verdict, with_flow};
use crate::route::upstream_http::UpstreamVersion;
use crate::route::{Choice, Discovery, Via};

mod balancing;
mod credentials;
mod kubernetes;
mod mesh;
mod parents;
mod routes;
mod shared;

/// A configuration of one settings file and one resource file.
struct Loaded {
    configuration: Configuration,
}

fn load(settings: &str, resources: &str) -> Loaded {
    let folder = tempfile::tempdir().expect("a folder");
    load_in(folder.path(), settings, resources)
}

fn load_in(folder: &Path, settings: &str, resources: &str) -> Loaded {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let sources = Sources {
        settings: Some(write("egret.yaml", settings)),
        resources: vec![(None, write("rules.yaml", resources))],
        ..Sources::default()
    };
    Loaded { configuration: Configuration::load(&sources, 1) }
}

impl Loaded {
    fn ask(&self, what: &str) -> Choice {
        ask(&self.configuration.snapshot, what)
    }

    fn verdict(&self, what: &str) -> String {
        verdict(&self.ask(what))
    }

    fn diagnostics(&self) -> &Diagnostics {
        &self.configuration.diagnostics
    }

    /// Codes and paths of all diagnostics.
    fn problems(&self) -> Vec<String> {
        let diagnostics = self.diagnostics().iter();
        diagnostics.map(|diagnostic| format!("{} {}", diagnostic.code, diagnostic.path)).collect()
    }

    #[track_caller]
    fn clean(self) -> Self {
        assert!(self.diagnostics().is_empty(), "{}", self.diagnostics().render(false));
        self
    }
}

const REGISTRY_ONLY: &str = "mesh: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\n";

fn service_entry(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n{}\n",
        indent(spec)
    )
}

fn resource(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec:\n{}\n",
        indent(spec)
    )
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn discovery(choice: &Choice) -> String {
    let cluster = &choice.verdict.as_ref().expect("allowed").cluster;
    let list = |endpoints: &[crate::route::cluster::Endpoint]| {
        let endpoints = endpoints.iter().map(|endpoint| match &endpoint.at {
            crate::route::cluster::EndpointAddress::Host(host, port) => format!("{host}:{port}"),
            crate::route::cluster::EndpointAddress::Unix(path) => path.display().to_string(),
        });
        endpoints.collect::<Vec<_>>().join(" ")
    };
    match &cluster.discovery {
        Discovery::Asked { port: Some(port) } => format!("asked, port {port}"),
        Discovery::Asked { port: None } => "asked".to_owned(),
        Discovery::Dns { endpoints, .. } => format!("dns {}", list(endpoints)),
        Discovery::Static(endpoints) => format!("static {}", list(endpoints)),
        Discovery::Missing(why) => format!("missing: {why}"),
    }
}

/// CONTRACT, first table of "Explicit listeners".
#[test]
fn each_resolution_is_asked_and_dialled_as_the_contract_says() {
    let entry = |name: &str, spec: &str| service_entry(name, spec);
    let rules = [
        entry(
            "none",
            "hosts: [none.test, '*.none.test']\naddresses: [192.0.2.0/24]\nports: [{ number: 443, name: tls, protocol: TLS, targetPort: 8443 }]\nresolution: NONE",
        ),
        entry(
            "dynamic",
            "hosts: ['*.dynamic.test']\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: DYNAMIC_DNS",
        ),
        entry(
            "dns",
            "hosts: [dns.test]\naddresses: [198.51.100.1]\nports: [{ number: 443, name: tls, protocol: TLS, targetPort: 8443 }]\nresolution: DNS",
        ),
        entry(
            "endpoints",
            "hosts: [endpoints.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: DNS\nendpoints: [{ address: a.test, ports: { tls: 444 } }, { address: b.test }]",
        ),
        entry(
            "robin",
            "hosts: [robin.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: DNS_ROUND_ROBIN",
        ),
        entry(
            "static",
            "hosts: [static.test]\naddresses: [198.51.100.2]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: STATIC\nendpoints: [{ address: 203.0.113.1 }]",
        ),
        entry(
            "headless",
            "hosts: [headless.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: STATIC\nendpoints: [{ address: 203.0.113.2 }, { address: 203.0.113.3 }]",
        ),
        entry("empty", "hosts: [empty.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: STATIC"),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    for (asked, expected) in [
        ("none.test:443", "asked, port 8443"),
        ("x.none.test:443", "asked, port 8443"),
        ("192.0.2.77:443", "asked, port 8443"),
        ("x.dynamic.test:443", "asked, port 443"),
        ("dns.test:443", "dns dns.test:8443"),
        ("198.51.100.1:443", "dns dns.test:8443"),
        ("endpoints.test:443", "dns a.test:444 b.test:443"),
        ("robin.test:443", "dns robin.test:443"),
        ("static.test:443", "static 203.0.113.1:443"),
        ("198.51.100.2:443", "static 203.0.113.1:443"),
        ("headless.test:443", "static 203.0.113.2:443 203.0.113.3:443"),
        ("203.0.113.3:443", "static 203.0.113.3:443"),
        ("empty.test:443", "static "),
    ] {
        assert_eq!(discovery(&loaded.ask(asked)), expected, "{asked}");
    }
    // A VIP hides the endpoints, and a literal never becomes a name.
    for asked in ["203.0.113.1:443", "192.0.2.77:8443", "198.51.100.1:80"] {
        assert!(loaded.ask(asked).verdict.is_err(), "{asked}");
    }
    assert_eq!(discovery(&load("", &rules.concat()).ask("unknown.test:443")), "asked");
}

/// CONTRACT, "CONNECT meets routes".
#[test]
fn connect_meets_routes_as_the_contract_says() {
    let ports = "ports: [{ number: 443, name: tls, protocol: TLS }, { number: 80, name: http, protocol: HTTP }, { number: 81, name: tcp, protocol: TCP }, { number: 82, name: auto }]\nresolution: DNS\naddresses: [%]";
    let entry = |name: &str, address: &str| {
        service_entry(name, &format!("hosts: [{name}.test]\n{}", ports.replace('%', address)))
    };
    let to = |port: u16| format!("route: [{{ destination: {{ host: elsewhere.test, port: {{ number: {port} }} }} }}]");
    let rules = [
        entry("plain", "198.51.100.1"),
        entry("routed", "198.51.100.2"),
        entry("originated", "198.51.100.3"),
        entry("elsewhere", "198.51.100.4"),
        resource(
            "VirtualService",
            "routed",
            &format!(
                "hosts: [routed.test]\nhttp:\n- name: by-http\n  {}\ntls:\n- match: [{{ port: 443, sniHosts: [routed.test] }}]\n  {}\ntcp:\n- match: [{{ port: 81, destinationSubnets: [198.51.100.0/24] }}]\n  {}",
                to(80),
                to(443),
                to(81)
            ),
        ),
        resource(
            "DestinationRule",
            "originated",
            "host: originated.test\ntrafficPolicy: { portLevelSettings: [{ port: { number: 80 }, tls: { mode: SIMPLE } }] }",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    let virtual_service = "VirtualService default/routed";
    for (asked, expected) in [
        // TLS: tls routes by target host, else the service.
        ("plain.test:443", "outbound|443||plain.test"),
        ("routed.test:443", "outbound|443||elsewhere.test"),
        // TCP kinds: tcp routes by port and subnet, against the literal, or the address of the service that is named.
        ("plain.test:81", "outbound|81||plain.test"),
        ("routed.test:81", "outbound|81||elsewhere.test"),
        ("198.51.100.2:81", "outbound|81||elsewhere.test"),
        // HTTP kinds: opaque unless something needs HTTP.
        ("plain.test:80", "outbound|80||plain.test"),
        ("routed.test:80", &format!("outbound|80||elsewhere.test terminated by {virtual_service}")),
        (
            "originated.test:80",
            "outbound|80||originated.test over TLS terminated by DestinationRule default/originated",
        ),
        ("originated.test:443", "outbound|443||originated.test"),
        // Not declared: by the first bytes where http rules exist.
        ("plain.test:82", "outbound|82||plain.test"),
        ("routed.test:82", &format!("outbound|82||routed.test detected for {virtual_service}")),
        // Plain requests.
        ("http://routed.test/", "outbound|80||elsewhere.test"),
        ("http://routed.test:82/", "outbound|80||elsewhere.test"),
        ("http://originated.test/", "outbound|80||originated.test over TLS"),
        ("https://plain.test/", "outbound|443||plain.test over TLS"),
        ("https://routed.test/", "outbound|443||elsewhere.test over TLS"),
        // By SNI.
        ("sni:plain.test:443", "outbound|443||plain.test"),
        ("sni:routed.test:443", "outbound|443||elsewhere.test"),
    ] {
        assert_eq!(loaded.verdict(asked), expected, "{asked}");
    }
    assert_eq!(&*loaded.ask("http://routed.test/").verdict.expect("allowed").name, "by-http");
}

#[test]
fn a_parent_proxy_takes_what_nobody_knows() {
    let settings = "mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: proxy.corp.test, port: { number: 3128 } } } }\nfiles: { root: / }\n";
    let rules = [
        service_entry("proxy", "hosts: [proxy.corp.test]\naddresses: [10.0.0.9]\nports: [{ number: 3128, name: tcp, protocol: TCP }]\nresolution: NONE"),
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: proxy\n  annotations: { egret.dev/proxy-authorization: 'secret://parent', egret.dev/proxy-http: absolute-form }\nspec:\n  host: proxy.corp.test\n  trafficPolicy: { connectionPool: { tcp: { connectTimeout: 3s } } }\n".to_owned(),
        "---\napiVersion: v1\nkind: Secret\nmetadata: { name: parent }\nstringData: { username: user, password: 'pa:ss' }\n".to_owned(),
    ];
    let loaded = load(settings, &rules.concat()).clean();
    let route = loaded.ask("unknown.test:443").verdict.expect("allowed");
    let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
    assert_eq!(&*route.cluster.name, "PassthroughCluster");
    assert_eq!(hop.authorization.as_ref().expect("credentials").value.as_deref(), Ok("Basic dXNlcjpwYTpzcw=="));
    assert!(hop.absolute_form && hop.target.is_none());
    assert_eq!(hop.cluster.connect_timeout.as_secs(), 3);
    assert!(hop.cluster.addresses.judge("10.0.0.9".parse().expect("an address")).is_ok());
    assert!(route.cluster.addresses.judge("10.0.0.9".parse().expect("an address")).is_err());
    assert_eq!(format!("{:?}", hop.authorization), "Some(Authorization(redacted))");
    // The parent itself is reached as any service.
    assert_eq!(loaded.verdict("proxy.corp.test:3128"), "outbound|3128||proxy.corp.test");
}

#[test]
fn a_missing_parent_or_credential_fails_flows_and_is_a_warning() {
    let settings = "mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: proxy.corp.test, port: { number: 3128 } } } }\n";
    let loaded = load(settings, "");
    assert_eq!(loaded.problems(), ["W180 mesh.outboundTrafficPolicy.egressProxy.host"]);
    assert_eq!(discovery(&loaded.ask("unknown.test:443")), "missing: no loaded resource declares proxy.corp.test");
    let rules = [
        service_entry("proxy", "hosts: [proxy.corp.test]\nports: [{ number: 3128, name: http, protocol: HTTP }]\nresolution: DNS"),
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: proxy\n  annotations: { egret.dev/proxy-authorization: 'file:///no/such/file' }\nspec:\n  host: proxy.corp.test\n".to_owned(),
    ];
    let loaded = load(settings, &rules.concat());
    assert_eq!(loaded.problems(), ["W183 metadata.annotations[\"egret.dev/proxy-authorization\"]"]);
    let route = loaded.ask("unknown.test:443").verdict.expect("allowed");
    let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
    let value = &hop.authorization.as_ref().expect("credentials").value;
    assert!(value.as_ref().is_err_and(|why| why.starts_with("/no/such/file: ")), "{value:?}");
}

#[test]
fn a_tunnel_leads_to_its_fixed_target_by_way_of_the_proxy() {
    let rules = [
        service_entry(
            "proxy",
            "hosts: [proxy.corp.test]\nports: [{ number: 3128, name: http-connect, protocol: HTTP }]\nresolution: STATIC\nendpoints: [{ address: 192.0.2.9 }]",
        ),
        service_entry(
            "far",
            "hosts: [far.test]\naddresses: [240.0.0.1]\nports: [{ number: 443, name: tls, protocol: TLS }, { number: 86, name: tcp, protocol: TCP }]\nresolution: DNS",
        ),
        resource(
            "DestinationRule",
            "tunnel",
            "host: proxy.corp.test\ntrafficPolicy: { tls: { mode: SIMPLE, sni: proxy.corp.test } }\nsubsets:\n- name: tls\n  trafficPolicy: { tunnel: { targetHost: far.example, targetPort: 443 } }\n- name: plain",
        ),
        resource(
            "VirtualService",
            "far",
            "hosts: [far.test]\ntls:\n- match: [{ sniHosts: [far.test] }]\n  route: [{ destination: { host: proxy.corp.test, subset: tls, port: { number: 3128 } } }]\ntcp:\n- route: [{ destination: { host: proxy.corp.test, subset: plain } }]",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    let route = loaded.ask("far.test:443").verdict.expect("allowed");
    let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
    assert_eq!(&*route.cluster.name, "outbound|3128|tls|proxy.corp.test");
    assert!(route.cluster.tls.is_none(), "the proxy's TLS is not the target's");
    assert!(hop.cluster.tls.is_some());
    assert_eq!(hop.target.as_ref().expect("a target").to_string(), "far.example:443");
    let route = loaded.ask("far.test:86").verdict.expect("allowed");
    assert!(matches!(route.cluster.via, Via::Direct), "a subset without tunnel has none");
    assert_eq!(&*route.cluster.name, "outbound|3128|plain|proxy.corp.test");
}

#[test]
fn one_line_entries_stand_for_service_entries() {
    let settings = format!(
        "{REGISTRY_ONLY}allow: [api.github.test, '*.pypi.test:443', '10.0.0.5:5432', '10.1.0.0/16', 'db.test:5432', '[2001:db8::1]:25', mx.test:25]\n"
    );
    let rules =
        service_entry("db", "hosts: [db.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: NONE");
    let loaded = load(&settings, &rules).clean();
    for (asked, expected) in [
        ("api.github.test:443", "dns api.github.test:443"),
        ("http://api.github.test/", "dns api.github.test:80"),
        ("files.pypi.test:443", "asked, port 443"),
        ("10.0.0.5:5432", "asked, port 5432"),
        ("10.1.2.3:443", "asked, port 443"),
        ("db.test:443", "asked, port 443"),
        ("db.test:5432", "dns db.test:5432"),
        ("[2001:db8::1]:25", "asked, port 25"),
        ("mx.test:25", "dns mx.test:25"),
    ] {
        assert_eq!(discovery(&loaded.ask(asked)), expected, "{asked}");
    }
    for asked in ["files.pypi.test:80", "10.0.0.5:5433", "10.0.0.6:5432", "api.github.test:8443"] {
        assert!(loaded.ask(asked).verdict.is_err(), "{asked}");
    }
    let choice = loaded.ask("10.0.0.5:5432");
    let route = choice.verdict.expect("allowed");
    assert!(route.cluster.addresses.judge("10.0.0.5".parse().expect("an address")).is_ok());
    assert_eq!((route.origin.line, &*route.origin.resource), (2, "allow[2]"));
    assert!(route.origin.file.ends_with("egret.yaml"));
}

#[test]
fn wrong_one_line_entries_are_named() {
    let entries = ["*", "a b", "host:", "host:0", "host:65536", "1.2.3.4.5", "a.*.com", "", "http://a.com", "0x7f.1"];
    let settings = format!("allow: {entries:?}\n");
    let loaded = load(&settings, "");
    let expected: Vec<String> = (0..entries.len()).map(|index| format!("E180 allow[{index}]")).collect();
    assert_eq!(loaded.problems(), expected);
}

#[test]
fn the_own_namespace_comes_first_then_the_oldest_and_equals_add_their_ports() {
    let entry = |name: &str, namespace: &str, more: &str, port: u16, resolution: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name}, namespace: {namespace}{more} }}\nspec:\n  hosts: [a.test]\n  ports: [{{ number: {port}, name: tls, protocol: TLS }}]\n  resolution: {resolution}\n"
        )
    };
    let old = ", creationTimestamp: '2020-01-01T00:00:00Z'";
    let rules = [
        entry("other", "other", old, 441, "DNS"),
        entry("young", "default", "", 442, "DNS"),
        entry("twin", "default", "", 443, "DNS"),
        entry("none", "default", "", 444, "NONE"),
        entry("twin-port", "default", "", 443, "DNS"),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    assert_eq!(loaded.verdict("a.test:442"), "outbound|442||a.test");
    assert_eq!(loaded.verdict("a.test:443"), "outbound|443||a.test");
    assert!(loaded.ask("a.test:441").verdict.is_err() && loaded.ask("a.test:444").verdict.is_err());
    assert_eq!(loaded.problems(), ["W184 spec.hosts[0]", "W184 spec.hosts[0]", "W185 spec.ports[0]"]);
    // Seen from a third namespace the oldest wins.
    let settings = format!("{REGISTRY_ONLY}workload: {{ namespace: third }}\n");
    let loaded = load(&settings, &rules.concat());
    let view = &loaded.configuration.snapshot.views["third"];
    assert_eq!(view.ports_of("a.test").expect("known").iter().map(|service| service.port).collect::<Vec<_>>(), [441]);
}

#[test]
fn export_to_hides_what_is_not_for_the_namespace() {
    let entry = |host: &str, namespace: &str, export: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {host}, namespace: {namespace} }}\nspec:\n  hosts: [{host}.test]\n  ports: [{{ number: 443, name: tls, protocol: TLS }}]\n  resolution: DNS\n  exportTo: {export}\n"
        )
    };
    let rules = [
        entry("all", "other", "['*']"),
        entry("own", "default", "['.']"),
        entry("named", "other", "[default]"),
        entry("hidden", "other", "['.']"),
        entry("nobody", "default", "['~']"),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    for (asked, allowed) in [("all", true), ("own", true), ("named", true), ("hidden", false), ("nobody", false)] {
        assert_eq!(loaded.ask(&format!("{asked}.test:443")).is_allowed(), allowed, "{asked}");
    }
}

#[test]
fn the_rule_of_the_clients_namespace_wins_then_the_services_then_the_root_s() {
    let rule = |namespace: &str, host: &str, seconds: u16, export: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: r{seconds}, namespace: {namespace} }}\nspec:\n  host: '{host}'\n  exportTo: {export}\n  trafficPolicy: {{ connectionPool: {{ tcp: {{ connectTimeout: {seconds}s }} }} }}\n"
        )
    };
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: a, namespace: services }\nspec:\n  hosts: [a.test, b.test]\n  ports: [{ number: 443, name: tls, protocol: TLS }]\n  resolution: DNS\n";
    let timeout = |rules: &[String], asked: &str| {
        let loaded = load("", &format!("{entry}{}", rules.concat()));
        let route = loaded.ask(asked).verdict.expect("allowed");
        route.cluster.connect_timeout.as_secs()
    };
    let (client, service, root) = (
        rule("default", "*.test", 1, "['.']"),
        rule("services", "a.test", 2, "['*']"),
        rule("istio-system", "a.test", 3, "['*']"),
    );
    assert_eq!(timeout(&[client.clone(), service.clone(), root.clone()], "a.test:443"), 1);
    assert_eq!(timeout(&[service.clone(), root.clone()], "a.test:443"), 2);
    assert_eq!(timeout(std::slice::from_ref(&root), "a.test:443"), 3);
    assert_eq!(timeout(&[rule("services", "a.test", 2, "['.']"), root], "a.test:443"), 3, "not exported");
    // In one namespace the most specific host wins.
    assert_eq!(timeout(&[client.clone(), rule("default", "a.test", 4, "['*']")], "a.test:443"), 4);
    assert_eq!(timeout(&[client, rule("default", "a.test", 4, "['*']")], "b.test:443"), 1);
    assert_eq!(timeout(&[], "a.test:443"), 10, "the mesh's default");
}

#[test]
fn port_settings_replace_and_subset_settings_are_laid_over() {
    let rules = [
        service_entry(
            "a",
            "hosts: [a.test]\nports: [{ number: 443, name: tls, protocol: TLS }, { number: 80, name: http, protocol: HTTP }]\nresolution: DNS",
        ),
        resource(
            "DestinationRule",
            "a",
            "host: a.test\ntrafficPolicy:\n  connectionPool: { tcp: { connectTimeout: 1s, idleTimeout: 5s } }\n  loadBalancer: { simple: RANDOM }\n  portLevelSettings:\n  - port: { number: 80 }\n    tls: { mode: SIMPLE }\nsubsets:\n- name: s\n  trafficPolicy: { loadBalancer: { simple: ROUND_ROBIN } }",
        ),
        resource(
            "VirtualService",
            "a",
            "hosts: [a.test]\ntls:\n- match: [{ sniHosts: [a.test] }]\n  route: [{ destination: { host: a.test, subset: s, port: { number: 443 } } }]",
        ),
    ];
    let loaded = load("", &rules.concat()).clean();
    let cluster = |asked: &str| loaded.ask(asked).verdict.expect("allowed").cluster;
    let http = cluster("http://a.test/");
    assert_eq!(http.connect_timeout.as_secs(), 10, "left out of the port's settings: back to the default");
    assert!(http.idle_timeout().is_none() && http.tls.is_some());
    let subset = cluster("a.test:443");
    assert_eq!((&*subset.name, subset.connect_timeout.as_secs()), ("outbound|443|s|a.test", 1));
    assert_eq!(subset.balancing, crate::route::cluster::Balancing::RoundRobin);
}

#[test]
fn references_to_missing_things_are_warnings_and_fail_flows() {
    let rules = [
        service_entry(
            "a",
            "hosts: [a.test]\nports: [{ number: 80, name: http, protocol: HTTP }, { number: 443, name: tls, protocol: TLS }]\nresolution: DNS",
        ),
        resource(
            "VirtualService",
            "a",
            "hosts: [a.test]\nhttp:\n- route: [{ destination: { host: b.test } }]\ntls:\n- match: [{ sniHosts: [a.test] }]\n  route: [{ destination: { host: a.test, subset: v1, port: { number: 443 } } }]",
        ),
        resource("DestinationRule", "c", "host: c.test\ntrafficPolicy: { loadBalancer: { simple: RANDOM } }"),
        resource(
            "VirtualService",
            "d",
            "hosts: [d.test]\nhttp:\n- route: [{ destination: { host: a.test, port: { number: 80 } } }]",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    assert_eq!(
        loaded.problems(),
        [
            "W180 spec.http[0].route[0].destination.host",
            "W181 spec.tls[0].route[0].destination.subset",
            "W187 spec.host",
            "W187 spec.hosts[0]",
        ]
    );
    assert_eq!(discovery(&loaded.ask("http://a.test/")), "missing: no loaded resource declares b.test");
    assert_eq!(discovery(&loaded.ask("a.test:443")), "missing: no DestinationRule declares a subset v1 of a.test");
    assert_eq!(loaded.verdict("http://d.test/"), "outbound|80||a.test", "as in Istio, on port 80");
    assert!(loaded.ask("d.test:443").verdict.is_err());
}

#[test]
fn a_missing_file_never_becomes_plaintext_or_weaker_trust() {
    let rules = [
        service_entry(
            "a",
            "hosts: [a.test]\nports: [{ number: 80, name: http, protocol: HTTP, targetPort: 443 }]\nresolution: DNS",
        ),
        resource(
            "DestinationRule",
            "a",
            "host: a.test\ntrafficPolicy: { tls: { mode: SIMPLE, caCertificates: /no/such/ca.pem } }",
        ),
    ];
    let loaded = load("", &rules.concat());
    assert_eq!(loaded.problems(), ["W183 spec.trafficPolicy.tls.caCertificates"]);
    let route = loaded.ask("http://a.test/").verdict.expect("planned");
    let tls = route.cluster.tls.as_ref().expect("TLS is planned all the same");
    assert!(tls.client.as_ref().is_err_and(|why| why.starts_with("/no/such/ca.pem: ")));
    assert!(loaded.configuration.inputs.contains(&"/no/such/ca.pem".into()), "its appearance calls for a reload");
}

#[test]
fn annotations_open_addresses_of_one_service_only() {
    let rules = [
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: open\n  annotations: { egret.dev/allow-addresses: '10.0.0.0/8, fd00::/8', egret.dev/source: 192.0.2.1 }\nspec:\n  hosts: [open.test]\n  ports: [{ number: 443, name: tls, protocol: TLS }]\n  resolution: DNS\n".to_owned(),
        service_entry("closed", "hosts: [closed.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: DNS"),
    ];
    let loaded = load("", &rules.concat()).clean();
    let judge = |asked: &str, ip: &str| {
        let cluster = loaded.ask(asked).verdict.expect("allowed").cluster;
        cluster.addresses.judge(ip.parse().expect("an address")).is_ok()
    };
    assert!(judge("open.test:443", "10.1.2.3") && judge("open.test:443", "fd00::1"));
    assert!(!judge("open.test:443", "192.168.0.1") && !judge("closed.test:443", "10.1.2.3"));
    let cluster = loaded.ask("open.test:443").verdict.expect("allowed").cluster;
    assert_eq!(*cluster.source, ["192.0.2.1".parse::<std::net::IpAddr>().expect("an address")]);
}

#[test]
fn unix_sockets_are_dialled_under_the_folders_of_the_settings_only() {
    let entry = |path: &str| {
        service_entry(
            "a",
            &format!(
                "hosts: [a.test]\nports: [{{ number: 80, name: http, protocol: HTTP }}]\nresolution: STATIC\nendpoints: [{{ address: 'unix://{path}' }}]"
            ),
        )
    };
    let settings = "files: { sockets: [/run/allowed] }\n";
    assert_eq!(
        discovery(&load(settings, &entry("/run/allowed/a.sock")).clean().ask("http://a.test/")),
        "static /run/allowed/a.sock"
    );
    for path in ["/var/run/docker.sock", "/run/allowed/../docker.sock", "/run/allowedx/a.sock"] {
        let loaded = load(settings, &entry(path));
        assert_eq!(loaded.problems(), ["E182 spec.endpoints[0]"], "{path}");
        assert_eq!(discovery(&loaded.ask("http://a.test/")), "static ");
    }
}

#[test]
fn a_route_for_one_name_under_a_wildcard_leaves_the_others_alone() {
    let rules = [
        service_entry(
            "wild",
            "hosts: ['*.wild.test']\nports: [{ number: 443, name: tls, protocol: TLS }, { number: 80, name: http, protocol: HTTP }]\nresolution: NONE",
        ),
        service_entry("to", "hosts: [to.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: DNS"),
        resource(
            "VirtualService",
            "one",
            "hosts: [one.wild.test]\ntls:\n- match: [{ sniHosts: [one.wild.test] }]\n  route: [{ destination: { host: to.test } }]",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    for (asked, expected) in [
        ("one.wild.test:443", "outbound|443||to.test"),
        ("one.wild.test:80", "outbound|80||*.wild.test"),
        ("two.wild.test:443", "outbound|443||*.wild.test"),
        ("x.one.wild.test:443", "outbound|443||*.wild.test"),
    ] {
        assert_eq!(loaded.verdict(asked), expected, "{asked}");
    }
}

#[test]
fn every_choice_says_where_it_was_decided() {
    let rules =
        service_entry("a", "hosts: [a.test]\nports:\n- number: 443\n  name: tls\n  protocol: TLS\nresolution: DNS");
    let loaded = load(REGISTRY_ONLY, &rules).clean();
    let choice = loaded.ask("a.test:443");
    let service = choice.service.clone().expect("a service");
    let route = choice.verdict.expect("allowed");
    assert_eq!(
        (service.origin.line, service.origin.column, &*service.origin.resource),
        (8, 5, "ServiceEntry default/a")
    );
    assert_eq!((&*route.name, &route.origin), ("default", &service.origin));
    let refused = loaded.ask("b.test:443").verdict.expect_err("refused");
    let policy = refused.origin.expect("the policy");
    assert_eq!((policy.line, policy.column, &*policy.resource), (1, 32, "mesh.outboundTrafficPolicy"));
    let nearest = with_flow("b.test:443", |flow| loaded.configuration.snapshot.nearest(flow)).expect("near");
    assert_eq!((&*nearest.rule, nearest.differs_in, &*nearest.declared), ("ServiceEntry default/a", "host", "a.test"));
}

#[test]
fn credentials_come_from_secrets_and_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = format!(
        "mesh: {{ outboundTrafficPolicy: {{ mode: ALLOW_ANY, egressProxy: {{ host: p.test, port: {{ number: 1 }} }} }} }}\nfiles: {{ root: {} }}\n",
        folder.path().display()
    );
    let entry =
        service_entry("p", "hosts: [p.test]\nports: [{ number: 1, name: http, protocol: HTTP }]\nresolution: DNS");
    let rule = |reference: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: p\n  annotations: {{ egret.dev/proxy-authorization: '{reference}' }}\nspec:\n  host: p.test\n"
        )
    };
    let value = |reference: &str| {
        let loaded = load_in(folder.path(), &settings, &format!("{entry}{}", rule(reference)));
        let route = loaded.ask("x.test:443").verdict.expect("allowed");
        let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
        hop.authorization.as_ref().map(|authorization| authorization.value.clone())
    };
    for (content, expected) in [
        ("user:password\n", Some("Basic dXNlcjpwYXNzd29yZA==")),
        ("Negotiate abc==", Some("Negotiate abc==")),
        ("user:pass word", Some("Basic dXNlcjpwYXNzIHdvcmQ=")),
        ("nothing", None),
        (":password", None),
        ("a:b\nc:d", None),
        ("", None),
    ] {
        std::fs::write(folder.path().join("parent"), content).expect("a file");
        let found = value("file:///parent").expect("credentials");
        assert_eq!(found.ok(), expected.map(Arc::from), "{content:?}");
    }
    // A Secret that the settings mount wins over a document.
    std::fs::create_dir(folder.path().join("mounted")).expect("a folder");
    for (key, content) in [("username", "mounted"), ("password", "word\n")] {
        std::fs::write(folder.path().join("mounted").join(key), content).expect("a file");
    }
    let mounted = format!("{settings}secrets: [{{ name: parent, namespace: default, dir: mounted }}]\n");
    let secret =
        "---\napiVersion: v1\nkind: Secret\nmetadata: { name: parent }\nstringData: { username: a, password: b }\n";
    let loaded = load_in(folder.path(), &mounted, &format!("{entry}{}{secret}", rule("secret://parent"))).clean();
    let route = loaded.ask("x.test:443").verdict.expect("allowed");
    let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
    let value = hop.authorization.as_ref().expect("credentials").value.clone();
    assert_eq!(value.as_deref(), Ok("Basic bW91bnRlZDp3b3Jk"));
    for reference in ["user:password", "file://relative", "secret://", "secret://other/name", "https://x"] {
        let loaded = load_in(folder.path(), &settings, &format!("{entry}{}", rule(reference)));
        assert_eq!(loaded.problems(), ["E149 metadata.annotations[\"egret.dev/proxy-authorization\"]"], "{reference}");
        assert!(!loaded.diagnostics().render(false).contains("user:password") || reference != "user:password");
    }
}

#[test]
fn the_protocol_of_a_parents_port_says_how_it_is_asked() {
    let settings =
        "mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: p.test, port: { number: 3128 } } } }\n";
    let parent = |protocol: &str| {
        let port = format!("{{ number: 3128, name: proxy, protocol: {protocol} }}");
        service_entry("p", &format!("hosts: [p.test]\naddresses: [192.0.2.1]\nports: [{port}]\nresolution: DNS"))
    };
    for (protocol, version) in [
        ("HTTP2", UpstreamVersion::Http2),
        ("GRPC", UpstreamVersion::Http2),
        ("HTTP", UpstreamVersion::Http1),
        ("TCP", UpstreamVersion::Http1),
        ("HTTPS", UpstreamVersion::Http1),
    ] {
        let route = load(settings, &parent(protocol)).clean().ask("unknown.test:443").verdict.expect("allowed");
        let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
        assert_eq!(hop.cluster.http.version, version, "{protocol}");
        assert_eq!(route.cluster.http.version, UpstreamVersion::Http1, "what is behind the parent is another matter");
    }
}

#[test]
fn many_service_entries_load_in_seconds_and_are_found_at_once() {
    // Unoptimised builds are some twenty times slower.
    let count = if cfg!(debug_assertions) { 5_000 } else { 100_000 };
    let folder = tempfile::tempdir().expect("a folder");
    let entry = |n: usize| {
        service_entry(
            &format!("e{n}"),
            &format!(
                "hosts: [host-{n}.example-{}.test]\nlocation: MESH_EXTERNAL\nports:\n- number: 443\n  name: https\n  protocol: HTTPS\nresolution: DNS",
                n % 977
            ),
        )
    };
    let path = folder.path().join("many.yaml");
    std::fs::write(&path, (0..count).map(entry).collect::<String>()).expect("a file");
    let started = std::time::Instant::now();
    let sources = Sources { resources: vec![(None, path)], ..Sources::default() };
    let configuration = Configuration::load(&sources, 1);
    let elapsed = started.elapsed();
    eprintln!("{count} loaded in {elapsed:?}");
    assert_eq!(configuration.diagnostics.errors(), 0);
    // The aim is that of an optimised build; the other bound only tells linear from quadratic, on a busy machine too.
    let aim = std::time::Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 5 });
    assert!(elapsed < aim, "{elapsed:?}");
    let snapshot = configuration.snapshot;
    let started = std::time::Instant::now();
    let mut found = 0;
    for n in (0..count).step_by(7) {
        found += usize::from(
            with_flow(&format!("host-{n}.example-{}.test:443", n % 977), |flow| snapshot.route(flow)).is_allowed(),
        );
    }
    eprintln!("{:?} per question, flow and all", started.elapsed() / u32::try_from(found).expect("few"));
    assert_eq!(found, count.div_ceil(7));
}

/// What 100,000 ServiceEntries cost: each port is one of these two, a name, and a place in the index.
#[test]
fn a_service_port_is_small() {
    let names = 2 * (16 + 64); // the host and the cluster's name, with their counters
    let index = 2 * 40; // an entry of a hash map at its usual load, and the list of ports behind it
    let shared = 48 + 64 + size_of::<crate::route::cluster::Endpoint>(); // hosts, `Kind namespace/name`, the endpoint
    let bytes = size_of::<crate::route::Cluster>() + size_of::<crate::route::Service>() + 32 + names + index + shared;
    assert!(
        bytes < 1024,
        "{bytes} bytes: {} + {}",
        size_of::<crate::route::Cluster>(),
        size_of::<crate::route::Service>()
    );
}
