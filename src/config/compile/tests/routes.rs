//! VirtualServices: which route takes which flow.

use super::*;
use crate::flow::Workload;

/// Services `a.test` and `b.test` with a port of each kind, and what a VirtualService for `a.test` makes of them.
fn routed(spec: &str) -> Loaded {
    routed_with("", spec)
}

fn routed_with(settings: &str, spec: &str) -> Loaded {
    let ports = "ports: [{ number: 80, name: http, protocol: HTTP }, { number: 443, name: tls, protocol: TLS }, { number: 81, name: tcp, protocol: TCP }, { number: 82, name: auto }]\nresolution: DNS";
    let entry = |name: &str, address: &str| {
        service_entry(name, &format!("hosts: [{name}.test]\naddresses: [{address}]\n{ports}"))
    };
    let rules = [
        entry("a", "198.51.100.1"),
        entry("b", "198.51.100.2"),
        entry("c", "198.51.100.3"),
        resource("VirtualService", "a", &format!("hosts: [a.test]\n{spec}")),
    ];
    load(&format!("{REGISTRY_ONLY}{settings}"), &rules.concat())
}

fn to(host: &str) -> String {
    format!("route: [{{ destination: {{ host: {host}.test }} }}]")
}

#[track_caller]
fn holds(loaded: &Loaded, table: &[(&str, &str)]) {
    for (asked, expected) in table {
        let verdict = loaded.verdict(asked);
        assert!(verdict.starts_with(expected), "{asked}: {verdict}, expected {expected}");
    }
}

#[test]
fn the_first_route_that_fits_is_taken_and_none_is_404() {
    let loaded = routed(&format!(
        "http:\n- name: one\n  match: [{{ name: m, uri: {{ prefix: /one }} }}, {{ method: {{ exact: PUT }}, headers: {{ x: {{ exact: y }} }} }}]\n  {}\n- match: [{{ uri: {{ exact: /two }} }}]\n  {}\n- name: three\n  match: [{{ queryParams: {{ q: {{ regex: '[0-9]+' }} }} }}]\n  {}",
        to("a"), to("b"), to("c")
    ))
    .clean();
    holds(
        &loaded,
        &[
            ("http://a.test/one/x", "outbound|80||a.test"),
            ("PUT http://a.test/two x=y", "outbound|80||a.test"),
            ("http://a.test/two", "outbound|80||b.test"),
            ("http://a.test/?q=12", "outbound|80||c.test"),
            ("http://a.test/", "route_not_found at route: no route of a.test:80 takes this request"),
            ("http://a.test:82/two", "outbound|82||b.test"),
            ("http://b.test/nothing", "outbound|80||b.test"),
            // A CONNECT to a port with http routes is served from inside, or decided there.
            ("a.test:80", "outbound|80||a.test terminated by VirtualService default/a"),
            ("a.test:82", "outbound|82||a.test detected for VirtualService default/a"),
            // They are nothing to TLS.
            ("a.test:443", "outbound|443||a.test"),
            ("https://a.test/one", "outbound|443||a.test over TLS"),
        ],
    );
    let name = |asked: &str| loaded.ask(asked).verdict.expect("allowed").name.to_string();
    assert_eq!(name("http://a.test/one"), "one.m");
    assert_eq!(name("PUT http://a.test/ x=y"), "one");
    assert_eq!(name("http://a.test/two"), "default");
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_refused_where_the_path_decides() {
    let loaded = routed(&format!(
        "http:\n- match: [{{ uri: {{ prefix: /admin }}, method: {{ exact: GET }} }}]\n  {}\n- {}",
        to("b"),
        to("a")
    ))
    .clean();
    let refused = "http_request_error at route: the path holds dot segments";
    holds(
        &loaded,
        &[
            ("http://a.test/admin", "outbound|80||b.test"),
            ("http://a.test/public/..%2fadmin", refused),
            ("http://a.test//admin", refused),
            ("http://a.test/x/../y", refused), // the path decided that it is not the first route
            ("POST http://a.test/x/../y", "outbound|80||a.test"), // the method did
            ("http://a.test/public", "outbound|80||a.test"),
            ("http://b.test/x/../y", "outbound|80||b.test"), // no routes, no rule
        ],
    );
}

#[test]
fn routes_are_for_ports_workloads_and_sidecars() {
    let loaded = routed(&format!(
        "http:\n- match: [{{ port: 82 }}]\n  {}\n- match: [{{ gateways: [egress] }}]\n  {}\n- match: [{{ sourceNamespace: other }}]\n  {}\n- match: [{{ gateways: [mesh], sourceLabels: {{ app: x }}, uri: {{ prefix: /g }} }}]\n  {}",
        to("b"),
        to("c"),
        to("c"),
        to("b")
    ));
    assert_eq!(loaded.problems(), ["W001 spec.http[1]"]);
    holds(
        &loaded,
        &[
            ("http://a.test:82/", "outbound|82||b.test"),
            ("http://a.test/g", "outbound|80||b.test"), // it names gateways, so the labels do not count
            ("http://a.test/", "route_not_found"),
        ],
    );
    let only_others = routed(&format!("http:\n- match: [{{ port: 1 }}]\n  {}", to("b"))).clean();
    holds(&only_others, &[("http://a.test/", "outbound|80||a.test"), ("a.test:80", "outbound|80||a.test")]);
}

#[test]
fn labels_of_the_client_decide_where_a_match_names_them() {
    let spec = format!(
        "http:\n- match: [{{ sourceLabels: {{ app: x }} }}]\n  {}\n- {}\ntls:\n- match: [{{ sniHosts: [a.test], sourceLabels: {{ app: x, tier: front }} }}]\n  {}\n- match: [{{ sniHosts: [a.test] }}]\n  {}",
        to("b"),
        to("c"),
        to("b"),
        to("c")
    );
    let listeners = "listeners:\n- { name: plain, address: \"127.0.0.1:0\" }\n- { name: x, address: \"127.0.0.1:0\", workload: { namespace: default, labels: { app: x } } }\n";
    let loaded = routed_with(listeners, &spec).clean();
    let snapshot = &loaded.configuration.snapshot;
    let ask_as = |labels: &[(&str, &str)], what: &str| {
        with_flow(what, |flow| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let workload = Arc::new(Workload { labels, ..Workload::default() });
            let source = crate::flow::Source { workload, ..flow.source.clone() };
            verdict(&snapshot.route(&crate::flow::Flow { source: &source, ..flow.clone() }))
        })
    };
    assert_eq!(ask_as(&[("app", "x")], "http://a.test/"), "outbound|80||b.test");
    assert_eq!(ask_as(&[], "http://a.test/"), "outbound|80||c.test");
    assert_eq!(ask_as(&[("app", "x")], "a.test:443"), "outbound|443||c.test");
}

