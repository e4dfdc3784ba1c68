//! Every rule of the kinds: its code and message, and a neighbour that passes. Istio's own tables.

use serde_json::{Value, json};

use crate::config::diagnostic::Code;
use crate::config::load::{Configuration, Sources};
use crate::config::{Diagnostics, Severity};
use crate::route::shared_cases::{Cases, shared, shared_cases};

/// Loads one JSON (or YAML) document as it is.
fn check(document: &str) -> Diagnostics {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.yaml");
    std::fs::write(&path, document).expect("a file");
    let sources = Sources { resources: vec![(None, path)], ..Sources::default() };
    Configuration::load(&sources, 1).diagnostics
}

/// Fills in `__repeat__` and the like.
fn unfolded(value: &Value) -> Value {
    match value {
        Value::Object(map) => match map.get("__repeat__") {
            Some(repeat) => {
                let text = repeat["char"].as_str().expect("text");
                let count = repeat["count"].as_u64().expect("a count");
                Value::String(text.repeat(usize::try_from(count).expect("small")))
            }
            None => match map.get("__repeat_base64_of__") {
                Some(repeat) => {
                    use base64::Engine;
                    let text = unfolded(&serde_json::json!({ "__repeat__": repeat }));
                    let encoder = base64::engine::general_purpose::STANDARD;
                    Value::String(encoder.encode(text.as_str().expect("text")))
                }
                None => map.iter().map(|(key, value)| (key.clone(), unfolded(value))).collect(),
            },
        },
        Value::Array(items) => items.iter().map(unfolded).collect(),
        other => other.clone(),
    }
}

#[test]
fn istio_s_table_of_service_entries_holds() {
    let Some(cases) = shared_cases("serviceentry.json") else { return };
    let mut seen = Cases::default();
    for (_, row) in cases.rows() {
        if row["go_only"] == true {
            seen.skipped("go_only", "YAML cannot carry it");
            continue;
        }
        let diagnostics = check(&unfolded(&row["resource"]).to_string());
        let name = row["name"].as_str().expect("a name");
        let shown = diagnostics.render(false);
        assert_eq!(diagnostics.errors() == 0, row["valid"].as_bool().expect("a verdict"), "{name}:\n{shown}");
        if row["valid"] == true {
            let selects = row["object"].get("workloadSelector").is_some();
            assert_eq!(diagnostics.warnings() > 0, row["warning"] == true || selects, "{name}:\n{shown}");
        }
        seen.held();
    }
    seen.report("serviceentry.json", 30);
}

#[test]
fn istio_s_tables_of_destination_rules_hold() {
    let Some(cases) = shared_cases("destinationrule.json") else { return };
    let mut seen = Cases::default();
    for (table, row) in cases.rows() {
        let resource = &row["resource"];
        let reason = match table {
            _ if row["go_only"] == true => Some("YAML cannot carry it"),
            _ if resource.is_null() => Some("no whole resource"),
            _ => None,
        };
        if let Some(reason) = reason {
            seen.skipped(table, reason);
            continue;
        }
        let diagnostics = check(&unfolded(resource).to_string());
        let name = row["name"].as_str().expect("a name");
        let shown = diagnostics.render(false);
        assert_eq!(diagnostics.errors() == 0, row["valid"].as_bool().expect("a verdict"), "{table}: {name}:\n{shown}");
        // That no service has the host is said of each row; that a field is not carried out is for other tests to judge.
        let warns = diagnostics.iter().any(|diagnostic| {
            let beside = [Code::RuleWithoutService, Code::Ignored, Code::MissingFile, Code::MissingSecret];
            diagnostic.severity() == Severity::Warning && !beside.contains(&diagnostic.code)
        });
        if row["valid"] == true {
            assert_eq!(warns, row["warning"] == true, "{table}: {name}:\n{shown}");
        }
        seen.held();
    }
    seen.report("destinationrule.json", 47); // one is the absence of a setting
}

/// A ServiceEntry that is fine, with some fields replaced.
fn entry(changes: Value) -> String {
    let mut spec = json!({
        "hosts": ["a.test"],
        "ports": [{ "number": 443, "name": "tls", "protocol": "TLS" }],
        "resolution": "DNS",
    });
    merge(&mut spec, &changes);
    resource("ServiceEntry", &spec)
}

fn rule(changes: Value) -> String {
    let mut spec = json!({ "host": "a.test" });
    merge(&mut spec, &changes);
    let tail = resource("DestinationRule", &spec);
    format!("{}\n---\n{tail}", entry(json!({})))
}

fn virtual_service(changes: Value) -> String {
    let to = json!([{ "destination": { "host": "a.test", "port": { "number": 443 } } }]);
    let mut spec = json!({ "hosts": ["a.test"], "tls": [{ "match": [{ "sniHosts": ["a.test"] }], "route": to }] });
    merge(&mut spec, &changes);
    let tail = resource("VirtualService", &spec);
    format!("{}\n---\n{tail}", entry(json!({})))
}

fn merge(spec: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().expect("a map") {
        spec[key] = value.clone();
    }
}

fn resource(kind: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": { "name": "a" },
        "spec": spec,
    })
    .to_string()
}

fn annotated(kind: &str, name: &str, value: &str, spec: Value) -> String {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": { "name": "a", "annotations": { name: value } },
        "spec": spec,
    })
    .to_string()
}

