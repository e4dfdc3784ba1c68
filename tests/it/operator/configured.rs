//! What is configured and which certificates are in use.

use std::fmt::Write as _;

use serde_json::Value;

use super::ask;
use crate::support::certificates::Authority;
use crate::support::{Egret, Folder, Setup, eventually};

fn part(egret: &Egret, name: &str) -> Value {
    let told = ask(egret, &[], &format!("/config_dump?resource={name}")).json();
    assert_eq!(told["configs"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(told["configs"][0]["@type"], format!("egret.dev/{name}"));
    told["configs"][0][name].clone()
}

fn rules(tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: api, namespace: default }}\n\
         spec: {{ hosts: [api.test], ports: [{{ number: 80, name: http, protocol: HTTP }}], resolution: DNS }}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: tls, namespace: default }}\n\
         spec: {{ host: api.test, trafficPolicy: {{ tls: {tls} }} }}\n"
    )
}

#[test]
fn the_dump_says_what_is_in_force_and_where_it_stands_and_tells_no_secret() {
    let folder = Folder::new();
    folder.write("token", "a-token-that-is-secret");
    folder.write("users", "");
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: { name: s }\nstringData: { ca.crt: hidden-content }\n";
    let rules = rules("{ mode: SIMPLE, credentialName: s }") + secret;
    let listeners = "{ name: proxy, address: \"127.0.0.1:0\", clients: { basic: { htpasswd: users } } }";
    let more = "admin: { tokenFile: token }\nallow: [\"open.test:443\"]\ndrain: 7s\n";
    let egret = Setup {
        listeners,
        rules: &rules,
        more,
        mesh: "outboundTrafficPolicy: { mode: REGISTRY_ONLY }",
        ..Setup::default()
    }
    .start(&folder);
    let whole = ask(&egret, &[], "/config_dump");
    assert_eq!(whole.json()["configs"].as_array().unwrap().len(), 5);
    assert!(!whole.body.contains("hidden-content") && !whole.body.contains("that-is-secret"), "{}", whole.body);
    let settings = part(&egret, "settings");
    assert_eq!((&settings["drain"], &settings["limits"]["headFields"]), (&"7s".into(), &100.into()), "with defaults");
    assert_eq!(settings["mesh"]["outboundTrafficPolicy"]["mode"], "REGISTRY_ONLY");
    let listener = &part(&egret, "listeners")[0];
    assert_eq!((&listener["name"], &listener["protocol"]), (&"proxy".into(), &"forward".into()));
    assert!(listener["clients"]["basic"]["htpasswd"].as_str().unwrap().ends_with("users"), "{listener}");
    let resources = part(&egret, "resources");
    let names: Vec<&str> = resources.as_array().unwrap().iter().map(|one| one["resource"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["ServiceEntry default/api", "DestinationRule default/tls", "Secret default/s", "allow open.test:443"]
    );
    assert!(resources[1]["at"].as_str().unwrap().ends_with("rules.yaml:6:1"), "{resources}");
    assert!(resources[3]["at"].as_str().unwrap().contains("egret.yaml:"), "{resources}");
    let services = part(&egret, "services");
    let api = services.as_array().unwrap().iter().find(|one| one["host"] == "api.test").unwrap();
    assert_eq!((&api["cluster"], &api["protocol"]), (&"outbound|80||api.test".into(), &"HTTP".into()));
    assert!(api["at"].as_str().unwrap().contains("rules.yaml:4:"), "{api}");
    let clusters = part(&egret, "clusters");
    let cluster = clusters.as_array().unwrap().iter().find(|one| one["name"] == "outbound|80||api.test").unwrap();
    assert_eq!(cluster["discovery"]["type"], "dns");
    assert_eq!(cluster["endpoints"][0]["address"], "api.test:80");
    let problem = cluster["tls"]["problem"].as_str().unwrap();
    assert_eq!(problem, "secret://default/s/ca.crt: no certificate (BEGIN CERTIFICATE) in it");
    let told = ask(&egret, &[], "/config_dump?filter=nothing").json();
    assert_eq!(told["configs"][4]["clusters"], Value::Array(Vec::new()));
    for wrong in ["limit=0", "resource=secrets"] {
        assert_eq!(ask(&egret, &[], &format!("/config_dump?{wrong}")).status, 400, "{wrong}");
    }
    // It is of this moment.
    let before = ask(&egret, &[], "/config_dump?resource=settings").json()["configs"][0]["generation"].as_u64();
    egret.reload();
    let after = ask(&egret, &[], "/config_dump?resource=settings").json()["configs"][0]["generation"].as_u64();
    assert!(after > before, "{before:?} {after:?}");
}

#[test]
fn a_dump_of_many_services_comes_whole() {
    let folder = Folder::new();
    let mut rules = String::new();
    for n in 0..3000 {
        writeln!(
            rules,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: e{n} }}\n\
             spec: {{ hosts: [h{n}.test], ports: [{{ number: 443, name: tls, protocol: TLS }}], resolution: DNS }}"
        )
        .unwrap();
    }
    let egret = Setup { rules: &rules, ..Setup::default() }.start(&folder);
    let told = ask(&egret, &[], "/config_dump");
    assert!(told.body.len() > 1_000_000, "{} bytes", told.body.len());
    assert_eq!(told.json()["configs"][3]["services"].as_array().unwrap().len(), 3000);
    assert_eq!(part(&egret, "clusters").as_array().unwrap().len(), 3001, "and PassthroughCluster");
}

