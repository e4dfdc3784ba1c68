//! A real nginx as origin.

use std::fmt::Write;
use std::net::SocketAddr;

use super::Folder;
use super::certificates::Files;
use super::peer::{Peer, command};

/// Speaks HTTP on the first address, and TLS on another for each certificate it was given.
pub(crate) struct Nginx(Peer);

impl Nginx {
    /// `locations` stand in every server, in nginx's own words.
    pub(crate) fn start(folder: &Folder, locations: &str, certificate: &Files) -> Self {
        folder.write("www/index.html", "Welcome to nginx!\n");
        Self(Peer::start(|ports: [u16; 2]| {
            let config = configuration(folder, locations, certificate, ports);
            let mut nginx = command("nginx");
            nginx.arg("-p").arg(folder.path()).args(["-e", "stderr", "-c"]).arg(folder.write("nginx.conf", &config));
            nginx
        }))
    }

    /// Where it speaks HTTP.
    pub(crate) fn plain(&self) -> SocketAddr {
        self.0.addresses[0]
    }

    /// Where it speaks TLS.
    pub(crate) fn tls(&self) -> SocketAddr {
        self.0.addresses[1]
    }

    /// The `n`th line (from 1) of its access log that contains `text`:
    /// `REQUEST-LINE STATUS host=… sni=… tls=… reused=… requests=…`, where `reused` is `r` for a resumed session and `requests` counts
    /// those of the connection.
    pub(crate) fn line(&self, text: &str, n: usize) -> String {
        self.0.stdout.wait_for_nth(text, n)
    }

    /// Lines of its access log so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.stdout.so_far()
    }
}

fn configuration(folder: &Folder, locations: &str, certificate: &Files, [plain, tls]: [u16; 2]) -> String {
    let mut config = String::from(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr error;\nevents { worker_connections 64; }\nhttp {\n\
         log_format test '$request $status host=$http_host sni=$ssl_server_name tls=$ssl_protocol reused=$ssl_session_reused \
         requests=$connection_requests';\naccess_log /dev/stdout test;\n\
         ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:test:1m;\n",
    );
    for temp in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(config, "{temp}_temp_path temp-{temp};").unwrap();
    }
    let (certificate, key) = (certificate.certificate.display(), certificate.key.display());
    let root = folder.path().join("www");
    for listen in [
        format!("listen 127.0.0.1:{plain};"),
        format!("listen 127.0.0.1:{tls} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};"),
    ] {
        writeln!(config, "server {{ {listen} root {}; {locations} }}", root.display()).unwrap();
    }
    config + "}\n"
}
