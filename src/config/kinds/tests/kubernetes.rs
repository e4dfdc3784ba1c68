//! Rules of Kubernetes' kinds, WorkloadEntry, selectors and AuthorizationPolicy; Istio's tables of them.

use super::*;

/// A resource of any kind.
fn document(version: &str, kind: &str, metadata: Value, rest: Value) -> Value {
    let mut document = json!({ "apiVersion": version, "kind": kind, "metadata": metadata });
    merge(&mut document, &rest);
    document
}

fn service_with(metadata: Value, changes: Value) -> String {
    let mut spec = json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 443, "name": "tls" }] });
    merge(&mut spec, &changes);
    document("v1", "Service", metadata, json!({ "spec": spec })).to_string()
}

fn service(changes: Value) -> String {
    service_with(json!({ "name": "a" }), changes)
}

/// A Service `a` beside another document.
fn beside(other: Value) -> String {
    format!("{}\n---\n{other}", service(json!({})))
}

fn endpoints(subset: Value) -> String {
    beside(document("v1", "Endpoints", json!({ "name": "a" }), json!({ "subsets": [subset] })))
}

fn slice(changes: Value) -> String {
    let mut rest = json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["192.0.2.1"] }], "ports": [{ "name": "tls", "port": 443 }] });
    merge(&mut rest, &changes);
    let metadata = json!({ "name": "a-1", "labels": { "kubernetes.io/service-name": "a" } });
    beside(document("discovery.k8s.io/v1", "EndpointSlice", metadata, rest))
}

fn workload(spec: Value) -> String {
    document("networking.istio.io/v1", "WorkloadEntry", json!({ "name": "a" }), json!({ "spec": spec })).to_string()
}

#[test]
fn rules_of_services_have_a_code_a_message_and_a_passing_neighbour() {
    golden(&[
        (
            service_with(json!({ "name": "a.b" }), json!({})),
            "E022 metadata.name: the name of a Service is one DNS label, without dots",
            service(json!({})),
        ),
        (
            service(json!({ "type": "Cluster" })),
            "E033 spec.type: \"Cluster\" is none of the values known here (did you mean ClusterIP?)",
            service(json!({ "type": "NodePort" })),
        ),
        (
            service(json!({ "clusterIPs": ["10.96.0"] })),
            "E103 spec.clusterIPs[0]: \"10.96.0\" is no IP address",
            service(json!({ "clusterIPs": ["10.96.0.1", "fd00::1"] })),
        ),
        (
            service(json!({ "type": "ExternalName" })),
            "E031 spec: `externalName` is missing",
            service(json!({ "type": "ExternalName", "externalName": "b.test" })),
        ),
        (
            service(json!({ "type": "ExternalName", "externalName": "10.0.0.1" })),
            "E100 spec.externalName: \"10.0.0.1\": an address stands where a DNS name is wanted (addresses belong into an EndpointSlice or Endpoints of a Service without selector)",
            service(json!({ "type": "ExternalName", "externalName": "b.test." })),
        ),
        (
            service(json!({ "ports": null })),
            "E031 spec: `ports` is missing: only headless and ExternalName go without",
            service(json!({})),
        ),
        (
            service(json!({ "ports": [{ "port": 443, "name": "tls" }, { "port": 80 }] })),
            "E031 spec.ports[1]: `name` is missing: one of several ports needs it",
            service(json!({ "ports": [{ "port": 80 }] })),
        ),
        (
            service(json!({ "ports": [{ "port": 443, "name": "TLS" }] })),
            "E105 spec.ports[0].name: \"TLS\" is not a DNS label (lower-case letters, digits, `-`)",
            service(json!({ "ports": [{ "port": 443, "name": "t-1", "targetPort": "web" }] })),
        ),
        (
            service(json!({ "ports": [{ "port": 443, "targetPort": "W_b" }] })),
            "E105 spec.ports[0].targetPort: \"W_b\" is neither a number nor the name of a port",
            service(json!({ "ports": [{ "port": 443, "targetPort": "8443" }] })),
        ),
        (
            service(json!({ "ports": [{ "port": 443, "name": "a" }, { "port": 443, "name": "b" }] })),
            "E106 spec.ports[1]: port 443 is listed twice",
            service(
                json!({ "ports": [{ "port": 443, "name": "a" }, { "port": 443, "name": "b", "protocol": "UDP" }] }),
            ),
        ),
        (
            service(json!({ "ports": [{ "port": 443, "name": "a" }, { "port": 444, "name": "a" }] })),
            "E107 spec.ports[1]: the name \"a\" is used by two ports",
            service(json!({ "ports": [{ "port": 443, "name": "a" }, { "port": 444, "name": "b" }] })),
        ),
        (
            service(json!({ "ports": [{ "port": 0 }] })),
            "E034 spec.ports[0].port: 0 is not between 1 and 65535",
            service(json!({ "ports": [{ "port": 65535 }] })),
        ),
        (
            service(json!({ "externalname": "b.test" })),
            "E030 spec.externalname: no field of this name is known here (did you mean `externalName`?)",
            service(json!({ "sessionAffinity": "None" })),
        ),
        (
            service(json!({ "sessionAffinity": "ClientIP" })),
            "W001 spec.sessionAffinity: not supported, and ignored: as in Istio, a DestinationRule says how endpoints are picked",
            service(json!({ "sessionAffinity": "None" })),
        ),
        (
            service_with(json!({ "name": "a", "annotations": { "networking.istio.io/exportTo": ".,A" } }), json!({})),
            "E124 metadata.annotations[\"networking.istio.io/exportTo\"]: \"A\" is no namespace (write `.` (the own namespace), `*` (all) or the name of a namespace)",
            service_with(
                json!({ "name": "a", "annotations": { "networking.istio.io/exportTo": "., other" } }),
                json!({}),
            ),
        ),
        (
            service_with(
                json!({ "name": "a", "annotations": { "egret.dev/allow-adresses": "10.0.0.0/8" } }),
                json!({}),
            ),
            "E125 metadata.annotations[\"egret.dev/allow-adresses\"]: no annotation egret.dev/allow-adresses is known for a Service (did you mean `egret.dev/allow-addresses`?)",
            service_with(
                json!({ "name": "a", "annotations": { "egret.dev/allow-addresses": "10.0.0.0/8" } }),
                json!({}),
            ),
        ),
        (
            service(json!({ "clusterIP": null })),
            "W195 metadata.name: neither EndpointSlice nor Endpoints nor a clusterIP says where it is: flows to it are answered 503",
            service(json!({})),
        ),
        (
            service(json!({ "type": "ExternalName", "externalName": "b.test", "ports": null })),
            "W197 spec.externalName: nothing loaded declares b.test, and a Service of its own needs `ports`",
            service(json!({ "type": "ExternalName", "externalName": "b.test" })),
        ),
    ]);
}

