//! "Egress TLS Origination": SIMPLE to edition.cnn.com, MUTUAL to the task's own nginx.

use std::path::Path;

use super::{Task, assert_line, curl, nginx, openssl, public, start};
use crate::support::Folder;
use crate::support::peer::Peer;
use crate::support::world::{in_a_world_with, name_of, write};

const CNN: &[(&str, &str)] = &[("edition.cnn.com", "151.101.193.67")];

/// edition.cnn.com: port 80 leads to port 443.
fn cnn(folder: &Folder) -> Peer {
    let files = public(folder, &["edition.cnn.com"]);
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let config = format!(
        "events {{}}
http {{
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  server {{ listen 151.101.193.67:80; location / {{ return 301 https://$host$request_uri; }} }}
  server {{ listen 151.101.193.67:443 ssl http2; location / {{ return 200 '$request_method $request_uri by $ssl_server_name\\n'; }} }}
}}
"
    );
    write("/etc/nginx/nginx.conf", config);
    nginx(&["151.101.193.67:80", "151.101.193.67:443"])
}

const WITHOUT: [(&str, &str); 2] = [
    ("v1.27", "01-edition-cnn-com-no-origination.v1.27.yaml"),
    ("v1.6+1.7", "01-edition-cnn-com-no-origination.v1.6+1.7.yaml"),
];

/// "Configuring access to an external service".
#[test]
fn without_origination_there_is_a_redirection_to_https() {
    let test = name_of(without_origination_there_is_a_redirection_to_https);
    let Some(task) = Task::named("egress-tls-origination", test) else { return };
    in_a_world_with(test, CNN, |_| {
        let folder = Folder::new();
        let _cnn = cnn(&folder);
        for (version, file) in WITHOUT {
            let egret = start(&[task.file(file)], super::REGISTRY_ONLY);
            let asked = ["-sL", "-o", "/dev/null", "-D", "-", "http://edition.cnn.com/politics"];
            let heads = curl(&egret, &asked).succeeded();
            assert!(heads.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{version}: {heads}");
            assert!(heads.contains("\r\nLocation: https://edition.cnn.com/politics\r\n"), "{version}: {heads}");
            assert!(heads.contains("\r\n\r\nHTTP/2 200"), "{version}: {heads}");
            let proxy = egret.proxy();
            assert_line(
                &egret.stdout.wait_for("/politics"),
                &format!(
                    "[…] \"GET /politics HTTP/1.1\" 301 - via_upstream - \"-\" 0 … … … \"-\" \"curl/…\" \"…\" \"edition.cnn.com\" \
                     \"151.101.193.67:80\" outbound|80||edition.cnn.com … {proxy} 127.0.0.1:… - default"
                ),
            );
            assert_line(&egret.stdout.wait_for("CONNECT"), &tunnelled(&proxy.to_string()));
        }
    });
}

/// HTTPS of the client's own, in every version.
fn tunnelled(proxy: &str) -> String {
    format!(
        "[…] \"CONNECT - HTTP/1.1\" 200 - via_upstream - \"-\" … … … … \"-\" \"curl/…\" \"…\" \"edition.cnn.com:443\" \
         \"151.101.193.67:443\" outbound|443||edition.cnn.com … {proxy} 127.0.0.1:… edition.cnn.com default"
    )
}

/// "TLS origination for egress traffic". The page of 1.7 applies its second document over the first.
#[test]
fn with_origination_plain_http_is_answered_at_once_and_https_goes_on_as_before() {
    let test = name_of(with_origination_plain_http_is_answered_at_once_and_https_goes_on_as_before);
    let Some(task) = Task::named("egress-tls-origination", test) else { return };
    in_a_world_with(test, CNN, |_| {
        let folder = Folder::new();
        let _cnn = cnn(&folder);
        let subset = "outbound|443|tls-origination|edition.cnn.com";
        for (files, cluster) in [
            (vec!["02-edition-cnn-com-tls-origination.v1.27.yaml"], "outbound|80||edition.cnn.com"),
            (vec!["02-edition-cnn-com-tls-origination.v1.6.yaml"], subset),
            (vec![WITHOUT[1].1, "02-edition-cnn-com-tls-origination.v1.7.yaml"], subset),
        ] {
            let files: Vec<_> = files.iter().map(|file| task.file(file)).collect();
            let egret = start(&files, super::REGISTRY_ONLY);
            let asked = ["-sL", "-D", "-", "http://edition.cnn.com/politics"];
            let said = curl(&egret, &asked).succeeded();
            assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.matches("HTTP/").count() == 1, "{files:?}: {said}");
            assert!(said.ends_with("GET /politics by edition.cnn.com\n"), "{files:?}: {said}");
            let proxy = egret.proxy().to_string();
            assert_line(
                &egret.stdout.wait_for("/politics"),
                &format!(
                    "[…] \"GET /politics HTTP/1.1\" 200 - via_upstream - \"-\" 0 … … … \"-\" \"curl/…\" \"…\" \"edition.cnn.com\" \
                     \"151.101.193.67:443\" {cluster} … {proxy} 127.0.0.1:… - default"
                ),
            );
            let https = ["-sL", "-o", "/dev/null", "-D", "-", "https://edition.cnn.com/politics"];
            assert!(curl(&egret, &https).succeeded().contains("\r\n\r\nHTTP/2 200"), "{files:?}");
            assert_line(&egret.stdout.wait_for("CONNECT"), &tunnelled(&proxy));
        }
    });
}

const NGINX: &str = "my-nginx.mesh-external.svc.cluster.local";
/// A cluster IP, as the page's log has it. It is private: an operator opens the range, here as there by routing.
const CLUSTER_IP: &str = "172.30.239.57";

/// The commands of "Generate client and server certificates and keys". Without the request for names this is a certificate of version 1
/// from an openssl before 3.2: subject and key, and nothing else.
const CERTIFICATES: &str = "
openssl req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -subj '/O=example Inc./CN=example.com' -keyout example.com.key -out example.com.crt
openssl req -out my-nginx.mesh-external.svc.cluster.local.csr -newkey rsa:2048 -nodes -keyout my-nginx.mesh-external.svc.cluster.local.key -subj '/CN=my-nginx.mesh-external.svc.cluster.local/O=some organization'
openssl x509 -req -sha256 -days 365 -CA example.com.crt -CAkey example.com.key -set_serial 0 -in my-nginx.mesh-external.svc.cluster.local.csr -out my-nginx.mesh-external.svc.cluster.local.crt
openssl req -out client.example.com.csr -newkey rsa:2048 -nodes -keyout client.example.com.key -subj '/CN=client.example.com/O=client organization'
openssl x509 -req -sha256 -days 365 -CA example.com.crt -CAkey example.com.key -set_serial 1 -in client.example.com.csr -out client.example.com.crt
";
/// What the page offers beside: the server's certificate with a subject alternative name, of version 3.
const WITH_NAMES: &str = "
printf '%s\\n' '[v3_req]' 'keyUsage = critical, digitalSignature, keyEncipherment' 'extendedKeyUsage = serverAuth, clientAuth' \\
  'basicConstraints = critical, CA:FALSE' 'subjectAltName = critical, DNS:my-nginx.mesh-external.svc.cluster.local' >san.conf
openssl x509 -req -sha256 -days 365 -CA example.com.crt -CAkey example.com.key -set_serial 2 -in my-nginx.mesh-external.svc.cluster.local.csr -out my-nginx.mesh-external.svc.cluster.local.crt -extfile san.conf -extensions v3_req
";

/// The volumes of the task's Deployment, and the secret that it has `kubectl create` from files.
fn deploy(task: &Task, folder: &Path) -> Peer {
    let copy = |from: &str, to: &str| write(to, std::fs::read(folder.join(from)).unwrap());
    copy(&format!("{NGINX}.crt"), "/etc/nginx-server-certs/tls.crt");
    copy(&format!("{NGINX}.key"), "/etc/nginx-server-certs/tls.key");
    copy("example.com.crt", "/etc/nginx-ca-certs/example.com.crt");
    copy("client.example.com.key", "/etc/client-credential/tls.key");
    copy("client.example.com.crt", "/etc/client-credential/tls.crt");
    copy("example.com.crt", "/etc/client-credential/ca.crt");
    write("/etc/nginx/nginx.conf", task.read("03-mutual-nginx-server-conf.v1.27.conf"));
    nginx(&[&format!("{CLUSTER_IP}:443")])
}

/// "Configure mutual TLS origination for egress traffic at sidecar": the sidecar of the workload `app: curl`.
fn mutual(test: &str, with_names: bool) {
    let Some(task) = Task::named("egress-tls-origination", test) else { return };
    in_a_world_with(test, &[(NGINX, CLUSTER_IP)], |_| {
        let folder = Folder::new();
        openssl(folder.path(), CERTIFICATES);
        if with_names {
            openssl(folder.path(), WITH_NAMES);
        }
        let _nginx = deploy(&task, folder.path());
        let files =
            [task.file("04-mutual-nginx-server.v1.27.yaml"), task.file("05-mutual-origination-at-sidecar.v1.27.yaml")];
        let workload = "workload: { namespace: default, labels: { app: curl } }\n";
        let secret = "secrets: [{ name: client-credential, namespace: default, dir: /etc/client-credential }]\n";
        let open = format!("addresses: {{ allow: [{CLUSTER_IP}/32] }}\n");
        let url = format!("http://{NGINX}");
        let line = |status: &str, address: &str, proxy: &str| {
            format!(
                "[…] \"GET / HTTP/1.1\" {status} \"-\" 0 … … … \"-\" \"curl/…\" \"…\" \"{NGINX}\" \"{address}\" \
                 outbound|80||{NGINX} … {proxy} 127.0.0.1:… - default"
            )
        };

        let egret = start(&files, &format!("{}{workload}{secret}{open}", super::REGISTRY_ONLY));
        let said = curl(&egret, &["-sS", &url]).succeeded();
        assert!(said.contains("Welcome to nginx!"), "{said}");
        let proxy = egret.proxy().to_string();
        let address = format!("{CLUSTER_IP}:443");
        assert_line(&egret.stdout.wait_for("\"GET / "), &line("200 - via_upstream -", &address, &proxy));
        // The task's nginx logs as the task tells it to.
        let log = std::fs::read_to_string("/var/log/nginx/access.log").unwrap();
        assert!(log.contains("  200 \"GET / HTTP/1.1\" "), "{log}");

        // The rule is for `app: curl`. Whoever is somebody else speaks plainly to the same port, and nginx says so.
        let egret = start(&files, &format!("{}{secret}{open}", super::REGISTRY_ONLY));
        let said = curl(&egret, &["-sS", &url]).succeeded();
        assert!(said.contains("400 The plain HTTP request was sent to HTTPS port"), "{said}");

        // Without the secret nothing goes out, and nothing weaker instead.
        let egret = start(&files, &format!("{}{workload}{open}", super::REGISTRY_ONLY));
        let said = curl(&egret, &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &url]).succeeded();
        assert_eq!(said, "503");
        let logged = egret.stdout.wait_for("\"GET / ");
        assert!(
            logged.contains("\" 503 UF ")
                && logged.contains("Secret\\x20default/client-credential\\x20is\\x20not\\x20there")
                || logged.contains("Secret default/client-credential is not there"),
            "{logged}"
        );

        // A cluster IP is a private address, which nothing has opened.
        let egret = start(&files, &format!("{}{workload}{secret}", super::REGISTRY_ONLY));
        let said = curl(&egret, &["-sS", &url]).succeeded();
        assert!(said.contains("destination_ip_prohibited"), "{said}");
    });
}

#[test]
fn mutual_with_certificates_of_the_page() {
    mutual(name_of(mutual_with_certificates_of_the_page), false);
}

#[test]
fn mutual_with_subject_alternative_names() {
    mutual(name_of(mutual_with_subject_alternative_names), true);
}