#[test]
fn bytes_are_routed_by_name_and_by_address() {
    let loaded = routed(&format!(
        "tls:\n- match: [{{ sniHosts: [a.test], destinationSubnets: [198.51.100.0/24] }}]\n  {}\n- match: [{{ sniHosts: [a.test] }}]\n  {}\ntcp:\n- match: [{{ port: 81, destinationSubnets: [10.0.0.0/8] }}]\n  {}\n- match: [{{ port: 81 }}]\n  {}",
        to("b"), to("c"), to("b"), to("c")
    ))
    .clean();
    holds(
        &loaded,
        &[
            ("a.test:443", "outbound|443||b.test"), // whose address lies in the network
            ("198.51.100.1:443", "outbound|443||b.test"),
            ("sni:a.test:443", "outbound|443||b.test"),
            ("a.test:81", "outbound|81||c.test"),
        ],
    );
}

#[test]
fn weights_divide_flows_and_zero_takes_none() {
    let split = "route: [{ destination: { host: a.test }, weight: 25 }, { destination: { host: b.test }, weight: 75 }, { destination: { host: c.test }, weight: 0 }]";
    let loaded =
        routed(&format!("http:\n- {split}\ntls:\n- match: [{{ sniHosts: [a.test] }}]\n  {split}\ntcp:\n- {split}"))
            .clean();
    let snapshot = &loaded.configuration.snapshot;
    for asked in ["http://a.test/", "a.test:443", "a.test:81"] {
        let mut to_b = 0;
        for _ in 0..10_000 {
            let choice = with_flow(asked, |flow| snapshot.route_drawing(flow, |total| fastrand::u64(..total)));
            let name = choice.verdict.expect("allowed").cluster.name.to_string();
            assert!(!name.ends_with("c.test"), "{name}");
            to_b += u32::from(name.ends_with("b.test"));
        }
        assert!(to_b.abs_diff(7500) < 250, "{asked}: {to_b} of 10,000"); // more than five standard deviations
    }
    let single = routed("http:\n- route: [{ destination: { host: b.test }, weight: 0 }]").clean();
    assert_eq!(single.verdict("http://a.test/"), "outbound|80||b.test");
}

#[test]
fn a_destination_without_port_has_the_service_s_only_one_or_the_one_asked_for() {
    let one = service_entry(
        "one",
        "hosts: [one.test]\nports: [{ number: 8080, name: http, protocol: HTTP }]\nresolution: DNS",
    );
    let spec = "hosts: [a.test]\nhttp:\n- match: [{ uri: { prefix: /one } }]\n  route: [{ destination: { host: one.test } }]\n- match: [{ uri: { prefix: /443 } }]\n  route: [{ destination: { host: a.test, port: { number: 443 } } }]\n- route: [{ destination: { host: a.test } }]";
    let a = service_entry(
        "a",
        "hosts: [a.test]\nports: [{ number: 80, name: http, protocol: HTTP }, { number: 443, name: tls, protocol: TLS }]\nresolution: DNS",
    );
    let loaded = load(REGISTRY_ONLY, &[one, a, resource("VirtualService", "a", spec)].concat()).clean();
    holds(
        &loaded,
        &[
            ("http://a.test/one", "outbound|8080||one.test"),
            ("http://a.test/443", "outbound|443||a.test"),
            ("http://a.test/", "outbound|80||a.test"),
        ],
    );
}

