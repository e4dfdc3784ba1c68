//! Certificates that say less than today's have to, as `openssl x509 -req` makes them: by an authority that the rule names they are good.

use std::process::Command;

use super::{HOSTS, task};
use crate::support::peer::{self, Peer, run};
use crate::support::{Folder, Setup};

/// `old`: by the request alone, which is of version 1 before openssl 3.2. `bare`: of version 3 with a common name and no other.
const CERTIFICATES: &str = "set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority -keyout ca.key -out ca.pem
issue() { # NAME CN
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$2 -keyout $1.key -out $1.csr
}
issue old edition.example
openssl x509 -req -days 30 -CA ca.pem -CAkey ca.key -set_serial 1 -in old.csr -out old.pem
issue bare edition.example
echo basicConstraints=CA:FALSE >ext
openssl x509 -req -days 30 -CA ca.pem -CAkey ca.key -set_serial 2 -in bare.csr -out bare.pem -extfile ext
issue other other.example
openssl x509 -req -days 30 -CA ca.pem -CAkey ca.key -set_serial 3 -in other.csr -out other.pem
";

/// `openssl s_server` with a certificate, in one version of TLS.
fn server(folder: &Folder, certificate: &str, version: &str) -> Peer {
    Peer::start(|[port]: [u16; 1]| {
        let mut server = peer::command("openssl");
        server.args(["s_server", "-quiet", "-www", version, "-accept", &format!("127.0.0.1:{port}")]);
        server.args(["-cert", &format!("{certificate}.pem"), "-key", &format!("{certificate}.key")]);
        server.current_dir(folder.path());
        server
    })
}

#[test]
fn they_are_good_by_an_authority_that_the_rule_names_and_by_no_other() {
    let folder = Folder::new();
    let made = Command::new("sh").args(["-c", CERTIFICATES]).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ca = folder.path().join("ca.pem");
    let named = format!("{{ mode: SIMPLE, caCertificates: {} }}", ca.display());
    let pinned = format!("{{ mode: SIMPLE, caCertificates: {}, subjectAltNames: [edition.example] }}", ca.display());
    for version in ["-tls1_2", "-tls1_3"] {
        for (certificate, tls, status) in [
            ("old", &*named, 200),
            ("bare", &named, 200),
            ("other", &named, 502),
            // A name that the rule pins is a subject alternative name, and there is none.
            ("bare", &pinned, 502),
            ("old", &pinned, 502),
            // The system trusts the same authority; that is not the rule's word.
            ("old", "{ mode: SIMPLE }", 502),
            ("bare", "{ mode: SIMPLE }", 502),
            ("other", "{ mode: SIMPLE, insecureSkipVerify: true }", 200),
        ] {
            let server = server(&folder, certificate, version);
            let rules = task(server.address().port(), tls);
            let setup = Setup { rules: &rules, hosts: HOSTS, system_roots: Some(&ca), ..Setup::default() };
            let egret = setup.start(&folder);
            let mut curl = peer::command("curl");
            curl.args([
                "-q",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-x",
                &format!("http://{}", egret.proxy()),
            ]);
            let said = run(curl.arg("http://edition.example/")).succeeded();
            assert_eq!(said, status.to_string(), "{version} {certificate} {tls}");
            if status != 200 {
                egret.record("\"GET\"").shows(&[("response_flags", "UF"), ("reason", "tls_certificate_error")]);
            }
        }
    }
}