#[test]
fn rules_of_addresses_have_a_code_a_message_and_a_passing_neighbour() {
    let address = json!([{ "ip": "192.0.2.1" }]);
    let ports = json!([{ "name": "tls", "port": 443 }]);
    let fine = || endpoints(json!({ "addresses": address, "ports": ports }));
    golden(&[
        (
            endpoints(json!({ "addresses": [{ "ip": "b.test" }], "ports": ports })),
            "E103 subsets[0].addresses[0].ip: \"b.test\" is no IP address",
            fine(),
        ),
        (
            endpoints(json!({ "adresses": address, "addresses": address, "ports": ports })),
            "E030 subsets[0].adresses: no field of this name is known here (did you mean `addresses`?)",
            fine(),
        ),
        (
            endpoints(json!({ "addresses": address, "ports": [{ "name": "tsl", "port": 443 }] })),
            "W196 spec.ports[0]: none of the addresses has a port named \"tls\": flows to port 443 are answered 503",
            fine(),
        ),
        (
            document("v1", "Endpoints", json!({ "name": "b" }), json!({ "subsets": [] })).to_string(),
            "W193 metadata.name: no Service default/b is loaded: these addresses are not used",
            fine(),
        ),
        (
            slice(json!({ "addressType": "IPv5" })),
            "E033 addressType: \"IPv5\" is none of the values known here (did you mean IPv4?)",
            slice(json!({ "addressType": "IPv6" })),
        ),
        (
            slice(json!({ "endpoints": [{ "addresses": ["192.0.2.256"] }] })),
            "E103 endpoints[0].addresses[0]: \"192.0.2.256\" is no IP address",
            slice(json!({})),
        ),
        (
            slice(json!({ "addressType": "FQDN", "endpoints": [{ "addresses": ["b.test"] }] })),
            "W001 : slices of type FQDN are passed over, as in Istio: the Service gets no endpoint from this one (a ServiceEntry with resolution DNS has names)",
            slice(json!({})),
        ),
        (
            beside(document(
                "discovery.k8s.io/v1",
                "EndpointSlice",
                json!({ "name": "a-1" }),
                json!({ "addressType": "IPv4", "endpoints": [] }),
            )),
            "W193 : the label kubernetes.io/service-name is missing: this slice belongs to no Service",
            slice(json!({})),
        ),
        (
            format!(
                "{}\n---\n{}",
                slice(json!({})),
                document("v1", "Endpoints", json!({ "name": "a" }), json!({ "subsets": [] }))
            ),
            "W194 metadata.name: not used: EndpointSlices of the same Service are loaded, and count, as in Istio",
            slice(json!({})),
        ),
    ]);
}