#[test]
fn short_names_are_services_of_the_resource_s_namespace() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: { name: reviews, namespace: default }\nspec: { clusterIP: 10.0.0.1, ports: [{ name: http, port: 80 }] }\n";
    let rule = resource(
        "VirtualService",
        "reviews",
        "hosts: [reviews]\nhttp:\n- match: [{ uri: { prefix: /a } }]\n  route: [{ destination: { host: reviews } }]",
    );
    let loaded = load(REGISTRY_ONLY, &[service, &rule].concat()).clean();
    for host in ["reviews", "reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local"] {
        let expected = "outbound|80||reviews.default.svc.cluster.local";
        holds(&loaded, &[(&format!("http://{host}/a"), expected), (&format!("http://{host}/b"), "route_not_found")]);
    }
}

#[test]
fn the_oldest_has_the_host_and_the_most_specific_wins() {
    let ports = "ports: [{ number: 80, name: http, protocol: HTTP }]\nresolution: NONE";
    let rules = [
        service_entry("wild", &format!("hosts: ['*.x.test', one.x.test]\n{ports}")),
        service_entry("to", &format!("hosts: [first.test, second.test, third.test]\n{ports}")),
        resource(
            "VirtualService",
            "wide",
            "hosts: ['*.x.test']\nhttp:\n- route: [{ destination: { host: first.test } }]",
        ),
        resource(
            "VirtualService",
            "one",
            "hosts: [one.x.test]\nhttp:\n- route: [{ destination: { host: second.test } }]",
        ),
        resource(
            "VirtualService",
            "late",
            "hosts: [one.x.test]\nhttp:\n- route: [{ destination: { host: third.test } }]",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    assert_eq!(loaded.problems(), ["W186 spec.hosts[0]"]);
    holds(
        &loaded,
        &[("http://one.x.test/", "outbound|80||second.test"), ("http://two.x.test/", "outbound|80||first.test")],
    );
}

#[test]
fn a_host_that_nothing_declares_has_port_80_and_404_for_what_no_route_takes() {
    let rules = [
        service_entry("b", "hosts: [b.test]\nports: [{ number: 80, name: http, protocol: HTTP }]\nresolution: DNS"),
        resource(
            "VirtualService",
            "a",
            "hosts: [a.test]\nhttp:\n- match: [{ uri: { prefix: /b } }]\n  route: [{ destination: { host: b.test } }]",
        ),
    ];
    let loaded = load(REGISTRY_ONLY, &rules.concat());
    assert_eq!(loaded.problems(), ["W187 spec.hosts[0]"]);
    holds(
        &loaded,
        &[
            ("http://a.test/b", "outbound|80||b.test"),
            ("http://a.test/", "route_not_found"),
            ("a.test:443", "not_found"),
        ],
    );
}

#[test]
fn the_cost_of_a_flow_does_not_grow_with_other_hosts_routes() {
    let mut rules = String::new();
    for n in 0..10_000 {
        rules += &service_entry(
            &format!("s{n}"),
            &format!("hosts: [s{n}.test]\nports: [{{ number: 80, name: http, protocol: HTTP }}]\nresolution: DNS"),
        );
        rules += &resource(
            "VirtualService",
            &format!("s{n}"),
            &format!(
                "hosts: [s{n}.test]\nhttp:\n- match: [{{ uri: {{ prefix: /a }} }}]\n  route: [{{ destination: {{ host: s{n}.test }} }}]"
            ),
        );
    }
    let many = load(REGISTRY_ONLY, &rules).clean();
    let few = routed(&format!("http:\n- match: [{{ uri: {{ prefix: /a }} }}]\n  {}", to("a"))).clean();
    let cost = |loaded: &Loaded, asked: &str| {
        let rounds = (0..7).map(|_| {
            let started = std::time::Instant::now();
            for _ in 0..1000 {
                assert!(with_flow(asked, |flow| loaded.configuration.snapshot.route(flow).is_allowed()));
            }
            started.elapsed()
        });
        rounds.min().expect("seven")
    };
    let (few, many) = (cost(&few, "http://a.test/a"), cost(&many, "http://s9999.test/a"));
    assert!(many < few * 4, "{few:?} with one VirtualService, {many:?} with 10,000"); // caches miss more; a list would be 10,000 times
}