/// The same resource with a label.
fn with_label(name: &str, document: &str) -> String {
    let mut document: Value = serde_json::from_str(document).expect("JSON");
    document["metadata"]["labels"] = json!({ name: "w" });
    document.to_string()
}

/// Each line: code, path, message. Places are left out: the documents stand on one line.
fn problems(document: &str) -> Vec<String> {
    let diagnostics = check(document);
    let line = |diagnostic: &crate::config::Diagnostic| {
        let help = diagnostic.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{} {}: {}{help}", diagnostic.code, diagnostic.path, diagnostic.message)
    };
    diagnostics.iter().map(line).collect()
}

#[track_caller]
fn golden(cases: &[(String, &str, String)]) {
    for (wrong, message, neighbour) in cases {
        let found = problems(wrong);
        assert_eq!(found, [*message], "{wrong}");
        let code = &message[..4];
        let beside = problems(neighbour);
        assert!(!beside.iter().any(|line| line.starts_with(code)), "the neighbour of {code}: {beside:?}");
        let errors = check(neighbour).iter().filter(|diagnostic| diagnostic.severity() == Severity::Error).count();
        assert_eq!(errors, 0, "the neighbour of {code}: {beside:?}");
    }
}

#[test]
fn rules_of_service_entries_have_a_code_a_message_and_a_passing_neighbour() {
    let tcp = json!([{ "number": 81, "name": "tcp", "protocol": "TCP" }]);
    golden(&[
        (
            entry(json!({ "hosts": ["a_b.test"] })),
            "E100 spec.hosts[0]: \"a_b.test\": labels hold letters, digits and `-`, and do not begin or end with `-` (write international names as xn--…)",
            entry(json!({ "hosts": ["a-b.test"] })),
        ),
        (
            entry(json!({ "hosts": ["*"], "resolution": "NONE" })),
            "E101 spec.hosts[0]: `*` alone would open every destination (name the domains; mesh.outboundTrafficPolicy.mode: ALLOW_ANY opens everything)",
            entry(json!({ "hosts": ["*.test"], "resolution": "NONE" })),
        ),
        (
            entry(json!({ "hosts": ["a.test", "A.test."] })),
            "E102 spec.hosts[1]: \"a.test\" is listed twice",
            entry(json!({ "hosts": ["a.test", "b.test"] })),
        ),
        (
            entry(json!({ "addresses": ["a.test"] })),
            "E103 spec.addresses[0]: \"a.test\" is neither an address nor a network such as 192.0.2.0/24",
            entry(json!({ "addresses": ["192.0.2.1"] })),
        ),
        (
            entry(json!({ "addresses": ["192.0.2.0/24"] })),
            "E104 spec.addresses[0]: a network is possible with resolution NONE or STATIC only",
            entry(json!({ "addresses": ["192.0.2.0/24"], "resolution": "NONE" })),
        ),
        (
            entry(json!({ "ports": [{ "number": 443, "name": "TLS", "protocol": "TLS" }] })),
            "E105 spec.ports[0].name: \"TLS\" is not a DNS label (lower-case letters, digits, `-`)",
            entry(json!({ "ports": [{ "number": 443, "name": "t-1", "protocol": "TLS" }] })),
        ),
        (
            entry(
                json!({ "ports": [{ "number": 443, "name": "a", "protocol": "TLS" }, { "number": 443, "name": "b", "protocol": "TLS" }] }),
            ),
            "E106 spec.ports[1]: port 443 is listed twice",
            entry(
                json!({ "ports": [{ "number": 443, "name": "a", "protocol": "TLS" }, { "number": 444, "name": "b", "protocol": "TLS" }] }),
            ),
        ),
        (
            entry(
                json!({ "ports": [{ "number": 443, "name": "a", "protocol": "TLS" }, { "number": 444, "name": "a", "protocol": "TLS" }] }),
            ),
            "E107 spec.ports[1]: the name \"a\" is used by two ports",
            entry(
                json!({ "ports": [{ "number": 443, "name": "a", "protocol": "TLS" }, { "number": 444, "name": "b", "protocol": "TLS" }] }),
            ),
        ),
        (
            entry(json!({ "ports": [{ "number": 443, "name": "a", "protocol": "HTPS" }], "addresses": ["192.0.2.1"] })),
            "E108 spec.ports[0].protocol: \"HTPS\" is no protocol of a port (did you mean HTTPS?)",
            entry(json!({ "ports": [{ "number": 443, "name": "a", "protocol": "https" }] })),
        ),
        (
            entry(json!({ "resolution": "NONE", "endpoints": [{ "address": "192.0.2.1" }] })),
            "E109 spec.endpoints: with resolution NONE the client's target is dialled, so endpoints have no use (resolution STATIC dials the endpoints, DNS resolves them)",
            entry(json!({ "resolution": "STATIC", "endpoints": [{ "address": "192.0.2.1" }] })),
        ),
        (
            entry(json!({ "resolution": "STATIC", "endpoints": [{ "address": "b.test" }] })),
            "E110 spec.endpoints[0].address: \"b.test\" is no IP address, which resolution STATIC needs (resolution DNS resolves names)",
            entry(json!({ "resolution": "DNS", "endpoints": [{ "address": "b.test" }] })),
        ),
        (
            entry(json!({ "endpoints": [{ "address": "b_.test" }] })),
            "E111 spec.endpoints[0].address: \"b_.test\" is neither an IP address nor a DNS name: labels hold letters, digits and `-`, and do not begin or end with `-` (write international names as xn--…)",
            entry(json!({ "endpoints": [{ "address": "192.0.2.1" }] })),
        ),
        (
            entry(json!({ "endpoints": [{ "address": "unix:///run/a" }] })),
            "E112 spec.endpoints[0].address: a unix socket needs resolution STATIC",
            entry(json!({ "resolution": "STATIC" })),
        ),
        (
            entry(json!({ "resolution": "STATIC", "endpoints": [{ "address": "unix://run/a" }] })),
            "E112 spec.endpoints[0].address: the path of a unix socket is absolute (write unix:///path/to/socket)",
            entry(json!({ "resolution": "STATIC" })),
        ),
        (
            entry(json!({ "hosts": ["*.a.test"] })),
            "E114 spec.hosts[0]: a wildcard cannot be resolved by DNS (name endpoints, or use resolution DYNAMIC_DNS or NONE)",
            entry(json!({ "hosts": ["*.a.test"], "endpoints": [{ "address": "b.test" }] })),
        ),
        (
            entry(
                json!({ "resolution": "DNS_ROUND_ROBIN", "endpoints": [{ "address": "b.test" }, { "address": "c.test" }] }),
            ),
            "E115 spec.endpoints: DNS_ROUND_ROBIN takes at most one endpoint, found 2 (resolution DNS takes several)",
            entry(json!({ "resolution": "DNS_ROUND_ROBIN", "endpoints": [{ "address": "b.test" }] })),
        ),
        (
            entry(json!({ "endpoints": [{ "address": "b.test", "ports": { "tsl": 444 } }] })),
            "E116 spec.endpoints[0].ports.tsl: \"tsl\" names no port of this ServiceEntry (did you mean tls?)",
            entry(json!({ "endpoints": [{ "address": "b.test", "ports": { "tls": 444 } }] })),
        ),
        (
            entry(json!({ "resolution": "DYNAMIC_DNS" })),
            "E117 spec.hosts[0]: with resolution DYNAMIC_DNS every host is a wildcard (resolution DNS resolves a plain name)",
            entry(json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.a.test"] })),
        ),
        (
            entry(json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.a.test"], "addresses": ["192.0.2.1"] })),
            "E118 spec.addresses[0]: with resolution DYNAMIC_DNS the name asked for is resolved, so addresses have no use",
            entry(json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.a.test"], "addresses": [] })),
        ),
        (
            entry(
                json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.a.test"], "endpoints": [{ "address": "192.0.2.1" }] }),
            ),
            "E109 spec.endpoints: with resolution DYNAMIC_DNS the name asked for is resolved, so endpoints have no use",
            entry(json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.a.test"], "endpoints": [] })),
        ),
        (
            entry(
                json!({ "hosts": ["a.test", "b.test"], "ports": tcp, "resolution": "STATIC", "addresses": ["192.0.2.1"] }),
            ),
            "E121 spec.ports[0]: several hosts share a port whose protocol carries no name: they cannot be told apart (one ServiceEntry per host, or resolution NONE)",
            entry(json!({ "hosts": ["a.test"], "ports": tcp, "resolution": "STATIC", "addresses": ["192.0.2.1"] })),
        ),
        (
            entry(
                json!({ "resolution": "STATIC", "workloadSelector": { "labels": { "a": "b" } }, "endpoints": [{ "address": "192.0.2.1" }] }),
            ),
            "E122 spec.workloadSelector: workloadSelector and endpoints exclude each other",
            entry(json!({ "resolution": "STATIC", "endpoints": [{ "address": "192.0.2.1" }] })),
        ),
        (
            entry(json!({ "hosts": (0..257).map(|n| format!("h{n}.test")).collect::<Vec<_>>() })),
            "E123 spec.hosts: hosts: 257 entries, 256 are the most",
            entry(json!({ "hosts": (0..256).map(|n| format!("h{n}.test")).collect::<Vec<_>>() })),
        ),
        (
            entry(json!({ "exportTo": ["*", "b"] })),
            "E124 spec.exportTo[0]: `*` stands alone or not at all",
            entry(json!({ "exportTo": ["*"] })),
        ),
        (
            annotated(
                "ServiceEntry",
                "egret.dev/allow-adresses",
                "10.0.0.0/8",
                json!({ "hosts": ["a.test"], "ports": [{ "number": 443, "name": "tls", "protocol": "TLS" }], "resolution": "DNS" }),
            ),
            "E125 metadata.annotations[\"egret.dev/allow-adresses\"]: no annotation egret.dev/allow-adresses is known for a ServiceEntry (did you mean `egret.dev/allow-addresses`?)",
            annotated(
                "ServiceEntry",
                "egret.dev/allow-addresses",
                "10.0.0.0/8",
                json!({ "hosts": ["a.test"], "ports": [{ "number": 443, "name": "tls", "protocol": "TLS" }], "resolution": "DNS" }),
            ),
        ),
        (
            entry(json!({ "hosts": ["*a.test"], "resolution": "NONE" })),
            "W100 spec.hosts[0]: a wildcard inside a label covers plain HTTP only in Istio; here it covers TLS too",
            entry(json!({ "hosts": ["*.a.test"], "resolution": "NONE" })),
        ),
        (
            entry(json!({ "ports": tcp })),
            "W101 spec.ports[0]: port 81 carries no name and the entry has no addresses (explicit clients reach it by its name; redirected ones take every connection on this port to it)",
            entry(json!({ "ports": tcp, "addresses": ["192.0.2.1"] })),
        ),
        (
            entry(json!({ "hosts": ["a.test", "b.test"], "ports": tcp, "addresses": ["192.0.2.1"] })),
            "W102 spec.ports[0]: several hosts share addresses: connections to an address go to the first host (one ServiceEntry per host, or resolution NONE)",
            entry(json!({ "hosts": ["a.test"], "ports": tcp, "addresses": ["192.0.2.1"] })),
        ),
        (
            entry(json!({ "ports": [{ "number": 443, "name": "quic", "protocol": "udp" }] })),
            "W104 spec.ports[0].protocol: UDP is not carried: the port is left out",
            entry(json!({ "ports": [{ "number": 443, "name": "tls", "protocol": "TLS" }] })),
        ),
        (
            with_label(
                "istio.io/use-waypoint",
                &entry(json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.a.test"], "location": "MESH_INTERNAL" })),
            ),
            "E120 spec: DYNAMIC_DNS with MESH_INTERNAL cannot go through a waypoint",
            with_label(
                "istio.io/use-waypoint",
                &entry(json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.a.test"], "location": "MESH_EXTERNAL" })),
            ),
        ),
        (
            entry(json!({ "resolution": "STATIC", "endpoints": [{ "network": "other" }] })),
            "W103 spec.endpoints[0]: an endpoint of another network without an address is not reachable from here",
            entry(json!({ "resolution": "STATIC", "endpoints": [{ "network": "other", "address": "192.0.2.1" }] })),
        ),
    ]);
    let ports =
        json!([{ "number": 80, "name": "a", "protocol": "HTTP" }, { "number": 81, "name": "b", "protocol": "HTTP" }]);
    let unix = entry(json!({ "resolution": "STATIC", "ports": ports, "endpoints": [{ "address": "unix:///run/a" }] }));
    let e113 = "E113 spec.endpoints: a unix socket serves exactly one port, found 2".to_owned();
    assert!(problems(&unix).contains(&e113), "{:?}", problems(&unix));
    // A bound from inside: the last ones that pass.
    for (field, count) in [("ports", 256), ("addresses", 256), ("endpoints", 4096)] {
        let list = |count: usize| {
            let item = |n: usize| match field {
                "ports" => json!({ "number": n + 1, "name": format!("p{n}"), "protocol": "TLS" }),
                "addresses" => json!(format!("192.0.{}.{}", n / 256, n % 256)),
                _ => json!({ "address": format!("192.0.{}.{}", n / 256, n % 256) }),
            };
            entry(json!({ field: (0..count).map(item).collect::<Vec<_>>() }))
        };
        assert_eq!(problems(&list(count)), [""; 0], "{field}");
        assert_eq!(problems(&list(count + 1)).len(), 1, "{field}");
    }
}

#[test]
fn rules_of_destination_rules_have_a_code_a_message_and_a_passing_neighbour() {
    let policy = |policy: Value| rule(json!({ "trafficPolicy": policy }));
    let tls = |tls: Value| {
        let settings = json!([{ "port": { "number": 80 }, "tls": tls }]);
        rule(json!({ "trafficPolicy": { "portLevelSettings": settings } }))
    };
    golden(&[
        (
            rule(json!({ "host": "a_b.test" })),
            "E100 spec.host: \"a_b.test\": labels hold letters, digits and `-`, and do not begin or end with `-` (write international names as xn--…)",
            rule(json!({})),
        ),
        (
            policy(json!({ "connectionPool": { "tcp": { "connectTimeout": "0.5ms" } } })),
            "E140 spec.trafficPolicy.connectionPool.tcp.connectTimeout: durations are whole milliseconds, at least one",
            policy(json!({ "connectionPool": { "tcp": { "connectTimeout": "1ms" } } })),
        ),
        (
            policy(json!({ "connectionPool": {} })),
            "E141 spec.trafficPolicy.connectionPool: `connectionPool` needs `tcp` or `http`",
            policy(json!({ "connectionPool": { "tcp": { "idleTimeout": "1s" } } })),
        ),
        (
            rule(json!({ "subsets": [{ "name": "a" }, { "name": "a" }] })),
            "E142 spec.subsets[1].name: \"a\" is used twice (first at subsets[0])",
            rule(json!({ "subsets": [{ "name": "a" }, { "name": "b" }] })),
        ),
        (
            rule(json!({ "subsets": [{ "name": "A" }] })),
            "E143 spec.subsets[0].name: \"A\" is not a DNS label",
            rule(json!({ "subsets": [{ "name": "a" }] })),
        ),
        (
            tls(json!({ "mode": "MUTUAL", "credentialName": "a", "caCertificates": "/a" })),
            "E144 spec.trafficPolicy.portLevelSettings[0].tls.caCertificates: `credentialName` and files exclude each other",
            tls(json!({ "mode": "SIMPLE", "caCertificates": "/a" })),
        ),
        (
            tls(json!({ "mode": "MUTUAL", "clientCertificate": "/a" })),
            "E145 spec.trafficPolicy.portLevelSettings[0].tls: mode MUTUAL needs `privateKey`",
            tls(json!({ "mode": "MUTUAL", "clientCertificate": "/a", "privateKey": "/b" })),
        ),
        (
            tls(json!({ "mode": "SIMPLE", "subjectAltNames": ["a"], "insecureSkipVerify": true })),
            "E146 spec.trafficPolicy.portLevelSettings[0].tls.insecureSkipVerify: `insecureSkipVerify` verifies nothing, so there must be nothing to verify against",
            tls(json!({ "mode": "SIMPLE", "subjectAltNames": ["a"], "insecureSkipVerify": false })),
        ),
        (
            tls(json!({ "mode": "SIMPLE", "clientCertificate": "/a" })),
            "E147 spec.trafficPolicy.portLevelSettings[0].tls.clientCertificate: mode SIMPLE presents no client certificate (mode MUTUAL does)",
            tls(json!({ "mode": "SIMPLE" })),
        ),
        (
            policy(json!({ "tunnel": { "protocol": "GET", "targetHost": "b.test", "targetPort": 1 } })),
            "E033 spec.trafficPolicy.tunnel.protocol: \"GET\" is none of the values known here (one of CONNECT, POST)",
            policy(json!({ "tunnel": { "protocol": "POST", "targetHost": "b.test", "targetPort": 1 } })),
        ),
        (
            tls(json!({ "mode": "ISTIO_MUTUAL", "credentialName": "a" })),
            "E147 spec.trafficPolicy.portLevelSettings[0].tls.credentialName: mode ISTIO_MUTUAL presents the certificate of the mesh: others have no use (mode MUTUAL takes them)",
            tls(json!({ "mode": "ISTIO_MUTUAL" })),
        ),
        (
            rule(json!({ "workloadSelector": { "matchLabels": { "a": "b" } }, "exportTo": [".", "b"] })),
            "E124 spec.exportTo: a rule for some workloads stays in its namespace (write `exportTo: [\".\"]`, or leave it out)",
            rule(json!({ "workloadSelector": { "matchLabels": { "a": "b" } }, "exportTo": ["."] })),
        ),
        (
            rule(json!({ "workloadSelector": { "matchLabels": { "a": "*" } } })),
            "E190 spec.workloadSelector.matchLabels.a: a selector compares whole labels: wildcards are not possible",
            rule(json!({ "workloadSelector": { "matchLabels": { "a": "b" } } })),
        ),
        (
            policy(json!({ "tls": { "mode": "SIMPLE" } })),
            "W188 spec.trafficPolicy.tls: tunnels to port 443 of a.test carry TLS of the client, which this rule would wrap into TLS again (limit it to the plain port with portLevelSettings)",
            tls(json!({ "mode": "SIMPLE" })),
        ),
    ]);
    let both =
        policy(json!({ "tunnel": { "targetHost": "b.test", "targetPort": 1 }, "proxyProtocol": { "version": "V1" } }));
    assert!(problems(&both).iter().any(|line| line.starts_with("E148 spec.trafficPolicy.proxyProtocol: ")));
}

#[test]
fn rules_of_balancing_have_a_code_a_message_and_a_passing_neighbour() {
    let lb = |balancer: Value| rule(json!({ "trafficPolicy": { "loadBalancer": balancer } }));
    let hash = |hash: Value| lb(json!({ "consistentHash": hash }));
    let cookie = |cookie: Value| hash(json!({ "httpCookie": cookie }));
    let places = |setting: Value| {
        rule(json!({ "trafficPolicy": { "loadBalancer": { "localityLbSetting": setting }, "outlierDetection": {} } }))
    };
    let outliers = |outliers: Value| rule(json!({ "trafficPolicy": { "outlierDetection": outliers } }));
    let distribute = |to: Value| places(json!({ "enabled": false, "distribute": [{ "from": "a/*", "to": to }] }));
    golden(&[
        (
            lb(json!({ "simple": "RANDOM", "consistentHash": { "useSourceIp": true } })),
            "E230 spec.trafficPolicy.loadBalancer.consistentHash: `simple` and `consistentHash` exclude each other",
            hash(json!({ "useSourceIp": true })),
        ),
        (
            hash(json!({ "useSourceIp": true, "httpHeaderName": "x-user" })),
            "E230 spec.trafficPolicy.loadBalancer.consistentHash: one of `httpHeaderName`, `httpCookie`, `useSourceIp: true` and `httpQueryParameterName` says what is hashed",
            hash(json!({ "useSourceIp": false, "httpHeaderName": "x-user" })),
        ),
        (
            hash(json!({ "useSourceIp": true, "ringHash": {}, "maglev": {} })),
            "E230 spec.trafficPolicy.loadBalancer.consistentHash.maglev: `ringHash` and `maglev` exclude each other",
            hash(json!({ "useSourceIp": true, "ringHash": { "minimumRingSize": 8388608 } })),
        ),
        (
            cookie(json!({ "name": "a", "attributes": [{ "name": "Secure" }, { "name": "secure" }] })),
            "E231 spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[1].name: \"secure\" is listed twice",
            cookie(json!({ "name": "a", "ttl": "0s", "attributes": [{ "name": "Secure" }] })),
        ),
        (
            cookie(json!({ "name": "a", "path": "/; Domain=evil.test" })),
            "E231 spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.path: a value of a cookie's attribute is printable ASCII without `;`",
            cookie(json!({ "name": "a", "path": "/a" })),
        ),
        (
            hash(json!({ "useSourceIp": true, "maglev": { "tableSize": 65536 } })),
            "E232 spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: the size of Maglev's table is a prime below 5000011 (65537 is the default)",
            hash(json!({ "useSourceIp": true, "maglev": { "tableSize": 4_999_999 } })),
        ),
        (
            hash(json!({ "useSourceIp": true, "maglev": { "tableSize": 5_000_011 } })),
            "E232 spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: the size of Maglev's table is a prime below 5000011 (65537 is the default)",
            hash(json!({ "useSourceIp": true, "maglev": {} })),
        ),
        (
            distribute(json!({ "a/b": 60, "a/c": 39 })),
            "E233 spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: the shares add up to 99, and have to add up to 100",
            distribute(json!({ "a/b": 60, "a/c": 40 })),
        ),
        (
            distribute(json!({ "a/*": 60, "a/c": 40 })),
            "E233 spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to[\"a/c\"]: a/c and a/* overlap",
            distribute(json!({ "a/b/*": 60, "b": 40 })),
        ),
        (
            places(json!({ "enabled": false, "failover": [{ "from": "a", "to": "a" }] })),
            "E233 spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to: a region does not fail over to itself",
            places(json!({ "failover": [{ "from": "a", "to": "b" }] })),
        ),
        (
            outliers(json!({ "consecutiveLocalOriginFailures": 3 })),
            "E234 spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures: failures on the way are counted apart only with `splitExternalLocalOriginErrors: true`",
            outliers(json!({ "consecutiveLocalOriginFailures": 3, "splitExternalLocalOriginErrors": true })),
        ),
        (
            lb(json!({ "simple": "RANDOM", "warmup": { "duration": "10s" } })),
            "W230 spec.trafficPolicy.loadBalancer.warmup: endpoints are warmed up with LEAST_REQUEST and ROUND_ROBIN only, as in Istio",
            lb(json!({ "warmup": { "duration": "10s", "minimumPercent": 0, "aggression": 1.5 } })),
        ),
        (
            lb(json!({ "localityLbSetting": { "failoverPriority": ["topology.kubernetes.io/region"] } })),
            "W231 spec.trafficPolicy.loadBalancer.localityLbSetting: without `outlierDetection` nothing fails over (an empty `outlierDetection: {}` beside `loadBalancer` has Istio's defaults)",
            places(json!({ "failoverPriority": ["topology.kubernetes.io/region"] })),
        ),
        (
            outliers(json!({ "consecutiveErrors": 3 })),
            "W232 spec.trafficPolicy.outlierDetection.consecutiveErrors: `consecutiveErrors` is deprecated (write `consecutiveGatewayErrors`, or `consecutive5xxErrors`)",
            outliers(json!({ "consecutiveGatewayErrors": 3 })),
        ),
    ]);
}

#[test]
fn rules_of_virtual_services_have_a_code_a_message_and_a_passing_neighbour() {
    let to = json!([{ "destination": { "host": "a.test", "port": { "number": 443 } } }]);
    let fine = || virtual_service(json!({}));
    let tls = |matches: Value| virtual_service(json!({ "tls": [{ "match": matches, "route": to }] }));
    let http = |route: Value| virtual_service(json!({ "http": [route] }));
    golden(&[
        (virtual_service(json!({ "tls": [] })), "E160 spec: at least one of `http`, `tls` and `tcp` is needed", fine()),
        (
            http(json!({ "route": [] })),
            "E161 spec.http[0].route: a route needs a destination",
            http(json!({ "route": to })),
        ),
        (
            http(json!({ "route": [to[0], to[0]] })),
            "E169 spec.http[0].route: of several destinations none has a weight",
            http(json!({ "route": [{ "destination": to[0]["destination"], "weight": 1 }, to[0]] })),
        ),
        (
            http(json!({ "match": [{ "uri": { "regex": "a)(b" } }], "route": to })),
            "E165 spec.http[0].match[0].uri.regex: no regular expression of RE2: unopened group",
            http(json!({ "match": [{ "uri": { "regex": "/(a|b)+" } }], "route": to })),
        ),
        (
            http(json!({ "match": [{ "uri": { "regex": "a".repeat(1025) } }], "route": to })),
            "E165 spec.http[0].match[0].uri.regex: no regular expression of RE2: 1025 bytes are more than 1024",
            http(json!({ "match": [{ "uri": { "regex": "a".repeat(1024) } }], "route": to })),
        ),
        (
            http(json!({ "match": [{ "method": { "exact": "GET", "prefix": "G" } }], "route": to })),
            "E166 spec.http[0].match[0].method: one of `exact`, `prefix` and `regex` at a time",
            http(json!({ "match": [{ "method": { "prefix": "G" } }], "route": to })),
        ),
        (
            http(json!({ "match": [{ "method": { "prefix": "" } }], "route": to })),
            "E166 spec.http[0].match[0].method.prefix: an empty prefix fits everything",
            http(json!({ "match": [{ "uri": { "prefix": "" } }], "route": to })),
        ),
        (
            http(json!({ "match": [{ "headers": { "a b": {} } }], "route": to })),
            "E167 spec.http[0].match[0].headers[\"a b\"]: \"a b\" is no name of a header",
            http(json!({ "match": [{ "headers": { "X-A": {}, ":authority": { "exact": "a.test" } } }], "route": to })),
        ),
        (
            http(json!({ "match": [{ "headers": { "@request.auth.claims.sub": { "exact": "a" } } }], "route": to })),
            "E036 spec.http[0].match[0].headers[\"@request.auth.claims.sub\"]: claims of a token are not known here: the route would take more requests than it says",
            http(json!({ "match": [{ "headers": { "sub": { "exact": "a" } } }], "route": to })),
        ),
        (
            http(json!({ "match": [{ "gateways": ["b@d"], "port": 80 }, { "port": 80 }], "route": to })),
            "E168 spec.http[0].match[0].gateways[0]: \"b@d\" is no name of a Gateway (write mesh, the Gateway's name, or namespace/name)",
            http(json!({ "match": [{ "gateways": ["mesh"], "port": 80 }], "route": to })),
        ),
        (
            tls(json!([{ "sniHosts": ["a.test", "1.1.1.1"] }])),
            "W162 spec.tls[0].match[0].sniHosts[1]: 1.1.1.1 is an address, which no client sends as a server name (RFC 6066)",
            tls(json!([{ "sniHosts": ["a.test"], "destinationSubnets": ["10.0.0.0/8"] }])),
        ),
        (
            tls(json!([{ "sniHosts": ["b.test"] }])),
            "E162 spec.tls[0].match[0].sniHosts[0]: \"b.test\" is none of the hosts of this VirtualService, nor narrower than one",
            tls(json!([{ "sniHosts": ["a.test"], "port": 443 }])),
        ),
        (
            virtual_service(json!({ "hosts": ["a.test", "*.test"] })),
            "E163 spec.hosts[1]: \"*.test\" overlaps with \"a.test\"",
            fine(),
        ),
        (tls(json!([])), "E164 spec.tls[0]: a tls route needs a match with `sniHosts`", fine()),
        (
            virtual_service(json!({ "http": [{ "route": to }, { "route": to }] })),
            "W160 spec.http[1]: never reached: http[0] takes every request",
            virtual_service(json!({ "http": [{ "match": [{ "port": 80 }], "route": to }, { "route": to }] })),
        ),
        (
            virtual_service(json!({ "tcp": [{ "route": to }, { "match": [{ "port": 81 }], "route": to }] })),
            "W160 spec.tcp[1].match[0]: never reached: an earlier tcp route takes every connection",
            virtual_service(json!({ "tcp": [{ "match": [{ "port": 81 }], "route": to }, { "route": to }] })),
        ),
        (
            virtual_service(json!({ "gateways": ["mesh", "egress"] })),
            "W001 spec.gateways[1]: Gateways are not supported yet: for this one the VirtualService has no effect",
            virtual_service(json!({ "gateways": ["mesh"] })),
        ),
        (
            virtual_service(
                json!({ "gateways": ["egress"], "http": [{ "match": [{ "uri": { "prefix": "/" } }], "route": to }] }),
            ),
            "W001 spec.gateways[0]: Gateways are not supported yet, and no other listener is meant: the VirtualService is passed over",
            virtual_service(json!({ "gateways": ["mesh"] })),
        ),
        (
            virtual_service(
                json!({ "http": [{ "match": [{ "gateways": ["egress"], "uri": { "exact": "/" } }], "redirect": { "uri": "/" } }] }),
            ),
            "W001 spec.http[0]: a route of Gateways, which are not supported yet: passed over",
            virtual_service(
                json!({ "http": [{ "match": [{ "gateways": ["egress"] }, { "gateways": ["mesh"], "port": 80 }], "route": to }] }),
            ),
        ),
    ]);
}

mod kubernetes;
mod virtual_service;

#[test]
fn nothing_of_a_secret_is_shown() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: a }\ndata: { password: 'hunter2!' }\n";
    let diagnostics = check(secret);
    assert_eq!(
        problems(secret),
        ["E170 data.password: the value is not base64 (plain text belongs into `stringData`)"]
    );
    assert!(!diagnostics.render(false).contains("hunter2") && !diagnostics.to_json().contains("hunter2"));
    assert_eq!(
        problems("apiVersion: v1\nkind: Secret\nmetadata: { name: a }\ndata: { password: aHVudGVyMg== }\n"),
        [""; 0]
    );
}

#[test]
fn istio_s_egress_tasks_load_unchanged_and_give_the_promised_plan() {
    use crate::route::sample::{ask, verdict};
    let Some(folder) = shared("istio-tasks") else { return };
    let load = |files: &[&str], mode: &str| {
        let settings = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(settings.path(), format!("mesh: {{ outboundTrafficPolicy: {{ mode: {mode} }} }}\n"))
            .expect("a file");
        let resources = files.iter().map(|file| (None, folder.join(file))).collect();
        let sources = Sources { settings: Some(settings.path().into()), resources, ..Sources::default() };
        let loaded = Configuration::load(&sources, 1);
        assert_eq!(loaded.diagnostics.errors(), 0, "{}", loaded.diagnostics.render(false));
        loaded.snapshot
    };
    for version in ["1.27", "1.6+1.7"] {
        let files = [
            format!("egress-control/02-httpbin-serviceentry.v{version}.yaml"),
            format!("egress-control/03-google-https-serviceentry.v{version}.yaml"),
            format!("egress-control/04-httpbin-timeout-virtualservice.v{version}.yaml"),
        ];
        let snapshot = load(&files.each_ref().map(String::as_str), "REGISTRY_ONLY");
        for (asked, expected) in [
            ("http://httpbin.org/headers", "outbound|80||httpbin.org"),
            ("www.google.com:443", "outbound|443||www.google.com"),
            ("www.example.com:443", "not_found at registry: no route allows www.example.com:443"),
            ("http://www.example.com/", "not_found at registry: no route allows www.example.com:80"),
        ] {
            let asked = asked.trim_end_matches("headers");
            assert_eq!(verdict(&ask(&snapshot, asked)), expected, "{version}: {asked}");
        }
    }
    for (files, http, connect) in [
        (
            vec!["egress-tls-origination/01-edition-cnn-com-no-origination.v1.27.yaml"],
            "outbound|80||edition.cnn.com",
            "outbound|80||edition.cnn.com",
        ),
        (
            vec!["egress-tls-origination/02-edition-cnn-com-tls-origination.v1.27.yaml"],
            "outbound|80||edition.cnn.com over TLS",
            "outbound|80||edition.cnn.com over TLS terminated by DestinationRule default/edition-cnn-com",
        ),
        (
            vec!["egress-tls-origination/02-edition-cnn-com-tls-origination.v1.6.yaml"],
            "outbound|443|tls-origination|edition.cnn.com over TLS",
            "outbound|443|tls-origination|edition.cnn.com over TLS terminated by VirtualService default/edition-cnn-com",
        ),
        (
            vec![
                "egress-tls-origination/01-edition-cnn-com-no-origination.v1.6+1.7.yaml",
                "egress-tls-origination/02-edition-cnn-com-tls-origination.v1.7.yaml",
            ],
            "outbound|443|tls-origination|edition.cnn.com over TLS",
            "outbound|443|tls-origination|edition.cnn.com over TLS terminated by VirtualService default/edition-cnn-com",
        ),
    ] {
        let snapshot = load(&files, "REGISTRY_ONLY");
        assert_eq!(verdict(&ask(&snapshot, "http://edition.cnn.com/")), http, "{files:?}");
        assert_eq!(verdict(&ask(&snapshot, "edition.cnn.com:80")), connect, "{files:?}");
        assert_eq!(verdict(&ask(&snapshot, "edition.cnn.com:443")), "outbound|443||edition.cnn.com", "{files:?}");
    }
    for version in ["1.27", "1.6", "1.7"] {
        let file = format!("wildcard-egress-hosts/01-direct-wildcard-serviceentry.v{version}.yaml");
        let snapshot = load(&[&file], "REGISTRY_ONLY");
        assert_eq!(verdict(&ask(&snapshot, "de.wikipedia.org:443")), "outbound|443||*.wikipedia.org", "{version}");
    }
}

#[test]
fn istio_s_tunnel_task_leads_through_the_forward_proxy() {
    use crate::route::Via;
    use crate::route::sample::ask;
    let Some(folder) = shared("istio-tasks/tunnel") else { return };
    // What Kubernetes Services are in the task.
    let services = [
        (
            "external",
            json!([{ "number": 86, "name": "tcp", "protocol": "TCP" }, { "number": 443, "name": "tls", "protocol": "TLS" }]),
        ),
        ("external-forward-proxy", json!([{ "number": 3128, "name": "http-connect", "protocol": "HTTP" }])),
    ];
    let stand_ins = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    let text: String = services.iter().map(|(name, ports)| {
        let spec = json!({ "hosts": [format!("{name}.external.svc.cluster.local")], "ports": ports, "resolution": "DNS", "addresses": [if *name == "external" { "240.0.0.1" } else { "240.0.0.2" }] });
        let entry = resource("ServiceEntry", &spec).replace("\"name\":\"a\"", &format!("\"name\":\"{name}\""));
        format!("---\n{entry}\n")
    }).collect();
    std::fs::write(stand_ins.path(), text).expect("a file");
    for (proxy, over_tls) in [("plain", false), ("tls", true)] {
        let files = [
            format!("01-destinationrule-tunnel-{proxy}-proxy.v1.15+.yaml"),
            "02-sidecar-virtualservice.v1.15+.yaml".to_owned(),
        ];
        let resources =
            files.iter().map(|file| (None, folder.join(file))).chain([(None, stand_ins.path().into())]).collect();
        let loaded = Configuration::load(&Sources { resources, ..Sources::default() }, 1);
        assert_eq!(loaded.diagnostics.errors(), 0, "{}", loaded.diagnostics.render(false));
        for (port, subset) in [(86, "tcp"), (443, "tls")] {
            let route =
                ask(&loaded.snapshot, &format!("external.external.svc.cluster.local:{port}")).verdict.expect("allowed");
            assert_eq!(
                &*route.cluster.name,
                format!("outbound|3128|external-svc-{subset}|external-forward-proxy.external.svc.cluster.local")
            );
            let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
            assert_eq!(hop.target.as_ref().expect("a target").to_string(), format!("external.external:{port}"));
            assert_eq!(hop.cluster.tls.is_some(), over_tls);
        }
    }
}
