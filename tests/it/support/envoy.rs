//! A real Envoy as parent proxy, of the version that the load tests compare with.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Folder;
use super::certificates::Files;
use super::peer::{Peer, command_at};

/// Carries out CONNECT of HTTP/1 and HTTP/2 on the first address, and behind TLS on the second.
pub(crate) struct Envoy(Peer);

impl Envoy {
    /// Whatever it is asked for, it connects to `origin`; but `denied.example`, which it answers with 403.
    pub(crate) fn start(folder: &Folder, origin: SocketAddr, certificate: &Files) -> Self {
        Self(Peer::start(|ports: [u16; 2]| {
            let config = folder.write("envoy.yaml", &configuration(origin, certificate, ports));
            let mut envoy = command_at(&program());
            envoy.args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning", "-c"]).arg(config);
            envoy
        }))
    }

    /// Where it speaks in the clear.
    pub(crate) fn plain(&self) -> SocketAddr {
        self.0.addresses[0]
    }

    /// Where it speaks TLS.
    pub(crate) fn tls(&self) -> SocketAddr {
        self.0.addresses[1]
    }

    /// The line of its access log that contains `text`: `PROTOCOL METHOD AUTHORITY STATUS via=…`.
    pub(crate) fn line(&self, text: &str) -> String {
        self.0.stdout.wait_for(text)
    }
}

/// Where `./test.sh` puts it.
fn program() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder of the target folder").to_owned();
    let program = target.join("peers/envoy/envoy/_bin/envoy");
    assert!(program.exists(), "{} is not there: ./test.sh installs it", program.display());
    program
}

fn configuration(origin: SocketAddr, certificate: &Files, [plain, tls]: [u16; 2]) -> String {
    let (chain, key) = (certificate.certificate.display(), certificate.key.display());
    let socket = format!(
        "
    transport_socket:
      name: tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        common_tls_context:
          alpn_protocols: [h2, http/1.1]
          tls_certificates: [{{ certificate_chain: {{ filename: {chain} }}, private_key: {{ filename: {key} }} }}]"
    );
    let listener = |port: u16, socket: &str| {
        format!(
            "
- name: at-{port}
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: parent
        codec_type: AUTO
        http2_protocol_options: {{ allow_connect: true, max_concurrent_streams: 4 }}
        upgrade_configs: [{{ upgrade_type: CONNECT }}]
        access_log:
        - name: stdout
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
            log_format: {{ text_format_source: {{ inline_string: \"%PROTOCOL% %REQ(:METHOD)% %REQ(:AUTHORITY)% %RESPONSE_CODE% via=%REQ(VIA)%\\n\" }} }}
        http_filters:
        - name: router
          typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
        route_config:
          virtual_hosts:
          - name: denied
            domains: [denied.example, \"denied.example:443\"]
            routes: [{{ match: {{ connect_matcher: {{}} }}, direct_response: {{ status: 403 }} }}]
          - name: all
            domains: [\"*\"]
            routes:
            - match: {{ connect_matcher: {{}} }}
              route: {{ cluster: origin, upgrade_configs: [{{ upgrade_type: CONNECT, connect_config: {{}} }}] }}{socket}"
        )
    };
    format!(
        "static_resources:
  clusters:
  - name: origin
    type: STATIC
    load_assignment:
      cluster_name: origin
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}]
  listeners:{}{}
",
        origin.port(),
        listener(plain, "").replace('\n', "\n  "),
        listener(tls, &socket).replace('\n', "\n  ")
    )
}
