//! Whom TLS origination shows which certificate, and whose it believes: the mesh's, and those that a list revokes.

use std::path::Path;
use std::process::Command;

use super::{CLUSTER, HOSTS, LOCATIONS, task};
use crate::support::certificates::Authority;
use crate::support::nginx::Nginx;
use crate::support::{Egret, Folder, Setup, client, eventually};

const WORKLOAD: &str = "spiffe://cluster.local/ns/egress/sa/origin";

fn get(egret: &Egret, path: &str) -> u16 {
    client::get(egret.proxy(), &format!("http://edition.example{path}")).status
}

/// Puts a version of the mesh's certificate in place as the kubelet does: a folder, and a link that moves to it.
fn mount(folder: &Folder, version: &str, files: [(&str, &Path); 3]) {
    for (name, file) in files {
        folder.write(&format!("mesh/..{version}/{name}"), &std::fs::read_to_string(file).unwrap());
        let _ = std::os::unix::fs::symlink(format!("..data/{name}"), folder.path().join("mesh").join(name));
    }
    let (new, data) = (folder.path().join("mesh/..data_tmp"), folder.path().join("mesh/..data"));
    std::os::unix::fs::symlink(format!("..{version}"), &new).unwrap();
    std::fs::rename(new, data).unwrap();
}

/// ISTIO 7: the certificate of the mesh, its SNI, and any workload of the trust domain; rotated while it runs.
#[test]
fn workloads_of_the_mesh_know_each_other_by_their_certificates() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let root = authority.write(&folder, "root.pem");
    let verify = format!("ssl_client_certificate {}; ssl_verify_client on; {LOCATIONS}", root.display());
    let nginx = Nginx::start(&folder, &verify, &authority.issue_uri(&folder, "origin", WORKLOAD, &[]));
    let own = authority.issue_uri(&folder, "own", "spiffe://cluster.local/ns/egress/sa/proxy", &[]);
    let other = authority.issue_uri(&folder, "other", "spiffe://cluster.local/ns/egress/sa/other", &[]);
    let version = |name, key: &Path| {
        let files =
            [("cert-chain.pem", own.certificate.as_path()), ("key.pem", key), ("root-cert.pem", root.as_path())];
        mount(&folder, name, files);
    };
    version("1", &own.key);
    let rules = task(nginx.tls().port(), "{ mode: ISTIO_MUTUAL }");
    let setup =
        Setup { rules: &rules, hosts: HOSTS, more: "credentials: { certificates: mesh }\n", ..Setup::default() };
    let egret = setup.start(&folder);
    assert_eq!(get(&egret, "/politics?first"), 200);
    let sni = "sni=outbound_.443_.tls-origination_.edition.example ";
    assert!(nginx.line("?first", 1).contains(sni), "{}", nginx.line("?first", 1));
    egret.record("?first").shows(&[("response_code", "200"), ("upstream_cluster", CLUSTER)]);

    // A key of somebody else's: nothing goes out until the next version comes.
    version("2", &other.key);
    eventually("the broken version is noticed", || get(&egret, "/politics?second") == 503);
    let record = egret.record("credential_missing");
    record.shows(&[("response_code", "503"), ("response_flags", "UF")]);
    let why = record.get("upstream_transport_failure_reason");
    assert!(why.ends_with("mesh/key.pem: does not belong to clientCertificate"), "{why}");
    version("3", &own.key);
    eventually("the next version is noticed", || get(&egret, "/politics?third") == 200);
}

#[test]
fn nobody_outside_of_the_trust_domain_is_a_workload() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let root = authority.write(&folder, "mesh/root-cert.pem");
    let own = authority.issue_uri(&folder, "own", "spiffe://cluster.local/ns/egress/sa/proxy", &[]);
    folder.write("mesh/cert-chain.pem", &std::fs::read_to_string(&own.certificate).unwrap());
    folder.write("mesh/key.pem", &std::fs::read_to_string(&own.key).unwrap());
    let stranger =
        authority.issue_uri(&folder, "origin", "spiffe://other.local/ns/egress/sa/origin", &["edition.example"]);
    let nginx = Nginx::start(&folder, LOCATIONS, &stranger);
    assert!(root.exists());
    let rules = task(nginx.tls().port(), "{ mode: ISTIO_MUTUAL }");
    let setup =
        Setup { rules: &rules, hosts: HOSTS, more: "credentials: { certificates: mesh }\n", ..Setup::default() };
    let egret = setup.start(&folder);
    assert_eq!(get(&egret, "/secret"), 502);
    let record = egret.record("/secret");
    record.shows(&[("response_flags", "UF"), ("reason", "tls_certificate_error")]);
    assert!(record.get("detail").contains("wanted is a workload of the trust domain cluster.local"), "{record:?}");
    // A name that the rule gives is enough, whatever the domain.
    let named = "{ mode: ISTIO_MUTUAL, subjectAltNames: [\"spiffe://other.local/ns/egress/sa/origin\"] }";
    let rules = task(nginx.tls().port(), named);
    let egret = Setup { rules: &rules, ..setup }.start(&folder);
    assert_eq!(get(&egret, "/politics"), 200);
}

/// An authority and a list by openssl: what it revokes is refused, and so is everybody once the list has expired.
#[test]
fn a_certificate_that_openssl_revoked_is_refused() {
    let folder = Folder::new();
    let script = "set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj '/CN=authority of a test' \\
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout origin.key -out origin.csr -subj /CN=origin
printf 'subjectAltName=DNS:edition.example\\nauthorityKeyIdentifier=keyid\\n' >ext
openssl x509 -req -in origin.csr -CA ca.pem -CAkey ca.key -set_serial 4711 -days 30 -extfile ext -out origin.pem
printf '[ca]\\ndefault_ca=us\\n[us]\\ndatabase=index\\ndefault_md=sha256\\ncrlnumber=number\\ncrl_extensions=list\\n[list]\\nauthorityKeyIdentifier=keyid\\n' >ca.cnf
: >index; echo 01 >number
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -crldays 30 -out good.crl
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z -out old.crl
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -revoke origin.pem
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -crldays 30 -out bad.crl
";
    let output = Command::new("sh").args(["-c", script]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = |name: &str| folder.path().join(name);
    let files = crate::support::certificates::Files { certificate: path("origin.pem"), key: path("origin.key") };
    let nginx = Nginx::start(&folder, LOCATIONS, &files);
    for (list, status, why) in [
        ("good.crl", 200, ""),
        ("bad.crl", 502, "it has been revoked"),
        ("old.crl", 502, "the revocation list (caCrl) has expired on 2020-02-01T00:00:00Z"),
    ] {
        let (ca, list) = (path("ca.pem"), path(list));
        let tls = format!("{{ mode: SIMPLE, caCertificates: {}, caCrl: {} }}", ca.display(), list.display());
        let rules = task(nginx.tls().port(), &tls);
        let egret = Setup { rules: &rules, hosts: HOSTS, ..Setup::default() }.start(&folder);
        assert_eq!(get(&egret, "/politics"), status, "{}", list.display());
        assert!(egret.record("/politics").get("detail").contains(why), "{:?}", egret.record("/politics"));
    }
}
