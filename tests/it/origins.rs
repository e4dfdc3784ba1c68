//! A real nginx as origin: TLS originated by rule as in Istio's task, TLS forwarded by SNI, and its several ways to frame HTTP.

mod credentials;
mod forward;
mod framing;
mod originate;
mod refuse;
mod rotation;
mod sparse;

use std::path::PathBuf;

use crate::support::certificates::{Authority, Files};
use crate::support::nginx::Nginx;
use crate::support::{Egret, Folder, Setup};

/// nginx with a certificate, and a proxy that is still to be started.
struct World {
    folder: Folder,
    nginx: Nginx,
    ca: PathBuf,
}

impl World {
    /// nginx shows a certificate for these names.
    fn new(names: &[&str]) -> Self {
        Self::with(|authority, folder| authority.issue(folder, "origin", names))
    }

    fn with(issue: impl FnOnce(&Authority, &Folder) -> Files) -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        let certificate = issue(&authority, &folder);
        let ca = authority.write(&folder, "ca.pem");
        let nginx = Nginx::start(&folder, LOCATIONS, &certificate);
        Self { folder, nginx, ca }
    }

    fn start(&self, rules: &str) -> Egret {
        Setup { mesh: REGISTRY_ONLY, rules, hosts: HOSTS, ..Setup::default() }.start(&self.folder)
    }

    /// A DestinationRule's `tls` with this world's authority and more fields.
    fn simple(&self, more: &str) -> String {
        format!("{{ mode: SIMPLE, caCertificates: {}, {more} }}", self.ca.display())
    }
}

/// Port 80 becomes TLS to port 443 by a VirtualService and a subset, as in the task `egress-tls-origination`; 443 is where nginx
/// listens. Subset and DestinationRule are the task's, with a `tls` of the test's.
fn task(port: u16, tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: edition }}
spec:
  hosts: [edition.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {{ number: 80, name: http-port, protocol: HTTP }}
  - {{ number: 443, name: https-port-for-tls-origination, protocol: HTTPS, targetPort: {port} }}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: edition }}
spec:
  hosts: [edition.example]
  http:
  - match: [{{ port: 80 }}]
    route:
    - destination: {{ host: edition.example, subset: tls-origination, port: {{ number: 443 }} }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: edition }}
spec:
  host: edition.example
  subsets:
  - name: tls-origination
    trafficPolicy:
      loadBalancer: {{ simple: ROUND_ROBIN }}
      portLevelSettings:
      - port: {{ number: 443 }}
        tls: {tls}
"
    )
}

const REGISTRY_ONLY: &str = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
const HOSTS: &[&str] = &["edition.example", "edition.cnn.com", "plain.example", "other.example"];
const LOCATIONS: &str = "
    location /politics { return 200 'politics\\n'; }
    location /close { keepalive_timeout 0; return 200 'close\\n'; }
    location /until-end { ssi on; ssi_types *; chunked_transfer_encoding off; alias www/until-end.txt; }
    location /chunked { ssi on; ssi_types *; alias www/chunked.txt; }
";
const CLUSTER: &str = "outbound|443|tls-origination|edition.example";