#[test]
fn rules_of_workloads_and_selectors_have_a_code_a_message_and_a_passing_neighbour() {
    let selecting = |resolution: &str, spec: Value| {
        let entry = entry(json!({ "resolution": resolution, "workloadSelector": { "labels": { "app": "a" } } }));
        let mut with = json!({ "labels": { "app": "a" } });
        merge(&mut with, &spec);
        format!("{entry}\n---\n{}", workload(with))
    };
    golden(&[
        (
            workload(json!({ "address": "a_b.test" })),
            "E111 spec.address: \"a_b.test\" is neither an IP address nor a DNS name: labels hold letters, digits and `-`, and do not begin or end with `-` (write international names as xn--…)",
            workload(json!({ "address": "a-b.test" })),
        ),
        (
            workload(json!({ "address": "unix:///run/" })),
            "E112 spec.address: a folder is no unix socket",
            workload(json!({ "address": "unix:///run/a" })),
        ),
        (
            workload(json!({ "address": "192.0.2.1", "ports": { "A": 1 } })),
            "E105 spec.ports.A: \"A\" is not a DNS label (lower-case letters, digits, `-`)",
            workload(json!({ "address": "192.0.2.1", "ports": { "a": 1 } })),
        ),
        (
            entry(json!({ "resolution": "STATIC", "workloadSelector": { "labels": { "app": "a" } } })),
            "W195 spec.workloadSelector: no loaded WorkloadEntry of the namespace is selected: flows are answered 503",
            selecting("STATIC", json!({ "address": "192.0.2.1" })),
        ),
        (
            entry(json!({ "resolution": "NONE", "workloadSelector": { "labels": { "app": "a" } } })),
            "W191 spec.workloadSelector: the target asked for is dialled with this resolution, so selected workloads have no use (resolution STATIC dials them, DNS resolves them)",
            selecting("DNS", json!({ "address": "b.test" })),
        ),
        (
            format!(
                "{}\n---\n{}",
                entry(json!({ "resolution": "STATIC", "workloadSelector": {} })),
                workload(json!({ "address": "192.0.2.1" }))
            ),
            "W190 spec.workloadSelector: without labels this selects every workload of the namespace",
            selecting("STATIC", json!({ "address": "192.0.2.1" })),
        ),
        (
            format!(
                "{}\n---\n{}",
                selecting("STATIC", json!({ "address": "192.0.2.1" })),
                json!({ "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": { "name": "b", "labels": { "app": "a" } }, "spec": { "address": "b.test" } })
            ),
            "W192 spec: ServiceEntry default/a selects it and cannot use it: STATIC resolves no names",
            selecting("STATIC", json!({ "address": "192.0.2.1" })),
        ),
        (
            entry(json!({ "ports": [{ "number": "$PORT", "name": "tls", "protocol": "TLS" }] })),
            "W203 spec.ports[0].number: $PORT is a shell variable that nobody filled in: left out (envsubst < FILE fills it in)",
            entry(json!({})),
        ),
        (
            entry(json!({ "addresses": ["${IP}/32"] })),
            "W203 spec.addresses[0]: ${IP}/32 is a shell variable that nobody filled in: left out (envsubst < FILE fills it in)",
            entry(json!({})),
        ),
    ]);
    // Anything else that begins with a dollar sign is a mistake.
    for address in ["$", "$1", "$A B", "${A", "$A-B"] {
        assert_eq!(problems(&entry(json!({ "addresses": [address] }))).len(), 1);
        assert!(check(&entry(json!({ "addresses": [address] }))).errors() == 1, "{address}");
    }
}

