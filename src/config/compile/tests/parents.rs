//! Annotations and lists that say which way leads to a service: what is understood, and what is said of mistakes.

use super::*;

const PARENT: &str = "hosts: [proxy.corp.test]\nports: [{ number: 3128, name: http, protocol: HTTP }]\nresolution: STATIC\nendpoints: [{ address: 192.0.2.9 }, { address: 192.0.2.10, weight: 3 }]";

fn annotated(name: &str, annotations: &str, spec: &str) -> String {
    let entry = service_entry(name, spec);
    let named = format!("name: {name}");
    assert!(entry.contains(&named), "{entry}");
    entry.replacen(&named, &format!("{named}, annotations: {{ {annotations} }}"), 1)
}

fn far(annotations: &str) -> String {
    let spec = "hosts: [far.test]\nports: [{ number: 443, name: tls, protocol: TLS }]\nresolution: DNS";
    annotated("far", annotations, spec)
}

#[test]
fn a_way_leads_through_the_service_port_that_it_names() {
    let rules = service_entry("proxy", PARENT) + &far("egret.dev/via: \"proxy.corp.test:3128\"");
    let loaded = load(REGISTRY_ONLY, &rules).clean();
    let route = loaded.ask("far.test:443").verdict.expect("allowed");
    let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
    assert_eq!(
        (&*hop.cluster.name, &*hop.origin.resource),
        ("outbound|3128||proxy.corp.test", "ServiceEntry default/far")
    );
    assert!(hop.target.is_none() && hop.cluster.endpoints().len() == 2);
    let loaded = load(REGISTRY_ONLY, &(service_entry("proxy", PARENT) + &far("egret.dev/via: direct"))).clean();
    let route = loaded.ask("far.test:443").verdict.expect("allowed");
    assert!(matches!(route.cluster.via, Via::Direct) && route.cluster.straight.is_some());
}

#[test]
fn a_probe_has_defaults_and_bounds() {
    let probe = |text: &str| {
        let rules = annotated("proxy", &format!("egret.dev/proxy-probe: \"{text}\""), PARENT)
            + &far("egret.dev/via: \"proxy.corp.test:3128\"");
        let loaded = load(REGISTRY_ONLY, &rules);
        let problems = loaded.problems();
        if !problems.is_empty() {
            return Err(problems.join(" "));
        }
        let route = loaded.ask("far.test:443").verdict.expect("allowed");
        let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
        let probe = hop.probe.as_deref().expect("a probe").clone();
        Ok((
            probe.target.to_string(),
            probe.interval,
            probe.timeout,
            probe.unhealthy_threshold,
            probe.healthy_threshold,
        ))
    };
    let seconds = std::time::Duration::from_secs;
    assert_eq!(probe("a.test:443"), Ok(("a.test:443".to_owned(), seconds(10), seconds(3), 3, 2)));
    assert_eq!(
        probe("a.test:443, interval=1h, timeout=60s unhealthyThreshold=100 healthyThreshold=1"),
        Ok(("a.test:443".to_owned(), seconds(3600), seconds(60), 100, 1))
    );
    for wrong in [
        "",
        "a.test",
        "a.test:443 interval",
        "a.test:443 interval=999ms",
        "a.test:443 interval=61m",
        "a.test:443 timeout=99ms",
        "a.test:443 timeout=61s",
        "a.test:443 unhealthyThreshold=0",
        "a.test:443 healthyThreshold=101",
        "a.test:443 every=1s",
    ] {
        let place = "E035 metadata.annotations[\"egret.dev/proxy-probe\"]";
        assert_eq!(probe(wrong), Err(place.to_owned()), "{wrong}");
    }
}

#[test]
fn mistakes_in_the_way_are_named_at_their_place() {
    let via = "metadata.annotations[\"egret.dev/via\"]";
    let proxy = || service_entry("proxy", PARENT);
    for (rules, expected) in [
        (far("egret.dev/via: \"proxy.corp.test\""), format!("E035 {via}")),
        (far("egret.dev/via: \"proxy.corp.test:0\""), format!("E035 {via}")),
        (far("egret.dev/via: \"http://proxy.corp.test:3128\""), format!("E035 {via}")),
        (far("egret.dev/via: \"nobody.test:3128\""), format!("W180 {via}")),
        (proxy() + &far("egret.dev/via: \"proxy.corp.test:8080\""), format!("W180 {via}")),
        (annotated("proxy", "egret.dev/via: \"proxy.corp.test:3128\"", PARENT), format!("E250 {via}")),
        (
            annotated("proxy", "egret.dev/via: direct", PARENT) + &far("egret.dev/via: \"proxy.corp.test:3128\""),
            format!("W250 {via}"),
        ),
    ] {
        assert_eq!(load(REGISTRY_ONLY, &rules).problems(), [expected], "{rules}");
    }
    // A way that leads nowhere fails its flows; they do not go without it.
    let loaded = load(REGISTRY_ONLY, &far("egret.dev/via: \"nobody.test:3128\""));
    let route = loaded.ask("far.test:443").verdict.expect("planned");
    let Via::Connect(hop) = &route.cluster.via else { panic!("{:?}", route.cluster.via) };
    assert!(matches!(hop.cluster.discovery, Discovery::Missing(_)));
}

#[test]
fn mistakes_in_the_lists_are_named_at_their_place() {
    for (parents, expected) in [
        ("{ always: [a.test] }", "E043 parents.always[0]"),
        ("{ through: \"proxy.corp.test:3128\", always: [a.test] }", "W180 parents.through"),
        ("{ through: proxy.corp.test, never: [a.test] }", "E035 parents.through"),
        ("{ never: [\"a b\"] }", "E035 parents.never[0]"),
        ("{ through: \"p.test:1\", never: [\"A.test:443\"], always: [\"a.test:443\"] }", "E043 parents.never[0]"),
    ] {
        let problems = load(&format!("parents: {parents}\n"), "").problems();
        assert!(problems.iter().any(|problem| problem == expected), "{parents}: {problems:?}");
    }
    let fine = "parents: { through: \"proxy.corp.test:3128\", always: [a.test], never: [b.test, \"a.test:80\", 10.0.0.0/8] }\n";
    load(fine, &service_entry("proxy", PARENT)).clean();
}
