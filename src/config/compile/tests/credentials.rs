//! Certificates, keys and authorities from files, Secrets and the folder of the mesh: what is used, and what is said where it cannot be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::route::cluster::{Origination, Sni};
use crate::tls::testing::Authority;

/// `a.test` on port 80 over TLS as `tls` says, and more documents.
fn rules(tls: &str, more: &str) -> String {
    let entry = "hosts: [a.test]\naddresses: [198.51.100.9]\nports: [{ number: 80, name: http, protocol: HTTP, targetPort: 443 }, { number: 81, name: tcp, protocol: TCP }]\nresolution: DNS";
    let rule = format!("host: a.test\ntrafficPolicy: {{ tls: {tls} }}");
    [service_entry("a", entry), resource("DestinationRule", "a", &rule), more.to_owned()].concat()
}

fn secret(name: &str, values: &[(&str, &[u8])]) -> String {
    let data: Vec<String> = values.iter().map(|(key, value)| format!("{key}: {}", STANDARD.encode(value))).collect();
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name} }}\ndata: {{ {} }}\n", data.join(", "))
}

fn origination(loaded: &Loaded, asked: &str) -> Origination {
    let route = loaded.ask(asked).verdict.expect("planned");
    route.cluster.tls.as_deref().expect("TLS is planned all the same").clone()
}

/// Where authorities and client certificate come from, or why there is no client.
fn client(loaded: &Loaded) -> Result<(String, String), String> {
    let client = origination(loaded, "http://a.test/").client.map_err(|why| why.to_string())?;
    let files = client.files();
    let shown = |path: &Option<Arc<str>>| path.as_deref().unwrap_or("-").to_owned();
    Ok((shown(&files.ca), shown(&files.chain)))
}

#[test]
fn a_secret_is_read_in_every_spelling_of_istio() {
    let authority = Authority::new();
    let leaf = authority.issue(&["client.example"], |_| {});
    let (ca, chain, key) = (authority.pem.as_bytes(), leaf.chain.as_slice(), leaf.key.as_slice());
    let from = |ca: &str, chain: &str| Ok((format!("secret://default/{ca}"), format!("secret://default/{chain}")));
    for (secrets, expected) in [
        (secret("s", &[("tls.crt", chain), ("tls.key", key), ("ca.crt", ca)]), from("s/ca.crt", "s/tls.crt")),
        (secret("s", &[("cert", chain), ("key", key), ("cacert", ca)]), from("s/cacert", "s/cert")),
        (
            secret("s", &[("tls.crt", chain), ("tls.key", key)]) + &secret("s-cacert", &[("cacert", ca)]),
            from("s-cacert/cacert", "s/tls.crt"),
        ),
        // The authority apart wins; of one Secret the generic key does; halves of two spellings are no pair.
        (
            secret("s", &[("cert", chain), ("tls.crt", chain), ("tls.key", key), ("ca.crt", b"none")])
                + &secret("s-cacert", &[("ca.crt", ca), ("cacert", ca)]),
            from("s-cacert/cacert", "s/tls.crt"),
        ),
    ] {
        let loaded = load("", &rules("{ mode: MUTUAL, credentialName: s }", &secrets)).clean();
        assert_eq!(client(&loaded), expected);
    }
    let loaded = load("", &rules("{ mode: SIMPLE, credentialName: s }", &secret("s-cacert", &[("ca.crt", ca)])));
    assert_eq!(client(&loaded.clean()), Ok(("secret://default/s-cacert/ca.crt".to_owned(), "-".to_owned())));
}

#[test]
fn what_is_missing_or_broken_is_named_by_every_key_and_nothing_stands_in_for_it() {
    let authority = Authority::new();
    let leaf = authority.issue(&["client.example"], |_| {});
    let (ca, chain, key) = (authority.pem.as_bytes(), leaf.chain.as_slice(), leaf.key.as_slice());
    let other = authority.issue(&["client.example"], |_| {});
    let no_ca = "Secret default/s-cacert is not there (wanted: cacert or ca.crt); Secret default/s ";
    for (mode, secrets, why) in [
        ("SIMPLE", String::new(), format!("{no_ca}is not there (wanted: cacert or ca.crt)")),
        ("SIMPLE", secret("s", &[("tls.crt", chain)]), format!("{no_ca}has neither cacert nor ca.crt")),
        (
            "MUTUAL",
            secret("s", &[("tls.crt", chain), ("tls.key", key)]),
            format!("{no_ca}has neither cacert nor ca.crt"),
        ),
        (
            "MUTUAL",
            secret("s", &[("tls.crt", chain), ("key", key), ("ca.crt", ca)]),
            "Secret default/s has neither cert and key, nor tls.crt and tls.key".to_owned(),
        ),
        (
            "SIMPLE",
            secret("s", &[("ca.crt", b"hidden")]),
            "secret://default/s/ca.crt: no certificate (BEGIN CERTIFICATE) in it".to_owned(),
        ),
        (
            "MUTUAL",
            secret("s", &[("cert", chain), ("key", &other.key), ("ca.crt", ca)]),
            "secret://default/s/key: does not belong to clientCertificate".to_owned(),
        ),
        (
            "SIMPLE",
            secret("s", &[("ca.crt", ca), ("crl", b"hidden")]),
            "secret://default/s/crl: no revocation list (BEGIN X509 CRL) in it".to_owned(),
        ),
    ] {
        let loaded = load("", &rules(&format!("{{ mode: {mode}, credentialName: s }}"), &secrets));
        assert_eq!(loaded.problems(), ["W182 spec.trafficPolicy.tls.credentialName"], "{why}");
        assert_eq!(client(&loaded), Err(why.clone()));
        let said = loaded.diagnostics().render(false);
        assert!(said.contains(&why) && !said.contains("hidden"), "{said}");
    }
}