#[test]
fn rules_of_authorization_policies_have_a_code_a_message_and_a_passing_neighbour() {
    let policy = |spec: Value| {
        let policy =
            document("security.istio.io/v1", "AuthorizationPolicy", json!({ "name": "p" }), json!({ "spec": spec }));
        format!("{}\n---\n{policy}", entry(json!({})))
    };
    let rule = |rule: Value| policy(json!({ "rules": [rule] }));
    let to = |operation: Value| rule(json!({ "to": [{ "operation": operation }] }));
    let when = |condition: Value| rule(json!({ "when": [condition] }));
    let target = json!([{ "kind": "ServiceEntry", "group": "networking.istio.io", "name": "a" }]);
    let fine = || to(json!({ "methods": ["GET"], "notPaths": ["/x/{*}/y/{**}"], "ports": ["443"] }));
    golden(&[
        (
            policy(json!({ "selector": { "matchLabels": { "app": "a" } }, "targetRefs": target })),
            "E205 spec.selector: either `selector` or `targetRefs`: they name different things",
            policy(json!({ "targetRefs": target })),
        ),
        (
            to(json!({ "methods": [] })),
            "E206 spec.rules[0].to[0].operation.methods: no values: leave the field out, or name some",
            fine(),
        ),
        (
            to(json!({})),
            "E206 spec.rules[0].to[0].operation: this asks for nothing: leave it out, or say what it asks for",
            fine(),
        ),
        (
            rule(json!({ "from": [] })),
            "E206 spec.rules[0].from: `from` is empty: leave it out, or say what it asks for",
            rule(json!({})),
        ),
        (
            when(json!({ "key": "source.ip", "values": ["10.0.0.0/33"] })),
            "E035 spec.rules[0].when[0].values[0]: \"10.0.0.0/33\": neither an address nor a network such as 192.0.2.0/24",
            when(json!({ "key": "source.ip", "values": ["10.0.0.0/8", "2001:db8::1"] })),
        ),
        (
            to(json!({ "ports": ["0"] })),
            "E035 spec.rules[0].to[0].operation.ports[0]: \"0\": not a port, 1 to 65535, as text",
            fine(),
        ),
        (
            to(json!({ "paths": ["/a/{*}b"] })),
            "E035 spec.rules[0].to[0].operation.paths[0]: \"{*}b\": in a path template a segment is a text, `{*}` or `{**}`",
            fine(),
        ),
        (
            when(json!({ "key": "source.ip" })),
            "E031 spec.rules[0].when[0]: `values` or `notValues` is missing",
            when(json!({ "key": "request.headers[X-Team]", "notValues": ["red"] })),
        ),
        (
            when(json!({ "key": "request.headers", "values": ["a"] })),
            "E207 spec.rules[0].when[0].key: \"request.headers\" is no key that conditions know (known: source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount, destination.ip, destination.port, connection.sni, request.auth.principal, request.auth.audiences, request.auth.presenter, request.headers[NAME])",
            when(json!({ "key": "request.headers[a]", "values": ["a"] })),
        ),
        (
            when(json!({ "key": "experimental.envoy.filters.a.b[c]", "values": ["a"] })),
            "W204 spec.rules[0].when[0].key: never known here: an ALLOW does not hold by it, and a DENY holds without it",
            when(json!({ "key": "destination.port", "values": ["443"] })),
        ),
        (
            policy(json!({ "action": "DENY" })),
            "W204 spec.action: a DENY without rules never holds, and refuses nothing; `rules: [{}]` refuses everything",
            policy(json!({ "action": "DENY", "rules": [{}] })),
        ),
        (
            policy(json!({ "action": "CUSTOM", "rules": [{}] })),
            "E036 spec.action: CUSTOM asks an authorizer of the mesh, and none is asked here: what it refuses would pass (say it with ALLOW and DENY; until then this configuration does not come into force)",
            policy(json!({})),
        ),
    ]);
    let missing = problems(&policy(json!({ "targetRefs": [{ "kind": "ServiceEntry", "name": "b" }] })));
    assert_eq!(missing, ["W187 spec.targetRefs[0]: no loaded resource of this namespace is called b"]);
}

#[test]
fn istio_s_tables_of_sidecars_and_workload_entries_hold() {
    for (file, rows) in [("sidecar.json", 37), ("workloadentry.json", 4)] {
        let Some(cases) = shared_cases(file) else { return };
        let mut seen = Cases::default();
        for (_, row) in cases.rows() {
            let diagnostics = check(&unfolded(&row["resource"]).to_string());
            let name = row["name"].as_str().expect("a name");
            let shown = diagnostics.render(false);
            assert_eq!(diagnostics.errors() == 0, row["valid"].as_bool().expect("a verdict"), "{name}:\n{shown}");
            // Where Istio warns, so do we; of a Sidecar we also say what of it is passed over.
            if row["warning"] == true {
                assert!(diagnostics.warnings() > 0, "{name}:\n{shown}");
            } else if row["valid"] == true && file != "sidecar.json" {
                assert_eq!(diagnostics.warnings(), 0, "{name}:\n{shown}");
            }
            seen.held();
        }
        seen.report(file, rows);
    }
}

