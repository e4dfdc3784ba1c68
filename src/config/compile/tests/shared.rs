//! Istio's own tables and task files, read where they stand beside the repository.

use serde_json::Value;

use super::*;
use crate::route::shared_cases::{Cases, shared, shared_cases};

fn documents(values: &[&Value]) -> String {
    values.iter().map(|value| format!("---\n{value}\n")).collect()
}

fn configuration<'v>(row: &'v Value, base: Option<&'v Value>) -> Vec<&'v Value> {
    let list = |value: &'v Value| value.as_array().map(Vec::as_slice).unwrap_or_default();
    base.map(list).unwrap_or_default().iter().chain(list(&row["config"])).collect()
}

/// Why a row of `routing.json` is not met by an explicit listener or by what is carried out today.
fn reason(table: &str, row: &Value) -> Option<&'static str> {
    match table {
        // 12 of them, by the note.
        "TestPassthroughTraffic" if row["expect"]["note"].is_string() => Some(
            "a TCP port without an address takes whatever is redirected to its number: by port alone an explicit listener matches nothing",
        ),
        "TestSidecarRoutes" if row["expect"].is_null() => Some(
            "no known service has the port, so a sidecar has no route table for it: an explicit listener is there for all ports",
        ),
        "TestServiceEntry" if row["index"] == 6 => Some(
            "an address of one service is dialled with the SNI of another, which has it pass: an explicit client asks for one of them",
        ),
        _ => None,
    }
}

#[test]
fn istio_s_table_of_routing_holds_as_far_as_explicit_listeners_meet_it() {
    let Some(cases) = shared_cases("routing.json") else { return };
    let mut seen = Cases::default();
    for (table, row) in cases.rows() {
        if let Some(reason) = reason(table, row) {
            seen.skipped(table, reason);
            continue;
        }
        match table {
            "TestSidecarRoutes" => judge_routes(row, cases.of(table).get("base config")),
            "TestPassthroughTraffic" => judge_unknown(row, &cases.of(table)["config"]),
            _ => judge_call(table, row),
        }
        seen.held();
    }
    seen.report("routing.json", 119);
}

/// A destination that no service names, asked for by the name that the call has, plaintext TCP by its address. Two names of ours for what
/// the row says: `block_all` is `BlackHoleCluster`, and since an explicit listener always resolves names itself, ALLOW_ANY_DYNAMIC_DNS is
/// ALLOW_ANY, whose cluster is `PassthroughCluster`.
fn judge_unknown(row: &Value, configurations: &Value) {
    let with_address = row["serviceEntryHasAddress"] == true;
    let entry = &configurations[if with_address { "with address" } else { "without address" }];
    let mode = row["outboundTrafficPolicy"].as_str().expect("a mode");
    let settings = format!("mesh: {{ outboundTrafficPolicy: {{ mode: {mode} }} }}\n");
    let loaded = load(&settings, &documents(&[entry]));
    assert_eq!(loaded.diagnostics().errors(), 0, "{}", loaded.diagnostics().render(false));
    let (call, expect) = (&row["call"], &row["expect"]);
    let text = |key: &str| call[key].as_str().expect("text");
    let port = &call["port"];
    let asked = match (text("tls"), text("protocol")) {
        ("tls", _) => format!("{}:{port}", text("sni")),
        (_, "tcp") => format!("{}:{port}", text("address")),
        _ => format!("http://{}:{port}/", text("host")),
    };
    let expected = match (expect["cluster"].as_str(), expect["virtualHost"].as_str()) {
        (None, Some("block_all")) => "BlackHoleCluster",
        (Some("AllowAnyDynamicDNSCluster"), _) => "PassthroughCluster",
        (Some(cluster), _) => cluster,
        (None, _) => panic!("{row}"),
    };
    let choice = loaded.ask(&asked);
    let (found, is_allowed) = match &choice.verdict {
        Ok(route) => (Some(&*route.cluster.name), true),
        Err(refusal) => (refusal.cluster(), false),
    };
    assert_eq!((found, is_allowed), (Some(expected), expected == "PassthroughCluster"), "{}: {asked}", row["index"]);
}

