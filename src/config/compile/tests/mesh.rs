//! MeshConfig of resources under the settings file.

use super::*;
use crate::config::settings::{Encoding, OutboundMode, Settings};

fn config_map(namespace: &str, mesh: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: {namespace} }}\ndata:\n  meshNetworks: 'networks: {{}}'\n  mesh: |-\n{}",
        mesh.lines().map(|line| format!("    {line}\n")).collect::<String>()
    )
}

const CLOSED: &str = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";

fn settings(loaded: &Loaded) -> &Settings {
    &loaded.configuration.settings
}

fn lines(loaded: &Loaded) -> Vec<String> {
    let shown = loaded.diagnostics().iter().map(|found| {
        let file = found.file.rsplit('/').next().unwrap_or_default();
        format!("{file}:{}:{} {} {}: {}", found.span.line, found.span.column, found.code, found.path, found.message)
    });
    shown.collect()
}

#[test]
fn the_config_map_of_the_mesh_counts_where_the_settings_say_nothing() {
    let mesh = "accessLogFile: /var/log/egret.log\naccessLogEncoding: JSON\nconnectTimeout: 3s\nrootNamespace: root\ntrustDomain: td\noutboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n";
    let loaded = load("files: { root: /base }\n", &config_map("istio-system", mesh)).clean();
    let found = &settings(&loaded).mesh;
    assert_eq!(found.mode, OutboundMode::RegistryOnly { report: false });
    assert_eq!((&*found.root_namespace, &*found.trust_domain, found.connect_timeout.as_secs()), ("root", "td", 3));
    assert_eq!(
        found.access_log.file.as_deref(),
        Some(Path::new("/base/var/log/egret.log")),
        "as every path of a resource"
    );
    assert_eq!(found.access_log.encoding, Encoding::Json);
    let policy = loaded.ask("a.test:443").verdict.expect_err("closed").origin.expect("a place");
    assert_eq!((policy.line, policy.column), (13, 7));
    assert!(policy.file.ends_with("rules.yaml"));
    assert_eq!(&*policy.resource, "mesh.outboundTrafficPolicy of ConfigMap istio-system/istio");
    let loaded = load("", &config_map("istio-system", "accessLogFile: /dev/stdout\n")).clean();
    assert_eq!(settings(&loaded).mesh.access_log.file.as_deref(), Some(Path::new("/dev/stdout")));
    assert!(loaded.ask("a.test:443").is_allowed(), "what nobody says keeps its default");
}

#[test]
fn what_the_settings_say_counts_and_the_other_is_named() {
    let open = "outboundTrafficPolicy: { mode: ALLOW_ANY }\nconnectTimeout: 3s\n";
    let loaded = load(REGISTRY_ONLY, &config_map("istio-system", open));
    assert!(loaded.ask("a.test:443").verdict.is_err(), "a resource opens nothing that the settings close");
    assert_eq!(settings(&loaded).mesh.connect_timeout.as_secs(), 3);
    let found = lines(&loaded);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("rules.yaml:7:28 W200 outboundTrafficPolicy: not used: ")
            && found[0].ends_with("egret.yaml (line 1) says it already"),
        "{found:?}"
    );
    // Of several the first to say it.
    let operator = "---\napiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: { meshConfig: { outboundTrafficPolicy: { mode: ALLOW_ANY } } }\n";
    let loaded = load("", &format!("{}\n{operator}", config_map("istio-system", CLOSED)));
    assert!(loaded.ask("a.test:443").verdict.is_err());
    assert_eq!(loaded.problems(), ["W002 kind", "W200 spec.meshConfig.outboundTrafficPolicy"]);
}

#[test]
fn only_the_root_namespace_has_the_mesh_s_configuration() {
    let loaded = load("", &config_map("tenant", CLOSED));
    assert_eq!(loaded.problems(), ["W201 kind"]);
    assert!(loaded.ask("a.test:443").is_allowed());
    let loaded = load("mesh: { rootNamespace: tenant }\n", &config_map("tenant", CLOSED)).clean();
    assert!(loaded.ask("a.test:443").verdict.is_err());
    let operator = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: { namespace: tenant }\nspec: { meshConfig: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } } }\n";
    assert_eq!(load("", operator).problems(), ["W201 kind"]);
}

#[test]
fn installations_say_the_policy_in_every_form_of_theirs() {
    for text in [
        "spec:\n  meshConfig:\n    outboundTrafficPolicy:\n      mode: REGISTRY_ONLY\n",
        "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: { profile: demo, meshConfig: { outboundTrafficPolicy: {} } }\n",
        "meshConfig: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\nglobal: { hub: x }\n",
    ] {
        let loaded = load("", text);
        assert_eq!(loaded.diagnostics().errors(), 0, "{}", loaded.diagnostics().render(false));
        assert!(loaded.ask("a.test:443").verdict.is_err(), "{text}");
    }
    // Forms that are not read would leave open what they close.
    for text in [
        "global: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\n",
        "spec: { values: { global: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } } } }\n",
        "spec: { values: { meshConfig: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } } } }\n",
    ] {
        assert!(load("", text).problems().iter().any(|problem| problem.starts_with("E036")), "{text}");
    }
}

#[test]
fn mistakes_in_a_mesh_config_have_the_place_in_the_file() {
    let mesh = "connectTimeout: soon\noutboundTrafficPolice: {}\nenableTracing: true\nserviceEntryVisibility: {}\ndefaultServiceExportTo: ['.']\naccessLogFormat: '%NO_SUCH%'\n";
    let loaded = load("", &config_map("istio-system", mesh));
    let found = lines(&loaded);
    let starts = [
        "rules.yaml:7:21 E035 connectTimeout:",
        "rules.yaml:8:5 E030 outboundTrafficPolice:",
        "rules.yaml:9:5 W001 enableTracing:",
        "rules.yaml:10:5 E036 serviceEntryVisibility:",
        "rules.yaml:11:5 E036 defaultServiceExportTo:",
        "rules.yaml:12:22 E035 accessLogFormat:",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (line, start) in found.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    assert!(loaded.diagnostics().iter().all(|found| &*found.resource == "ConfigMap istio-system/istio"));
    // What is quoted has places of its own, which say where it stands.
    let quoted = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio, namespace: istio-system }\ndata: { mesh: \"connectTimeout: soon\\n\" }\n";
    let found = lines(&load("", quoted));
    assert!(found[0].starts_with("rules.yaml:4:15:1:17 E035"), "{found:?}");
    // A parent proxy that is nowhere is reported where it is named.
    let proxy = "outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: p.test, port: { number: 1 } } }";
    assert!(
        lines(&load("", &config_map("istio-system", proxy)))[0]
            .starts_with("rules.yaml:7:68 W180 outboundTrafficPolicy.egressProxy.host:")
    );
}

#[test]
fn an_open_proxy_is_judged_by_the_policy_that_counts() {
    let open = "listeners: [{ name: a, address: '0.0.0.0:3128', clients: { from: [0.0.0.0/0] } }]\n";
    assert_eq!(load(open, "").problems().len(), 1);
    load(open, &config_map("istio-system", CLOSED)).clean();
}