#[test]
fn rules_of_sidecars_have_a_code_a_message_and_a_passing_neighbour() {
    let sidecar = |spec: Value| {
        let sidecar = document("networking.istio.io/v1", "Sidecar", json!({ "name": "s" }), json!({ "spec": spec }));
        format!("{}\n---\n{sidecar}", entry(json!({})))
    };
    let egress = |items: Value| sidecar(json!({ "egress": items }));
    let fine = || egress(json!([{ "hosts": ["./a.test", "*/*.b.test", "~other/*"] }]));
    golden(&[
        (
            egress(json!([{ "hosts": ["a.test"] }, ])),
            "E035 spec.egress[0].hosts[0]: \"a.test\": this is NAMESPACE/HOST, with `.`, `*` or `~` as namespaces",
            fine(),
        ),
        (
            egress(json!([{ "hosts": ["./*a.test"] }])),
            "E035 spec.egress[0].hosts[0]: \"./*a.test\": a wildcard stands for whole labels: `*.example.com`",
            fine(),
        ),
        (
            egress(json!([{ "port": { "number": 443 }, "hosts": ["./*"], "bind": "127.0.0.1" }])),
            "W001 spec.egress[0].bind: not supported, and ignored: `listeners` of the settings say where clients connect",
            egress(json!([{ "port": { "number": 443 }, "hosts": ["./*"] }])),
        ),
        (
            sidecar(json!({ "outboundTrafficPolicy": { "mode": "ALLOW_ANY_DYNAMIC_DNS" } })),
            "E035 spec.outboundTrafficPolicy.mode: a Sidecar says REGISTRY_ONLY or ALLOW_ANY",
            sidecar(json!({ "outboundTrafficPolicy": { "mode": "ALLOW_ANY" } })),
        ),
    ]);
}

#[test]
fn istio_s_table_of_whole_resources_holds() {
    let Some(cases) = shared_cases("crd-schema.json") else { return };
    let mut seen = Cases::default();
    for (table, row) in cases.rows() {
        let name = row["name"].as_str().expect("a name");
        let reason = match (table, name) {
            ("crds/serviceentry-valid.yaml", "full") => {
                Some("Istio's own validation refuses 001:db8::, only the schema passes it")
            }
            ("crds/serviceentry-valid.yaml", _) => {
                Some("the schema passes entries without ports, of which nothing could be asked")
            }
            ("crds/destinationrule-invalid.yaml", _) => Some("warm-up is ignored with a warning, not judged"),
            _ => None,
        };
        if let Some(reason) = reason {
            seen.skipped(table, reason);
            continue;
        }
        let diagnostics = check(&unfolded(&row["object"]).to_string());
        let shown = diagnostics.render(false);
        assert_eq!(diagnostics.errors() == 0, row["valid"].as_bool().expect("a verdict"), "{table} {name}:\n{shown}");
        seen.held();
    }
    seen.report("crd-schema.json", 13);
}

#[test]
fn hostile_documents_of_these_kinds_are_diagnosed_not_followed() {
    for rest in [
        json!({ "spec": [] }),
        json!({ "spec": "a" }),
        json!({ "spec": { "ports": {}, "selector": [], "clusterIP": {}, "clusterIPs": {} } }),
        json!({ "spec": { "ports": [null, [], "a", { "port": "x", "targetPort": [], "name": 1, "protocol": 2 }] } }),
        json!({ "subsets": { "a": 1 } }),
        json!({ "subsets": [[], null, { "addresses": [null, 1, { "ip": null }], "ports": [[]] }] }),
        json!({ "addressType": [], "endpoints": 1, "ports": null }),
        json!({ "addressType": "IPv4", "endpoints": [{ "addresses": {}, "conditions": [] }], "ports": [{ "port": -1 }] }),
        json!({ "data": [], "spec": { "meshConfig": [] } }),
        json!({ "data": { "mesh": "a: [" } }),
        json!({ "data": { "mesh": "" } }),
        json!({ "data": { "mesh": "[]" } }),
        json!({ "spec": { "targetRefs": {}, "targetRef": [], "action": [] } }),
        json!({ "spec": { "address": [], "ports": [], "labels": [], "weight": -1 } }),
    ] {
        for (version, kind) in [
            ("v1", "Service"),
            ("v1", "Endpoints"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
            ("networking.istio.io/v1", "WorkloadEntry"),
            ("v1", "ConfigMap"),
            ("install.istio.io/v1alpha1", "IstioOperator"),
            ("security.istio.io/v1", "AuthorizationPolicy"),
        ] {
            let metadata = json!({ "name": "istio", "namespace": "istio-system", "labels": { "kubernetes.io/service-name": "a" } });
            let document = document(version, kind, metadata, rest.clone()).to_string();
            check(&document); // no panic, and in bounded time
        }
    }
}