/// A call to an address with a host (HTTP) or SNI is asked for by that name, else by the address.
fn judge_call(table: &str, row: &Value) {
    let loaded = load("", &documents(&configuration(row, None)));
    assert_eq!(loaded.diagnostics().errors(), 0, "{}", loaded.diagnostics().render(false));
    let call = &row["call"];
    let name = call["sni"].as_str().or_else(|| call["host"].as_str());
    let port = &call["port"];
    let asked = match name {
        Some(name) if call["tls"] == "tls" || call["sni"].is_string() => format!("{name}:{port}"),
        Some(name) => format!("http://{name}:{port}{}", call["path"].as_str().unwrap_or("/")),
        None => match call["address"].as_str().expect("an address") {
            v6 if v6.contains(':') => format!("[{v6}]:{port}"),
            v4 => format!("{v4}:{port}"),
        },
    };
    let verdict = loaded.verdict(&asked);
    assert_eq!(Some(&*verdict), row["expect"]["cluster"].as_str(), "{table} {}: {asked}", row["index"]);
}

/// The clusters that the routes of each virtual host lead to.
fn judge_routes(row: &Value, base: Option<&Value>) {
    // Its Services call two ports alike, which an API server refuses, and so do we.
    let text = documents(&configuration(row, base))
        .replace("\"name\":\"http\",\"port\":8080", "\"name\":\"http-8080\",\"port\":8080");
    let loaded = load("", &text);
    assert_eq!(loaded.diagnostics().errors(), 0, "{}", loaded.diagnostics().render(false));
    let Some(hosts) = row["expect"].as_object() else { panic!("row {} expects no table", row["index"]) };
    for (host, clusters) in hosts {
        let asked = format!("http://{}:{}/", host.replace('*', "x"), row["listenerPort"]);
        let choice = loaded.ask(&asked);
        let found = choice.service.is_some().then(|| verdict(&choice));
        // A wildcard is no virtual host of its own where services below it have taken its routes.
        let expected = clusters.as_array().map(|clusters| clusters[0].as_str().expect("a name").to_owned());
        assert_eq!(found, expected, "{} {}: {asked}", row["index"], row["case"]);
    }
}

/// What shell and API server would have added stands in the task's page, not in its file.
const INVALID: &str = "wildcard-egress-hosts/15-dynamic-dns-mesh-internal.v1.30-blog.yaml"; // its README says so

#[test]
fn every_file_of_istio_s_tasks_loads_without_an_error() {
    let Some(root) = shared("istio-tasks") else { return };
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() >= 100, "{} files", files.len());
    for file in files {
        let name = file.strip_prefix(&root).expect("found there").display().to_string();
        let sources = Sources { resources: vec![(None, file)], ..Sources::default() };
        let loaded = Configuration::load(&sources, 1);
        let expected = usize::from(name == INVALID);
        assert_eq!(loaded.diagnostics.errors(), expected, "{name}\n{}", loaded.diagnostics.render(false));
    }
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.file_name().is_some_and(|name| name != "README.md") {
            files.push(path);
        }
    }
}

/// Loads task files as they are, in order; `beside` stands for what the page does by other means.
fn tasks(files: &[&str], beside: &str) -> Option<Loaded> {
    let root = shared("istio-tasks")?;
    let folder = tempfile::tempdir().expect("a folder");
    let beside_path = folder.path().join("beside.yaml");
    std::fs::write(&beside_path, beside).expect("a file");
    let mut resources: Vec<_> = files.iter().map(|file| (None, root.join(file))).collect();
    if !beside.is_empty() {
        resources.push((None, beside_path));
    }
    let settings = folder.path().join("egret.yaml");
    std::fs::write(&settings, REGISTRY_ONLY).expect("a file");
    let sources = Sources { settings: Some(settings), resources, ..Sources::default() };
    let configuration = Configuration::load(&sources, 1);
    assert_eq!(configuration.diagnostics.errors(), 0, "{}", configuration.diagnostics.render(false));
    Some(Loaded { configuration })
}

#[test]
fn the_task_of_kubernetes_services_gives_the_promised_plan() {
    for (version, addresses) in [
        ("v1.27", "static 198.35.26.96:443 208.80.153.224:443"),
        ("v1.6+1.7", "static 91.198.174.192:443 198.35.26.96:443"),
    ] {
        let folder = "egress-kubernetes-services";
        let files = [
            format!("{folder}/01-externalname-service.v1.6+1.7+1.27.yaml"),
            format!("{folder}/02-externalname-destinationrule.{version}.yaml"),
            format!("{folder}/03-endpoints-service.v1.6+1.7+1.27.yaml"),
            format!("{folder}/04-endpoints-endpoints.{version}.yaml"),
            format!("{folder}/05-endpoints-destinationrule.{version}.yaml"),
        ];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let Some(loaded) = tasks(&files, "") else { return };
        let loaded = loaded.clean();
        let httpbin = "my-httpbin.default.svc.cluster.local";
        assert_eq!(loaded.verdict(&format!("http://{httpbin}/")), format!("outbound|80||{httpbin}"));
        assert_eq!(discovery(&loaded.ask(&format!("http://{httpbin}/"))), "dns httpbin.org:80");
        assert_eq!(discovery(&loaded.ask("my-wikipedia.default.svc.cluster.local:443")), addresses);
        assert!(loaded.ask("httpbin.org:80").verdict.is_err() && loaded.ask("en.wikipedia.org:443").verdict.is_err());
        // With a ServiceEntry for the target it is an alias of that.
        let entry = "egress-control/02-httpbin-serviceentry.v1.27.yaml";
        let loaded = tasks(&[entry, files[0]], "").expect("they are there").clean();
        assert_eq!(loaded.verdict(&format!("http://{httpbin}/")), "outbound|80||httpbin.org");
    }
}

