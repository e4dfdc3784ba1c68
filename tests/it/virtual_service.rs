//! VirtualServices over real sockets: curl asks, origins count what reaches them.

mod actions;
mod matching;
mod retries;

use std::fmt::Write as _;

use crate::support::origin::{Origin, field};
use crate::support::peer::{Ran, command, run};
use crate::support::{Egret, Folder, Setup};

/// Two origins, and a proxy with routes between them: `a.example` and `b.example` on ports 80 (HTTP), 81 (TCP) and 82 (undeclared).
struct World {
    egret: Egret,
    a: Origin,
    b: Origin,
    _folder: Folder,
}

impl World {
    /// `routes` is the spec of a VirtualService of `a.example`, below its hosts.
    fn new(routes: &str) -> Self {
        Self::with(Origin::http(FROM_A), Origin::http(FROM_B), "", routes)
    }

    /// With origins of the test's, and more documents.
    fn with(a: Origin, b: Origin, more: &str, routes: &str) -> Self {
        let folder = Folder::new();
        let mut rules = String::new();
        for (name, origin) in [("a", &a), ("b", &b)] {
            let port = origin.address.port();
            write!(
                rules,
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  hosts: [{name}.example]\n  resolution: DNS\n  ports:\n  - {{ number: 80, name: http, protocol: HTTP, targetPort: {port} }}\n  - {{ number: 81, name: tcp, protocol: TCP, targetPort: {port} }}\n  - {{ number: 82, name: auto, targetPort: {port} }}\n---\n"
            )
            .unwrap();
        }
        let routes: String = routes.lines().map(|line| format!("  {line}\n")).collect();
        write!(
            rules,
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: routes }}\nspec:\n  hosts: [a.example]\n{routes}{more}"
        )
        .unwrap();
        let hosts = &["a.example", "b.example"];
        let mesh = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
        let egret = Setup { mesh, rules: &rules, hosts, ..Setup::default() }.start(&folder);
        Self { egret, a, b, _folder: folder }
    }

    /// curl through the proxy.
    fn curl(&self, args: &[&str]) -> Ran {
        let proxy = format!("http://{}", self.egret.proxy());
        let mut curl = command("curl");
        run(curl.args(["-q", "-sS", "--path-as-is", "--max-time", "15", "-x", &proxy]).args(args))
    }

    /// The body and, in a line of its own, the status.
    fn get(&self, args: &[&str]) -> String {
        self.curl(&[&["-w", "\n%{http_code}"], args].concat()).succeeded()
    }
}

const FROM_A: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nServer: a\r\n\r\na";
const FROM_B: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nServer: b\r\n\r\nb";

fn to(name: &str) -> String {
    format!("route: [{{ destination: {{ host: {name}.example }} }}]")
}
