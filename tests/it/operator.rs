//! The operator's port, asked as operators do.

mod changes;
mod configured;
mod counts;
mod page;
mod refused;

use std::path::Path;
use std::process::Command;

use crate::support::Egret;

/// The answer that curl got: its status and body.
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Told {
    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Asks the TCP port.
pub(crate) fn ask(egret: &Egret, arguments: &[&str], path: &str) -> Told {
    curl(arguments, &format!("http://{}{path}", egret.admin()))
}

/// Asks the socket.
pub(crate) fn ask_socket(socket: &Path, arguments: &[&str], path: &str) -> Told {
    let socket = socket.to_str().unwrap();
    curl(&[&["--unix-socket", socket], arguments].concat(), &format!("http://localhost{path}"))
}

fn curl(arguments: &[&str], url: &str) -> Told {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--noproxy", "*", "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(url)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{url}: {} {text}", String::from_utf8_lossy(&output.stderr));
    let (body, status) = text.rsplit_once('\n').unwrap();
    Told { status: status.parse().unwrap(), body: body.to_owned() }
}
