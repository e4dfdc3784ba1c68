//! Services, their addresses, aliases, workloads: what a flow meets.

use super::*;
use crate::config::Severity;
use crate::route::TunnelKind;

const SERVICE: &str = "---\napiVersion: v1\nkind: Service\n";

fn named(name: &str, rest: &str) -> String {
    format!("{SERVICE}metadata: {{ name: {name} }}\nspec: {rest}\n")
}

fn endpoints(name: &str, subsets: &str) -> String {
    format!("---\napiVersion: v1\nkind: Endpoints\nmetadata: {{ name: {name} }}\nsubsets: {subsets}\n")
}

fn slice(name: &str, of: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}, labels: {{ kubernetes.io/service-name: {of} }} }}\n{rest}\n"
    )
}

fn workload(name: &str, spec: &str) -> String {
    resource("WorkloadEntry", name, spec)
}

fn codes(loaded: &Loaded) -> Vec<&'static str> {
    loaded.diagnostics().iter().map(|diagnostic| diagnostic.code.as_str()).collect()
}

const HOST: &str = "default.svc.cluster.local";

/// CONTRACT, "STATIC, Service | host | VIP, headless endpoint | endpoints; none: 503 UH; a Service without Endpoints: its clusterIP".
#[test]
fn a_service_is_asked_and_dialled_as_the_contract_says() {
    let tls = "ports: [{ port: 443, name: tls, targetPort: 8443 }]";
    let rules = [
        named("vip", &format!("{{ clusterIP: 10.96.0.1, {tls} }}")),
        endpoints(
            "vip",
            "[{ addresses: [{ ip: 198.51.100.1 }, { ip: 198.51.100.2 }], ports: [{ name: tls, port: 9443 }] }]",
        ),
        named(
            "bare",
            &format!("{{ clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2, 'fd00::2'], selector: {{ app: x }}, {tls} }}"),
        ),
        named("empty", &format!("{{ clusterIP: 10.96.0.3, {tls} }}")),
        endpoints("empty", "[]"),
        named("headless", &format!("{{ clusterIP: None, {tls} }}")),
        slice(
            "headless-1",
            "headless",
            "addressType: IPv4\nendpoints: [{ addresses: [198.51.100.5] }, { addresses: [198.51.100.6] }]\nports: [{ name: tls, port: 7443 }]",
        ),
        named("nowhere", &format!("{{ {tls} }}")),
        named("file", "{ ports: [{ port: 80 }] }"),
        endpoints("file", "[{ addresses: [{ ip: 198.51.100.9 }], ports: [{ port: 8080 }] }]"),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    assert_eq!(codes(&loaded), ["W195"], "{}", loaded.diagnostics().render(false));
    for (asked, expected) in [
        (format!("vip.{HOST}:443"), "static 198.51.100.1:9443 198.51.100.2:9443"),
        ("10.96.0.1:443".into(), "static 198.51.100.1:9443 198.51.100.2:9443"),
        (format!("bare.{HOST}:443"), "static 10.96.0.2:443"),
        ("10.96.0.2:443".into(), "static 10.96.0.2:443"),
        ("[fd00::2]:443".into(), "static 10.96.0.2:443"),
        (format!("empty.{HOST}:443"), "static "),
        (format!("headless.{HOST}:443"), "static 198.51.100.5:7443 198.51.100.6:7443"),
        ("198.51.100.6:443".into(), "static 198.51.100.6:7443"),
        (format!("nowhere.{HOST}:443"), "static "),
        (format!("file.{HOST}:80"), "static 198.51.100.9:8080"),
    ] {
        assert_eq!(discovery(&loaded.ask(&asked)), expected, "{asked}");
    }
    // What has an address of its own hides its endpoints; so does what a cluster would have given one.
    for asked in ["198.51.100.1:443", "198.51.100.9:80", "10.96.0.1:8443", "10.96.0.1:80"] {
        assert!(loaded.ask(asked).verdict.is_err(), "{asked}");
    }
}

#[test]
fn addresses_of_a_service_may_be_dialled_for_it_and_for_nothing_else() {
    let rules = [
        named("a", "{ clusterIP: 10.96.0.1, ports: [{ port: 443, name: tls }] }"),
        endpoints("a", "[{ addresses: [{ ip: 10.0.0.7 }], ports: [{ name: tls, port: 443 }] }]"),
        named("b", "{ clusterIP: 10.96.0.2, ports: [{ port: 443, name: tls }] }"),
        named("meta", "{ clusterIP: None, ports: [{ port: 80 }] }"),
        endpoints("meta", "[{ addresses: [{ ip: 169.254.169.254 }], ports: [{ port: 80 }] }]"),
        named("x", "{ type: ExternalName, externalName: internal.test, ports: [{ port: 443, name: tls }] }"),
    ];
    let loaded = load("", &rules.concat()).clean();
    let judge = |asked: &str, ip: &str| {
        let cluster = loaded.ask(asked).verdict.expect("allowed").cluster;
        cluster.addresses.judge(ip.parse().expect("an address")).is_ok()
    };
    assert!(judge("a.default:443", "10.0.0.7"));
    assert!(!judge("a.default:443", "10.96.0.1"), "not dialled, so not opened");
    assert!(judge("b.default:443", "10.96.0.2"));
    assert!(!judge("b.default:443", "10.0.0.7") && !judge("other.test:443", "10.0.0.7"));
    assert!(!judge("meta.default:80", "169.254.169.254"), "metadata addresses stay closed");
    assert!(!judge("x.default:443", "10.0.0.7"), "what DNS says is judged");
}

/// CONTRACT, "Kubernetes Services: `off`"; an ExternalName fits by its `externalName`.
#[test]
fn what_flows_to_a_service_of_the_cluster_is_not_judged_unless_it_says_so() {
    use crate::route::consistency::Mode;
    let rules = [
        named("a", "{ clusterIP: 10.96.0.1, ports: [{ port: 443, name: tls }] }"),
        format!(
            "{SERVICE}metadata: {{ name: b, annotations: {{ egret.dev/consistency: enforce }} }}\nspec: {{ clusterIP: 10.96.0.2, ports: [{{ port: 443, name: tls }}] }}\n"
        ),
        named("x", "{ type: ExternalName, externalName: far.test, ports: [{ port: 443, name: tls }] }"),
        named("y", &format!("{{ type: ExternalName, externalName: a.{HOST} }}")),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    let mode =
        |asked: &str| loaded.ask(asked).service.expect("a service").consistency.as_ref().map(|policy| policy.mode);
    assert_eq!((mode("a:443"), mode("y:443")), (Some(Mode::Off), Some(Mode::Off)));
    assert_eq!((mode("b:443"), mode("x:443")), (Some(Mode::Enforce), None));
    let hosts = loaded.ask("x:443").service.expect("a service").hosts.clone();
    assert!(hosts.iter().any(|host| **host == *"far.test"), "{hosts:?}");
}

#[test]
fn readiness_decides_which_endpoints_count() {
    let ports = "ports: [{ name: tls, port: 443 }]";
    let of = |name: &str, more: &str| {
        named(name, &format!("{{ clusterIP: None, {more} ports: [{{ port: 443, name: tls }}] }}"))
    };
    let slices = |of: &str| {
        slice(
            &format!("{of}-1"),
            of,
            &format!(
                "addressType: IPv4\nendpoints:\n- {{ addresses: [192.0.2.1], conditions: {{ ready: true }} }}\n- {{ addresses: [192.0.2.2] }}\n- {{ addresses: [192.0.2.3], conditions: {{ ready: false, serving: true, terminating: true }} }}\n- {{ addresses: [192.0.2.4], conditions: {{ ready: false }} }}\n{ports}"
            ),
        ) + &slice(
            &format!("{of}-2"),
            of,
            // One address moves between slices; UDP ports and ports without number serve nothing here.
            "addressType: IPv4\nendpoints: [{ addresses: [192.0.2.1] }]\nports: [{ name: tls, port: 443 }, { name: dns, port: 53, protocol: UDP }, { name: all }]",
        )
    };
    let rules = [
        of("ready", ""),
        slices("ready"),
        of("all", "publishNotReadyAddresses: true,"),
        slices("all"),
        of("old", ""),
        endpoints(
            "old",
            &format!("[{{ addresses: [{{ ip: 192.0.2.1 }}], notReadyAddresses: [{{ ip: 192.0.2.2 }}], {ports} }}]"),
        ),
        of("both", ""),
        endpoints("both", &format!("[{{ addresses: [{{ ip: 192.0.2.9 }}], {ports} }}]")),
        slice("both-1", "both", &format!("addressType: IPv4\nendpoints: [{{ addresses: [192.0.2.8] }}]\n{ports}")),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    assert_eq!(codes(&loaded), ["W194"], "{}", loaded.diagnostics().render(false));
    for (asked, expected) in [
        ("ready.default:443", "static 192.0.2.1:443 192.0.2.2:443"),
        ("all.default:443", "static 192.0.2.1:443 192.0.2.2:443 192.0.2.3:443 192.0.2.4:443"),
        ("old.default:443", "static 192.0.2.1:443"),
        ("both.default:443", "static 192.0.2.8:443"),
    ] {
        assert_eq!(discovery(&loaded.ask(asked)), expected, "{asked}");
    }
}

#[test]
fn kubernetes_names_are_short_as_seen_from_the_namespace() {
    let ports = "ports: [{ port: 80, name: http }]";
    let rules = [
        named("own", &format!("{{ clusterIP: 10.96.0.1, {ports} }}")),
        format!("{SERVICE}metadata: {{ name: far, namespace: other }}\nspec: {{ clusterIP: 10.96.0.2, {ports} }}\n"),
        service_entry(
            "taken",
            &format!(
                "hosts: [far.other]\nports: [{{ number: 80, name: http, protocol: HTTP }}]\nresolution: NONE\n# {ports}"
            ),
        ),
        service_entry(
            "entry",
            "hosts: [cloud.other.svc.cluster.local]\nports: [{ number: 80, name: http, protocol: HTTP }]\nresolution: DNS",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    let own = format!("outbound|80||own.{HOST}");
    let far = "outbound|80||far.other.svc.cluster.local";
    for (asked, expected) in [
        ("own:80", own.as_str()),
        ("own.default:80", &own),
        ("own.default.svc:80", &own),
        (&format!("OWN.{HOST}.:80"), &own),
        ("http://own/", &own),
        ("http://far.other.svc/", far),
        ("far.other:80", "outbound|80||far.other"), // declared in full
        ("cloud.other:80", "outbound|80||cloud.other.svc.cluster.local"),
    ] {
        assert_eq!(loaded.verdict(asked), expected, "{asked}");
    }
    for asked in ["far:80", "cloud:80", "own.other:80", "own.default.svc.cluster:80", "x.own.default:80", "own:81"] {
        assert!(loaded.ask(asked).verdict.is_err(), "{asked}");
    }
    assert_eq!(&*loaded.ask("own:80").service.expect("a service").host, format!("own.{HOST}"));
}

#[test]
fn the_own_namespace_comes_first_then_kubernetes_then_the_oldest() {
    let service = |namespace: &str, export: &str| {
        format!(
            "{SERVICE}metadata: {{ name: a, namespace: {namespace}, annotations: {{ networking.istio.io/exportTo: '{export}' }} }}\nspec: {{ clusterIP: 10.96.0.1, ports: [{{ port: 443, name: tls }}] }}\n"
        )
    };
    let entry = |namespace: &str, host: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: squatter, namespace: {namespace}, creationTimestamp: '2020-01-01T00:00:00Z' }}\nspec: {{ hosts: [{host}], ports: [{{ number: 443, name: tls, protocol: TLS }}], resolution: STATIC, endpoints: [{{ address: 203.0.113.1 }}] }}\n"
        )
    };
    let ask = |rules: &str, host: &str| {
        let loaded = load(REGISTRY_ONLY, rules);
        let choice = loaded.ask(&format!("{host}:443"));
        if choice.is_allowed() { discovery(&choice) } else { "refused".to_owned() }
    };
    let far = "a.other.svc.cluster.local";
    // An entry of a third namespace does not take the host of a Service, however old it is.
    assert_eq!(ask(&format!("{}{}", entry("third", far), service("other", "*")), far), "static 10.96.0.1:443");
    // One of the client's own does.
    assert_eq!(ask(&format!("{}{}", service("other", "*"), entry("default", far)), far), "static 203.0.113.1:443");
    // Where both are its own, the Service.
    let own = format!("a.{HOST}");
    assert_eq!(ask(&format!("{}{}", entry("default", &own), service("default", "*")), &own), "static 10.96.0.1:443");
    // What is not exported is not there: the task "egress-tls-origination" hides a Service so.
    assert_eq!(ask(&format!("{}{}", service("other", "."), entry("third", far)), far), "static 203.0.113.1:443");
    assert_eq!(ask(&service("other", "."), far), "refused");
    assert_eq!(ask(&service("other", "default"), far), "static 10.96.0.1:443");
    assert_eq!(ask(&service("default", "~"), &own), "refused");
}

#[test]
fn an_external_name_is_an_alias_of_what_is_known_and_else_a_dns_service() {
    let external = |name: &str, to: &str, ports: &str| {
        named(name, &format!("{{ type: ExternalName, externalName: {to}, ports: {ports} }}"))
    };
    let http = "[{ port: 80, name: http }]";
    let rules = [
        service_entry(
            "known",
            "hosts: [known.test]\nports: [{ number: 80, name: http, protocol: HTTP }, { number: 443, name: tls, protocol: TLS }]\nresolution: STATIC\nendpoints: [{ address: 192.0.2.1 }]",
        ),
        external("alias", "known.test", "[{ port: 80, name: http }, { port: 81, name: x }]"),
        external("second", &format!("alias.{HOST}"), http),
        external("own", "Unknown.test.", http),
        external("third", &format!("own.{HOST}"), http),
        external("loop", &format!("pool.{HOST}"), http),
        external("pool", &format!("loop.{HOST}"), http),
        named("bare", "{ type: ExternalName, externalName: known.test }"),
        resource(
            "DestinationRule",
            "idle",
            &format!("host: alias.{HOST}\ntrafficPolicy: {{ tls: {{ mode: SIMPLE }} }}"),
        ),
        resource(
            "DestinationRule",
            "used",
            &format!("host: own.{HOST}\ntrafficPolicy: {{ connectionPool: {{ tcp: {{ connectTimeout: 3s }} }} }}"),
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    let mut found = codes(&loaded);
    found.sort_unstable();
    assert_eq!(found, ["W187", "W198", "W199", "W199"], "{}", loaded.diagnostics().render(false));
    for (asked, cluster, dialled) in [
        ("alias.default:80", "outbound|80||known.test", "static 192.0.2.1:80"),
        ("alias:443", "outbound|443||known.test", "static 192.0.2.1:443"),
        ("second:443", "outbound|443||known.test", "static 192.0.2.1:443"),
        ("bare:443", "outbound|443||known.test", "static 192.0.2.1:443"),
        ("own:80", "outbound|80||own.default.svc.cluster.local", "dns unknown.test:80"),
        ("third:80", "outbound|80||own.default.svc.cluster.local", "dns unknown.test:80"),
    ] {
        assert_eq!(loaded.verdict(asked), cluster, "{asked}");
        assert_eq!(discovery(&loaded.ask(asked)), dialled, "{asked}");
    }
    for asked in ["alias:81", "loop:80", "pool:80", "unknown.test:80"] {
        assert!(loaded.ask(asked).verdict.is_err(), "{asked}");
    }
    let choice = loaded.ask("alias:443");
    assert_eq!(&*choice.service.expect("a service").origin.resource, "Service default/alias");
    assert_eq!(loaded.ask("own:80").verdict.expect("allowed").cluster.connect_timeout.as_secs(), 3);
}

#[test]
fn a_virtual_service_of_an_alias_counts_for_http_and_routes_to_aliases_lead_on() {
    let entry = |name: &str| {
        service_entry(
            name,
            &format!(
                "hosts: [{name}.test]\nports: [{{ number: 80, name: http, protocol: HTTP }}, {{ number: 443, name: tls, protocol: TLS }}]\nresolution: DNS"
            ),
        )
    };
    let rules = [
        entry("known"),
        entry("other"),
        named("alias", "{ type: ExternalName, externalName: known.test }"),
        resource(
            "VirtualService",
            "of-alias",
            "hosts: [alias]\nhttp:\n- route: [{ destination: { host: other.test } }]",
        ),
        resource(
            "VirtualService",
            "to-alias",
            "hosts: [other.test]\ntls:\n- match: [{ sniHosts: [other.test] }]\n  route: [{ destination: { host: alias, port: { number: 443 } } }]",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat()).clean();
    for (asked, expected) in [
        ("http://alias/", "outbound|80||other.test"),
        ("http://known.test/", "outbound|80||known.test"),
        ("alias.default:443", "outbound|443||known.test"),
        ("other.test:443", "outbound|443||known.test"),
    ] {
        assert_eq!(loaded.verdict(asked), expected, "{asked}");
    }
}

#[test]
fn workloads_are_selected_in_their_namespace_by_their_labels() {
    let entry = |name: &str, resolution: &str, labels: &str| {
        service_entry(
            name,
            &format!(
                "hosts: [{name}.test]\nports: [{{ number: 443, name: tls, protocol: TLS, targetPort: 8443 }}]\nresolution: {resolution}\nworkloadSelector: {{ labels: {labels} }}"
            ),
        )
    };
    let rules = [
        entry("all", "STATIC", "{ app: a }"),
        entry("some", "STATIC", "{ app: a, version: v1 }"),
        entry("names", "DNS", "{ app: n }"),
        entry("round", "DNS_ROUND_ROBIN", "{ app: n }"),
        workload("w1", "address: 192.0.2.1\nlabels: { app: a, version: v1 }\nports: { tls: 9443, other: 1 }\nweight: 3"),
        workload("w2", "address: 192.0.2.2\nlabels: { app: a }"),
        workload("w3", "address: n1.test\nlabels: { app: n }"),
        workload("w4", "address: n2.test\nlabels: { app: n }\nports: { tls: 1443 }"),
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: { name: far, namespace: other }\nspec: { address: 192.0.2.9, labels: { app: a } }\n".to_owned(),
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: { name: w5, labels: { app: a, version: v0 } }\nspec: { address: 192.0.2.5, labels: { version: v2 } }\n".to_owned(),
        resource("DestinationRule", "all", "host: all.test\nsubsets: [{ name: v2, labels: { version: v2 } }]"),
        resource("VirtualService", "all", "hosts: [v2.all.test]\nhttp:\n- route: [{ destination: { host: all.test, subset: v2, port: { number: 443 } } }]"),
        named("svc", "{ clusterIP: 10.96.0.9, selector: { app: a, version: v1 }, ports: [{ port: 443, name: x, targetPort: other }, { port: 80, name: y, targetPort: 8080 }, { port: 81, name: tls }] }"),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    assert_eq!(codes(&loaded), ["W192", "W187"], "{}", loaded.diagnostics().render(false));
    for (asked, expected) in [
        ("all.test:443", "static 192.0.2.1:9443 192.0.2.2:8443 192.0.2.5:8443"),
        ("some.test:443", "static 192.0.2.1:9443"),
        ("names.test:443", "dns n1.test:8443 n2.test:1443"),
        ("round.test:443", "dns n1.test:8443"),
        ("http://v2.all.test/", "static 192.0.2.5:8443"),
        ("svc:443", "static 192.0.2.1:1"),
        ("svc:80", "static 192.0.2.1:8080"),
        ("svc:81", "static 192.0.2.1:9443"),
    ] {
        assert_eq!(discovery(&loaded.ask(asked)), expected, "{asked}");
    }
    let cluster = loaded.ask("some.test:443").verdict.expect("allowed").cluster;
    assert!(matches!(&cluster.discovery, Discovery::Static(endpoints) if endpoints[0].weight == 3));
    assert!(cluster.addresses.judge("192.0.2.1".parse().expect("an address")).is_ok(), "spelled out by a resource");
    // A socket is dialled under the folders of the settings only, and the place named is that of the workload.
    let socket =
        [entry("s", "STATIC", "{ app: s }"), workload("s", "address: unix:///var/run/docker.sock\nlabels: { app: s }")];
    let loaded = load("", &socket.concat());
    let problem = loaded.diagnostics().iter().find(|found| found.severity() == Severity::Error).expect("refused");
    assert_eq!(
        (problem.code.as_str(), &*problem.resource, &*problem.path),
        ("E182", "WorkloadEntry default/s", "spec")
    );
}

/// What a policy's document is without its spec.
fn authorization(name: &str, spec: &str) -> String {
    let spec = spec.lines().map(|line| format!("  {line}\n")).collect::<String>();
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: {name} }}\nspec:\n{spec}"
    )
}

#[test]
fn a_policy_protects_its_services_however_they_are_asked_for() {
    let rules = [
        service_entry(
            "api",
            "hosts: [api.test, '*.api.test']\naddresses: [192.0.2.7, 198.51.100.0/24]\nports: [{ number: 80, name: http, protocol: HTTP }, { number: 443, name: tls, protocol: TLS }]\nresolution: NONE",
        ),
        service_entry(
            "free",
            "hosts: [free.test]\nports: [{ number: 80, name: http, protocol: HTTP }]\nresolution: DNS",
        ),
        named("alias", "{ type: ExternalName, externalName: api.test }"),
        resource(
            "VirtualService",
            "narrow",
            "hosts: [one.api.test]\nhttp:\n- route: [{ destination: { host: free.test } }]",
        ),
        authorization(
            "get",
            "targetRefs: [{ kind: ServiceEntry, group: networking.istio.io, name: api }]\naction: ALLOW\nrules: [{ to: [{ operation: { methods: [GET] } }] }]",
        ),
    ];
    let loaded = load("", &rules.concat());
    assert_eq!(codes(&loaded), [""; 0], "{}", loaded.diagnostics().render(false));
    for asked in [
        "api.test:443",
        "x.api.test:443",
        "192.0.2.7:443",
        "alias:443",
        "POST http://api.test/",
        "POST http://198.51.100.9/",
        "POST http://one.api.test/",
    ] {
        let choice = loaded.ask(asked);
        let refusal = choice.verdict.expect_err(asked);
        assert_eq!((refusal.error.row().status, refusal.stage.as_str()), (403, "authorization"), "{asked}");
        assert!(refusal.detail.starts_with("RBAC: access denied"), "{}", refusal.detail);
    }
    for asked in
        ["http://api.test/", "http://198.51.100.9/", "http://one.api.test/", "http://free.test/", "free.test:80"]
    {
        assert!(loaded.ask(asked).is_allowed(), "{asked}");
    }
    // Its methods are seen inside the tunnel, so it is served from there.
    let route = loaded.ask("api.test:80").verdict.expect("a tunnel");
    assert_eq!(route.tunnel, TunnelKind::Terminated("AuthorizationPolicy default/get".into()));
    let nearest = with_flow("POST http://api.test/", |flow| loaded.configuration.snapshot.nearest(flow)).expect("near");
    assert_eq!(
        (&*nearest.rule, nearest.differs_in, &*nearest.declared),
        ("AuthorizationPolicy default/get", "method", "GET")
    );
    let by = loaded.ask("http://api.test/").authorized.expect("a rule");
    assert_eq!(&*by.resource, "AuthorizationPolicy default/get");
}

#[test]
fn policies_of_workloads_judge_every_flow_of_theirs_and_no_other() {
    let settings = "mesh: { rootNamespace: root }\nworkload: { namespace: a, labels: { app: x } }\nlisteners: [{ name: a, address: '127.0.0.1:1' }, { name: b, address: '127.0.0.1:2', workload: { namespace: a } }, { name: c, address: '127.0.0.1:3', workload: { namespace: c } }]\n";
    let deny = |name: &str, namespace: &str, selector: &str, host: &str| {
        authorization(
            name,
            &format!("{selector}action: DENY\nrules: [{{ to: [{{ operation: {{ hosts: [{host}] }} }}] }}]"),
        )
        .replace(&format!("name: {name}"), &format!("name: {name}, namespace: {namespace}"))
    };
    let rules = [
        deny("all", "root", "", "all.test"),
        deny("own", "a", "", "own.test"),
        deny("x", "a", "selector: { matchLabels: { app: x } }\n", "x.test"),
        deny("other", "c", "selector: { matchLabels: { app: x } }\n", "other.test"),
    ];
    let loaded = load(settings, &rules.concat());
    assert_eq!(codes(&loaded), [""; 0], "{}", loaded.diagnostics().render(false));
    let refused = |listener: &str| -> Vec<&str> {
        let hosts = ["all.test", "own.test", "x.test", "other.test", "none.test"];
        let settings = &loaded.configuration.settings;
        let listener = settings.listeners.iter().find(|found| &*found.name.value == listener).expect("a listener");
        let workload = settings.workload_of(listener);
        let refused = |host: &&str| {
            with_flow(&format!("{host}:443"), |flow| {
                let source = crate::flow::Source { workload: workload.clone(), ..flow.source.clone() };
                !loaded
                    .configuration
                    .snapshot
                    .route(&crate::flow::Flow { source: &source, ..flow.clone() })
                    .is_allowed()
            })
        };
        hosts.into_iter().filter(refused).collect()
    };
    assert_eq!(refused("a"), ["all.test", "own.test", "x.test"]);
    assert_eq!(refused("b"), ["all.test", "own.test"]);
    assert_eq!(refused("c"), ["all.test"]);
}

#[test]
fn a_rule_for_some_workloads_applies_to_these_alone() {
    let settings = |labels: &str| {
        format!(
            "workload: {{ labels: {labels} }}\nlisteners: [{{ name: a, address: '127.0.0.1:1' }}, {{ name: b, address: '127.0.0.1:2', workload: {{ labels: {{ app: other }} }} }}]\n"
        )
    };
    let rule = |name: &str, app: &str, seconds: u8| {
        resource(
            "DestinationRule",
            name,
            &format!(
                "host: a.test\nworkloadSelector: {{ matchLabels: {{ app: {app} }} }}\ntrafficPolicy: {{ connectionPool: {{ tcp: {{ connectTimeout: {seconds}s }} }} }}"
            ),
        )
    };
    let rules = [
        service_entry("a", "hosts: [a.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: DNS"),
        rule("curl", "curl", 1),
        rule("other", "other", 2),
        resource(
            "DestinationRule",
            "all",
            "host: a.test\ntrafficPolicy: { connectionPool: { tcp: { connectTimeout: 3s } } }",
        ),
    ];
    let timeout = |settings: &str, labels: &[(&str, &str)]| {
        let loaded = load(settings, &rules.concat()).clean();
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let workload = crate::flow::Workload { labels, ..crate::flow::Workload::default() };
        let choice = with_flow("a.test:443", |flow| {
            let source = crate::flow::Source { workload: Arc::new(workload), ..flow.source.clone() };
            loaded.configuration.snapshot.route(&crate::flow::Flow {
                source: &source,
                ask: flow.ask,
                target: flow.target.clone(),
            })
        });
        choice.verdict.expect("allowed").cluster.connect_timeout.as_secs()
    };
    assert_eq!(timeout(&settings("{ app: curl, version: v1 }"), &[("app", "curl"), ("version", "v1")]), 1);
    assert_eq!(timeout(&settings("{ app: curl }"), &[("app", "other")]), 2);
    assert_eq!(timeout(&settings("{}"), &[]), 3);
    assert_eq!(timeout("", &[("app", "unheard-of")]), 3);
}

#[test]
fn ten_thousand_services_with_slices_load_in_seconds() {
    let count: u32 = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
    let service = |n: u32| {
        let ip = std::net::Ipv4Addr::from(0x0a60_0000 + n);
        named(
            &format!("s{n}"),
            &format!("{{ clusterIP: {ip}, ports: [{{ port: 443, name: tls }}, {{ port: 80, name: http }}] }}"),
        )
    };
    let slices = |n: u32| {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        slice(
            &format!("s{n}-x"),
            &format!("s{n}"),
            &format!(
                "addressType: IPv4\nendpoints: [{{ addresses: [{ip}] }}]\nports: [{{ name: tls, port: 8443 }}, {{ name: http, port: 8080 }}]"
            ),
        )
    };
    let text: String = (0..count).map(|n| service(n) + &slices(n)).collect();
    let started = std::time::Instant::now();
    let loaded = load(REGISTRY_ONLY, &text).clean();
    let elapsed = started.elapsed();
    eprintln!("{count} Services with slices in {elapsed:?}");
    let aim = std::time::Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 2 });
    assert!(elapsed < aim, "{elapsed:?}");
    let last = count - 1;
    assert_eq!(
        discovery(&loaded.ask(&format!("s{last}:443"))),
        format!("static {}:8443", std::net::Ipv4Addr::from(0x0a00_0000 + last))
    );
}

