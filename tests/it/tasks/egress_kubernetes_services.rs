//! "Kubernetes Services for Egress Traffic".

use super::egress_control::httpbin;
use super::{Task, assert_line, curl, nginx, public, start};
use crate::support::Folder;
use crate::support::world::{in_a_world_with, name_of, write};

const ALIAS: &str = "my-httpbin.default.svc.cluster.local";
const SERVICE: &str = "my-wikipedia.default.svc.cluster.local";
const CLUSTER_IP: &str = "172.21.138.6";

/// "Kubernetes ExternalName service to access an external service": the alias is the Host that httpbin.org sees.
fn external_name(test: &str, version: &str) {
    let Some(task) = Task::named("egress-kubernetes-services", test) else { return };
    in_a_world_with(test, &[("httpbin.org", "35.173.6.94")], |_| {
        let _httpbin = httpbin();
        let service = task.file("01-externalname-service.v1.6+1.7+1.27.yaml");
        let rule = task.file(&format!("02-externalname-destinationrule.{version}.yaml"));
        for files in [vec![service.clone()], vec![service, rule]] {
            let egret = start(&files, super::REGISTRY_ONLY);
            let body = curl(&egret, &["-sS", &format!("{ALIAS}/headers")]).succeeded();
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["headers"]["Host"], ALIAS);
            assert!(!body.to_string().to_ascii_lowercase().contains("x-envoy"), "{body}");
            assert_line(
                &egret.stdout.wait_for("/headers"),
                &format!(
                    "[…] \"GET /headers HTTP/1.1\" 200 - via_upstream - \"-\" 0 … … … \"-\" \"curl/…\" \"…\" \"{ALIAS}\" \
                     \"35.173.6.94:80\" outbound|80||{ALIAS} … {} 127.0.0.1:… - default",
                    egret.proxy()
                ),
            );
            // The alias opens nothing of the name behind it.
            let direct = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "http://httpbin.org/headers"];
            assert_eq!(curl(&egret, &direct).succeeded(), "403");
        }
    });
}

#[test]
fn an_external_name_of_1_27() {
    external_name(name_of(an_external_name_of_1_27), "v1.27");
}

#[test]
fn an_external_name_of_1_6() {
    external_name(name_of(an_external_name_of_1_6), "v1.6+1.7");
}

/// "Use a Kubernetes service with endpoints to access an external service". The addresses are the file's; wikipedia's certificate is for
/// its own name, which is what curl asks TLS for while it asks the proxy for the service, by name or by cluster IP.
fn endpoints(test: &str, version: &str, addresses: [&str; 2]) {
    let Some(task) = Task::named("egress-kubernetes-services", test) else { return };
    // Nobody asks DNS for these names: they are here for their addresses.
    in_a_world_with(test, &[("one.invalid", addresses[0]), ("two.invalid", addresses[1])], |world| {
        let folder = Folder::new();
        let files = public(&folder, &["en.wikipedia.org"]);
        let (certificate, key) = (files.certificate.display(), files.key.display());
        let listen = addresses.map(|address| format!("{address}:443"));
        let config = format!(
            "events {{}}\nhttp {{ default_type text/html; ssl_certificate {certificate}; ssl_certificate_key {key}; server {{ listen {} ssl \
             http2; listen {} ssl http2; location /wiki/ {{ return 200 '<title>Wikipedia, the free encyclopedia</title>\\n'; }} }} }}\n",
            listen[0], listen[1]
        );
        write("/etc/nginx/nginx.conf", config);
        let _wikipedia = nginx(&listen.each_ref().map(String::as_str));
        // The API server gives each Service an address, at the end of its `spec`.
        let service = task.read("03-endpoints-service.v1.6+1.7+1.27.yaml");
        let service = folder.write("my-wikipedia.yaml", &format!("{service}\n  clusterIP: {CLUSTER_IP}\n"));
        let files = [
            task.file("03-endpoints-service.v1.6+1.7+1.27.yaml"),
            task.file(&format!("04-endpoints-endpoints.{version}.yaml")),
            task.file(&format!("05-endpoints-destinationrule.{version}.yaml")),
        ];
        let assigned = [service, files[1].clone(), files[2].clone()];
        for (files, asked) in [(&files[..2], SERVICE), (&files[..], SERVICE), (&assigned[..], CLUSTER_IP)] {
            let egret = start(files, super::REGISTRY_ONLY);
            let to = format!("en.wikipedia.org:443:{asked}:443");
            let said = curl(&egret, &["-sS", "--connect-to", &to, "https://en.wikipedia.org/wiki/Main_Page"]);
            assert_eq!(said.succeeded(), "<title>Wikipedia, the free encyclopedia</title>\n");
            let line = egret.stdout.wait_for("CONNECT");
            let dialled = listen.iter().find(|address| line.contains(&format!("\"{address}\"")));
            assert_line(
                &line,
                &format!(
                    "[…] \"CONNECT - HTTP/1.1\" 200 - via_upstream - \"-\" … … … … \"-\" \"curl/…\" \"…\" \"{asked}:443\" \"{}\" \
                     outbound|443||{SERVICE} … {} 127.0.0.1:… - default",
                    dialled.expect("an address of the file"),
                    egret.proxy()
                ),
            );
            assert_eq!(curl(&egret, &["-sS", "https://en.wikipedia.org/wiki/Main_Page"]).code, Some(56));
        }
        assert_eq!(world.dns.queries(), 0, "the addresses are in the files");
    });
}

#[test]
fn endpoints_of_1_27() {
    endpoints(name_of(endpoints_of_1_27), "v1.27", ["198.35.26.96", "208.80.153.224"]);
}

#[test]
fn endpoints_of_1_6() {
    endpoints(name_of(endpoints_of_1_6), "v1.6+1.7", ["91.198.174.192", "198.35.26.96"]);
}