/// Listeners' and rules', from files and Secrets; and the metric of all of them.
#[test]
fn every_certificate_in_use_is_listed_with_its_end() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.write(&folder, "ca.pem");
    authority.issue(&folder, "own", &["proxy.example", "127.0.0.1"]);
    let client = authority.issue_uri(&folder, "client", "spiffe://cluster.local/ns/a/sa/b", &[]);
    let listeners = "{ name: proxy, address: \"127.0.0.1:0\", tls: { certificate: own.pem, privateKey: own.key, clientCa: ca.pem } }";
    let tls = format!(
        "{{ mode: MUTUAL, caCertificates: {}, clientCertificate: {}, privateKey: {} }}",
        ca.display(),
        client.certificate.display(),
        client.key.display()
    );
    let egret = Setup { listeners, rules: &rules(&tls), ..Setup::default() }.start(&folder);
    let told = ask(&egret, &[], "/certs").json();
    let [listener, rule] = &told["certificates"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!(listener["used_by"], "listener proxy");
    assert!(listener["cert_chain"][0]["path"].as_str().unwrap().ends_with("own.pem"), "{listener}");
    let names = &listener["cert_chain"][0]["subject_alt_names"];
    assert_eq!((&names[0]["dns"], &names[1]["ip_address"]), (&"proxy.example".into(), &"127.0.0.1".into()));
    assert!(listener["ca_cert"][0]["path"].as_str().unwrap().ends_with("ca.pem"), "{listener}");
    assert_eq!(rule["used_by"], "DestinationRule default/tls");
    assert_eq!(rule["ca_cert"][0]["path"], ca.display().to_string());
    let chain = &rule["cert_chain"][0];
    assert_eq!(chain["path"], client.certificate.display().to_string());
    assert_eq!(chain["subject_alt_names"][0]["uri"], "spiffe://cluster.local/ns/a/sa/b");
    assert!(chain["days_until_expiration"].as_str().unwrap().parse::<u64>().unwrap() > 365, "{chain}");
    let openssl = crate::support::peer::command("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(&client.certificate)
        .output()
        .unwrap();
    let serial = String::from_utf8(openssl.stdout).unwrap().trim().to_lowercase();
    assert_eq!(serial.trim_start_matches("serial=").trim_start_matches('0'), chain["serial_number"].as_str().unwrap());
    assert!(chain["valid_from"].as_str().unwrap() < chain["expiration_time"].as_str().unwrap());
    let metrics = ask(&egret, &[], "/metrics").body;
    for labels in [
        "listener=\"proxy\",role=\"certificate\"",
        "listener=\"proxy\",role=\"clientCa\"",
        "rule=\"DestinationRule default/tls\",role=\"caCertificates\"",
        "rule=\"DestinationRule default/tls\",role=\"clientCertificate\"",
    ] {
        assert!(metrics.contains(&format!("egret_certificate_expiry_timestamp_seconds{{{labels}}} ")), "{labels}");
    }
    // One that is replaced is listed as soon as it is used.
    let next = authority.issue(&folder, "own", &["next.example"]);
    assert!(next.certificate.ends_with("own.pem"));
    eventually("the next certificate is listed", || {
        let told = ask(&egret, &[], "/certs").json();
        told["certificates"][0]["cert_chain"][0]["subject_alt_names"][0]["dns"] == "next.example"
    });
}