#[test]
fn revocation_lists_are_used_wherever_istio_has_them() {
    let authority = Authority::new();
    let list = authority.revokes(&[], 2999);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("a file");
    write("ca.pem", authority.pem.as_bytes());
    write("list.pem", list.as_bytes());
    let settings = format!("files: {{ root: {} }}\n", folder.path().display());
    let without = load_in(folder.path(), &settings, &rules("{ mode: SIMPLE, caCertificates: /ca.pem }", "")).clean();
    let tls = "{ mode: SIMPLE, caCertificates: /ca.pem, caCrl: /list.pem }";
    let with = load_in(folder.path(), &settings, &rules(tls, "")).clean();
    let values = [("ca.crt", authority.pem.as_bytes()), ("crl", list.as_bytes())];
    let of_secret = load("", &rules("{ mode: SIMPLE, credentialName: s }", &secret("s", &values))).clean();
    let id = |loaded: &Loaded| origination(loaded, "http://a.test/").client.expect("a client").id();
    assert_eq!(id(&with), id(&of_secret), "the same client");
    assert_ne!(id(&with), id(&without));
    assert!(with.configuration.inputs.contains(&folder.path().join("list.pem")), "watched");
    write("list.pem", b"none");
    let broken = load_in(folder.path(), &settings, &rules(tls, ""));
    assert_eq!(client(&broken), Err("/list.pem: no revocation list (BEGIN X509 CRL) in it".to_owned()));
    let contradiction = "{ mode: SIMPLE, caCrl: /list.pem, insecureSkipVerify: true }";
    let loaded = load_in(folder.path(), &settings, &rules(contradiction, ""));
    assert!(loaded.problems()[0].starts_with("E146 "), "{:?}", loaded.problems());
}

#[test]
fn the_certificate_of_the_mesh_is_read_from_its_folder() {
    let authority = Authority::new();
    let leaf = authority.issue(&["spiffe://cluster.local/ns/egress/sa/proxy"], |_| {});
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join("mesh").join(name);
    std::fs::create_dir(folder.path().join("mesh")).expect("a folder");
    let settings = "credentials: { certificates: mesh }\n";
    let rules = rules("{ mode: ISTIO_MUTUAL }", "");
    let load = || load_in(folder.path(), settings, &rules);
    let files = [
        ("cert-chain.pem", leaf.chain.as_slice()),
        ("key.pem", &leaf.key),
        ("root-cert.pem", authority.pem.as_bytes()),
    ];
    for (name, content) in files {
        let loaded = load();
        assert_eq!(loaded.problems(), ["W183 spec.trafficPolicy.tls"]);
        let why = client(&loaded).expect_err("a file is missing");
        assert!(why.starts_with(&format!("{}: ", path(name).display())), "{why}");
        std::fs::write(path(name), content).expect("a file");
    }
    let loaded = load().clean();
    let shown = |name: &str| path(name).display().to_string();
    assert_eq!(client(&loaded), Ok((shown("root-cert.pem"), shown("cert-chain.pem"))));
    for (asked, sni) in [("http://a.test/", "outbound_.80_._.a.test"), ("a.test:81", "outbound_.81_._.a.test")] {
        let tls = origination(&loaded, asked);
        let Sni::Fixed(name) = &tls.sni else { panic!("{asked}: {:?}", tls.sni) };
        assert_eq!((tls.mode, name.as_str()), ("ISTIO_MUTUAL", sni));
    }
    assert!(loaded.configuration.inputs.contains(&folder.path().join("mesh")), "watched");
    std::fs::write(path("key.pem"), "none").expect("a file");
    let why = client(&load()).expect_err("a key that is none");
    assert_eq!(why, format!("{}: no unencrypted private key (BEGIN PRIVATE KEY) in it", shown("key.pem")));
    // Without the setting there is nothing that could be shown.
    let loaded = load_in(folder.path(), "", &rules);
    assert_eq!(loaded.problems(), ["W189 spec.trafficPolicy.tls"]);
    let why = client(&loaded).expect_err("no folder");
    assert_eq!(why, "ISTIO_MUTUAL needs the setting credentials.certificates, which is not there");
}

#[test]
fn certificates_that_have_expired_are_used_and_warned_of() {
    let authority = Authority::new();
    let old = authority.issue(&["client.example"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let values: [(&str, &[u8]); 3] =
        [("tls.crt", &old.chain), ("tls.key", &old.key), ("ca.crt", authority.pem.as_bytes())];
    let loaded = load("", &rules("{ mode: MUTUAL, credentialName: s }", &secret("s", &values)));
    assert_eq!(loaded.problems(), ["W045 spec.trafficPolicy.tls.credentialName"]);
    let said = loaded.diagnostics().render(false);
    assert!(said.contains("secret://default/s/tls.crt: the certificate has expired on 2002-01-01T00:00:00Z"), "{said}");
    assert!(client(&loaded).is_ok());
}