#[test]
fn a_sidecar_says_what_its_workloads_know_and_what_becomes_of_the_rest() {
    let entry = |name: &str, namespace: &str, host: &str| {
        let resolution = if host.contains('*') { "NONE" } else { "DNS" };
        service_entry(name, &format!("hosts: [{host}]\nports: [{{ number: 443, name: tls, protocol: TLS }}, {{ number: 80, name: http, protocol: HTTP }}]\nresolution: {resolution}"))
            .replace(&format!("name: {name}"), &format!("name: {name}, namespace: {namespace}"))
    };
    let sidecar = |name: &str, namespace: &str, spec: &str| {
        resource("Sidecar", name, spec)
            .replace(&format!("name: {name}"), &format!("name: {name}, namespace: {namespace}"))
    };
    let services =
        [entry("own", "default", "own.test"), entry("other", "b", "other.test"), entry("c", "c", "'*.wild.test'")]
            .concat();
    let known = |sidecars: &str| -> Vec<&'static str> {
        let loaded = load("mesh: { rootNamespace: root }\n", &format!("{services}{sidecars}"));
        assert_eq!(loaded.diagnostics().errors(), 0, "{}", loaded.diagnostics().render(false));
        let asked = ["own.test:443", "http://own.test/", "other.test:443", "x.wild.test:443"];
        asked.into_iter().filter(|asked| loaded.verdict(asked).starts_with("outbound|")).collect()
    };
    let only = |hosts: &str| format!("egress: [{{ hosts: [{hosts}] }}]");
    let all = ["own.test:443", "http://own.test/", "other.test:443", "x.wild.test:443"];
    assert_eq!(known(""), all);
    assert_eq!(known(&sidecar("s", "default", "outboundTrafficPolicy: { mode: ALLOW_ANY }")), all);
    assert_eq!(known(&sidecar("s", "default", &only("./*"))), ["own.test:443", "http://own.test/"]);
    assert_eq!(
        known(&sidecar("s", "default", &only("'*/*', ~b/*"))),
        ["own.test:443", "http://own.test/", "x.wild.test:443"]
    );
    assert_eq!(known(&sidecar("s", "default", &only("'c/*.test'"))), ["x.wild.test:443"]);
    assert_eq!(known(&sidecar("s", "default", &only("~/*"))), [""; 0]);
    assert_eq!(
        known(&sidecar("s", "root", &only("b/other.test"))),
        ["other.test:443"],
        "the default of all namespaces"
    );
    assert_eq!(known(&sidecar("s", "b", &only("~/*"))), all, "that of others");
    let ports = "egress: [{ port: { number: 80, name: http, protocol: HTTP }, hosts: [./*] }]";
    assert_eq!(known(&sidecar("s", "default", ports)), ["http://own.test/"]);

    let closed = sidecar("s", "default", "outboundTrafficPolicy: {}");
    let loaded = load("", &format!("{services}{closed}"));
    assert_eq!(loaded.verdict("unknown.test:443"), "not_found at registry: no route allows unknown.test:443");
    let origin = loaded.ask("unknown.test:443").verdict.expect_err("closed").origin.expect("a place");
    assert_eq!(&*origin.resource, "Sidecar default/s");
    let proxied = sidecar(
        "s",
        "default",
        "outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: own.test, port: { number: 80 } } }",
    );
    let loaded = load("", &format!("{services}{proxied}")).clean();
    let route = loaded.ask("unknown.test:443").verdict.expect("open");
    assert!(matches!(route.cluster.via, crate::route::Via::Connect(_)), "through the parent");
}
