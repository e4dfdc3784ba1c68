//! A proxy that finds its peers on loopback under names, and whose access log is read by key.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::egret::command;
use super::{Egret, Folder};

/// What the proxy of a test is given; the rest is as in a proxy that may reach loopback.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup<'a> {
    /// Inside `mesh`, beside the log's encoding.
    pub(crate) mesh: &'a str,
    /// Items of `listeners`; empty: one `forward` listener named `proxy`.
    pub(crate) listeners: &'a str,
    /// More keys of the settings, one or several whole lines.
    pub(crate) more: &'a str,
    /// Documents of resources.
    pub(crate) rules: &'a str,
    /// Names that resolve to 127.0.0.1, or whole lines of a hosts file.
    pub(crate) hosts: &'a [&'a str],
    /// The authorities that stand in for the system's.
    pub(crate) system_roots: Option<&'a Path>,
}

impl Setup<'_> {
    /// Writes the files into `folder` and starts the proxy.
    pub(crate) fn start(&self, folder: &Folder) -> Egret {
        let mut settings = String::new();
        let listeners = if self.listeners.is_empty() { FORWARD } else { self.listeners };
        writeln!(settings, "listeners: [{listeners}]").unwrap();
        writeln!(settings, "mesh: {{ accessLogEncoding: JSON, {} }}", self.mesh).unwrap();
        writeln!(settings, "addresses: {{ allow: [127.0.0.0/8] }}").unwrap();
        // A server that is none: what the hosts file does not know fails at once, and no query leaves the machine.
        writeln!(settings, "dns: {{ hosts: hosts, servers: [\"127.0.0.1:1\"], timeout: 200ms, attempts: 1 }}").unwrap();
        writeln!(settings, "resources: [rules.yaml]\n{}", self.more).unwrap();
        let hosts = self
            .hosts
            .iter()
            .map(|host| if host.contains(' ') { format!("{host}\n") } else { format!("127.0.0.1 {host}\n") });
        folder.write("hosts", &hosts.collect::<String>());
        folder.write("rules.yaml", self.rules);
        let settings = folder.write("egret.yaml", &settings);
        let mut run =
            command(&["run".as_ref(), "--admin".as_ref(), "127.0.0.1:0".as_ref(), "-c".as_ref(), settings.as_os_str()]);
        if let Some(roots) = self.system_roots {
            run.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
        }
        Egret::spawn_command(run)
    }
}

impl Egret {
    /// The access log's line that contains `text`, as soon as it comes.
    pub(crate) fn record(&self, text: &str) -> Record {
        self.nth_record(text, 1)
    }

    /// The `n`th such line (from 1).
    pub(crate) fn nth_record(&self, text: &str, n: usize) -> Record {
        let line = self.stdout.wait_for_nth(text, n);
        Record(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }
}

/// One line of the access log.
#[derive(Debug)]
pub(crate) struct Record(Value);

impl Record {
    /// The value of a key as text; empty where it is null or missing.
    pub(crate) fn get(&self, key: &str) -> String {
        match &self.0[key] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Compares several keys at once, so that a failure shows the whole line.
    #[track_caller]
    pub(crate) fn shows(&self, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(self.get(key), *value, "{key} of {}", self.0);
        }
    }
}

const FORWARD: &str = "{ name: proxy, address: \"127.0.0.1:0\" }";