#[test]
fn the_gateway_tasks_never_send_directly_what_they_route_to_a_gateway() {
    for version in ["v1.27", "v1.6+1.7"] {
        let files = [
            format!("egress-gateway/01-http-serviceentry.{version}.yaml"),
            format!("egress-gateway/02-http-gateway-and-destinationrule.{version}.yaml"),
            format!("egress-gateway/03-http-virtualservice.{version}.yaml"),
        ];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let Some(loaded) = tasks(&files, "") else { return };
        let plan = discovery(&loaded.ask("http://edition.cnn.com/"));
        assert!(plan.starts_with("missing: no loaded resource declares istio-egressgateway."), "{plan}");
        // A Kubernetes Service of the gateway's name, as Istio's chart has it, is where it leads.
        let gateway = "apiVersion: v1\nkind: Service\nmetadata: { name: istio-egressgateway, namespace: istio-system }\nspec: { clusterIP: 10.96.1.1, ports: [{ name: http2, port: 80 }, { name: https, port: 443 }] }\n";
        let loaded = tasks(&files, gateway).expect("they are there");
        assert_eq!(
            loaded.verdict("http://edition.cnn.com/"),
            "outbound|80|cnn|istio-egressgateway.istio-system.svc.cluster.local"
        );
        assert_eq!(discovery(&loaded.ask("http://edition.cnn.com/")), "static 10.96.1.1:80");
    }
}

#[test]
fn mutual_tls_of_the_mesh_is_never_plaintext_instead() {
    let gateway = "apiVersion: v1\nkind: Service\nmetadata: { name: istio-egressgateway, namespace: istio-system }\nspec: { clusterIP: 10.96.1.1, ports: [{ name: http2, port: 80 }, { name: https, port: 443 }] }\n";
    let folder = "egress-gateway-tls-origination";
    let files = [
        format!("{folder}/01-simple-serviceentry.v1.27.yaml"),
        format!("{folder}/02-simple-gateway-and-destinationrule.v1.27.yaml"),
        format!("{folder}/03-simple-virtualservice.v1.27.yaml"),
    ];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let Some(loaded) = tasks(&files, gateway) else { return };
    assert!(loaded.problems().iter().any(|problem| problem.starts_with("W189")), "{:?}", loaded.problems());
    let route = loaded.ask("http://edition.cnn.com/").verdict.expect("planned");
    let tls = route.cluster.tls.as_ref().expect("TLS is planned all the same");
    assert!(tls.mode == "ISTIO_MUTUAL" && tls.client.is_err());
}

#[test]
fn the_waypoint_s_policy_closes_what_it_protects() {
    let folder = "ambient-egress-gateway";
    let (entry, policy) = (
        format!("{folder}/01-httpbin-serviceentry.v1.30.yaml"),
        format!("{folder}/02-httpbin-authorizationpolicy.v1.30.yaml"),
    );
    let Some(loaded) = tasks(&[&entry], "") else { return };
    assert!(loaded.ask("http://httpbin.org/").is_allowed());
    let loaded = tasks(&[&entry, &policy], "").expect("they are there");
    assert_eq!(loaded.ask("http://httpbin.org/").verdict.expect_err("refused").error.row().status, 403);
}

#[test]
fn the_operator_s_policy_is_in_force() {
    let Some(root) = shared("istio-tasks") else { return };
    let file = root.join("egress-control/01-mesh-config-registry-only.v1.7+1.27.yaml");
    let sources = Sources { resources: vec![(None, file)], ..Sources::default() };
    let loaded = Loaded { configuration: Configuration::load(&sources, 1) };
    assert!(loaded.ask("www.google.com:443").verdict.is_err());
}
