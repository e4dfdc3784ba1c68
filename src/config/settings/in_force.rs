//! The settings in force, as operators are shown them: every value with its default, under the names of the file. Secrets stand in files
//! of their own, of which only the paths are told.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, Family, Listener, OnRevoke, OutboundMode, Protocol, Sandbox, Settings, Tls};
use crate::account::Encoding;
use crate::config::settings::CONSISTENCY_MODES;
use crate::flow::{Limits, Workload};

impl Settings {
    /// All of them but `listeners` and the entries of `allow`, which have lists of their own.
    pub fn in_force(&self) -> Value {
        let consistency = CONSISTENCY_MODES.iter().find(|(_, mode)| *mode == self.consistency.mode);
        json!({
            "threads": self.threads,
            "drain": time(self.drain),
            "workload": workload(&self.workload),
            "mesh": {
                "outboundTrafficPolicy": {
                    "mode": match self.mesh.mode {
                        OutboundMode::AllowAny => "ALLOW_ANY",
                        OutboundMode::RegistryOnly { .. } => "REGISTRY_ONLY",
                    },
                    "report": self.mesh.mode == OutboundMode::RegistryOnly { report: true },
                    "egressProxy": self.mesh.egress_proxy.as_ref().map(|proxy| {
                        let subset = proxy.subset.as_ref().map(|subset| &subset.value);
                        json!({ "host": proxy.host.value, "port": proxy.port, "subset": subset })
                    }),
                },
                "accessLogFile": self.mesh.access_log.file.as_deref().map(path),
                "accessLogEncoding": match self.mesh.access_log.encoding {
                    Encoding::Text => "TEXT",
                    Encoding::Json => "JSON",
                    Encoding::Squid => "SQUID",
                },
                "accessLogFormat": self.mesh.access_log.format.value,
                "connectTimeout": time(self.mesh.connect_timeout),
                "rootNamespace": self.mesh.root_namespace,
                "trustDomain": self.mesh.trust_domain,
            },
            "accessLog": { "start": self.progress.start, "interval": time(self.progress.interval) },
            "otlp": {
                "endpoint": self.otlp.as_ref().map(|otlp| format!("http://{otlp}{}", otlp.path)),
                "samplingPercent": self.otlp.as_ref().map_or(100, |otlp| otlp.sampling_percent),
            },
            "addresses": { "allow": texts(&self.addresses.allow), "deny": texts(&self.addresses.deny) },
            "consistency": {
                "mode": consistency.map(|(name, _)| name),
                "ech": if self.consistency.deny_ech { "deny" } else { "allow" },
            },
            "parents": {
                "through": self.parents.through.as_ref().map(|parent| format!("{}:{}", parent.host.value, parent.port)),
                "always": self.parents.always.iter().map(|entry| &entry.value.text).collect::<Vec<_>>(),
                "never": self.parents.never.iter().map(|entry| &entry.value.text).collect::<Vec<_>>(),
            },
            "onRevoke": match self.on_revoke {
                OnRevoke::Close => "close",
                OnRevoke::Report => "report",
                OnRevoke::Keep => "keep",
            },
            "dial": {
                "source": texts(&self.dial.source),
                "happyEyeballsDelay": time(self.dial.happy_eyeballs_delay),
                "tcpUserTimeout": time(self.dial.tcp_user_timeout),
            },
            "dns": self.dns_in_force(),
            "limits": limits(&self.limits),
            "via": { "name": self.via.name.as_deref().unwrap_or("auto"), "send": self.via.send },
            "admin": {
                "address": match &self.admin {
                    Admin::Off => "off".to_owned(),
                    Admin::Address(address) => address.to_string(),
                    Admin::Unix(socket) => format!("unix:{}", socket.display()),
                },
                "tokenFile": self.admin_token.as_ref().map(|file| path(&file.value)),
            },
            "sandbox": match self.sandbox {
                Sandbox::Auto => "auto",
                Sandbox::Required => "required",
                Sandbox::Off => "off",
            },
            "files": {
                "root": path(&self.files.root),
                "sockets": self.files.sockets.iter().map(|folder| path(folder)).collect::<Vec<_>>(),
            },
            "secrets": self.secrets.iter().map(|secret| {
                json!({ "name": secret.name.value, "namespace": secret.namespace, "dir": path(&secret.dir) })
            }).collect::<Vec<_>>(),
            "credentials": { "certificates": self.certificates.as_ref().map(|folder| path(&folder.value)) },
            "resources": self.resources.iter().map(|input| {
                json!({ "path": path(&input.path), "namespace": input.namespace })
            }).collect::<Vec<_>>(),
        })
    }

    /// What is in force of one listener. `address` is where it is bound.
    pub fn listener_in_force(&self, listener: &Listener) -> Value {
        json!({
            "name": listener.name.value,
            "protocol": match listener.protocol {
                Protocol::Forward => "forward",
                Protocol::Sni => "sni",
            },
            "address": listener.address.value.to_string(),
            "workload": workload(&self.workload_of(listener)),
            "clients": {
                "from": listener.admitted().map(|networks| texts(&networks)),
                "basic": listener.clients.basic.as_ref().map(|basic| {
                    json!({ "htpasswd": path(&basic.htpasswd.value), "realm": basic.realm })
                }),
                "open": listener.clients.open,
            },
            "tls": listener.tls.as_ref().map(tls),
            "proxyProtocol": listener.proxy_protocol.as_ref().map(|from| json!({ "from": texts(from) })),
            "upstreamPort": (listener.protocol == Protocol::Sni).then_some(listener.upstream_port),
            "at": (listener.name.span.line > 0).then(|| self.origin(listener.name.span).to_string()),
        })
    }

    fn dns_in_force(&self) -> Value {
        let dns = &self.dns;
        json!({
            "servers": if dns.servers.is_empty() { json!("system") } else { json!(texts(&dns.servers)) },
            "family": match dns.family {
                Family::Any => "any",
                Family::V4 => "v4",
                Family::V6 => "v6",
            },
            "timeout": time(dns.timeout),
            "attempts": dns.attempts,
            "hosts": dns.hosts.as_deref().map(path),
            "negativeTtl": time(dns.negative_ttl),
            "failureTtl": time(dns.failure_ttl),
            "addressesMax": dns.addresses_max,
            "forward": dns.forward.iter().map(|(name, servers)| (name.to_string(), json!(texts(servers))))
                .collect::<serde_json::Map<_, _>>(),
        })
    }
}

fn limits(limits: &Limits) -> Value {
    json!({
        "connections": limits.connections,
        "connectionsPerClient": limits.connections_per_client,
        "requestsPerConnection": limits.requests_per_connection,
        "keepAliveIdle": time(limits.keep_alive_idle),
        "headBytes": limits.head_bytes,
        "headFields": limits.head_fields,
        "headTime": time(limits.head_time),
        "tunnels": limits.tunnels,
        "tunnelsPerClient": limits.tunnels_per_client,
        "pendingDials": limits.pending_dials,
        "pendingDialsPerClient": limits.pending_dials_per_client,
        "dnsQueries": limits.dns_queries,
        "idlePool": limits.idle_pool,
        "bodyIdle": time(limits.body_idle),
        "bodyRateMin": limits.body_rate_min,
        "tunnelIdle": time(limits.tunnel_idle),
        "tunnelLifetime": time(limits.tunnel_lifetime),
        "requestsPerSecondPerClient": limits.requests_per_second_per_client,
        "requestsBurstPerClient": limits.requests_burst_per_client,
        "bytesPerSecondPerClient": limits.bytes_per_second_per_client,
        "ipv6ClientPrefix": limits.ipv6_client_prefix,
    })
}

fn tls(tls: &Tls) -> Value {
    use super::ClientCertificate;
    json!({
        "certificate": path(&tls.certificate.value),
        "privateKey": path(&tls.private_key.value),
        "clientCa": tls.client_ca.as_ref().map(|file| path(&file.value)),
        "clientCrl": tls.client_crl.as_ref().map(|file| path(&file.value)),
        "clientCertificate": match tls.client_certificate {
            ClientCertificate::None => "none",
            ClientCertificate::Optional => "optional",
            ClientCertificate::Required => "required",
        },
        "alpn": tls.alpn.iter().map(|alpn| alpn.as_str()).collect::<Vec<_>>(),
    })
}

fn workload(workload: &Workload) -> Value {
    let Workload { namespace, service_account, labels } = workload;
    json!({ "namespace": namespace, "serviceAccount": service_account, "labels": labels })
}

/// As the file has it: `250ms`, `10s`; 0 for none.
fn time(duration: Duration) -> Value {
    if duration.is_zero() { json!(0) } else { json!(format!("{duration:?}")) }
}

fn texts(items: &[impl Display]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Diagnostics, Source};

    /// The example has every key with its default, and a test holds it to that.
    #[test]
    fn the_defaults_are_those_of_the_example_and_no_key_is_missing() {
        let text = include_str!("../../../conf/egret.yaml");
        let source = std::sync::Arc::new(Source::new("conf/egret.yaml", text));
        let settings = Settings::read(source, Path::new(""), &mut Diagnostics::default());
        assert_eq!(settings.in_force(), Settings::default().in_force());
        let in_force = settings.in_force();
        for (key, node) in settings.top_level().filter(|(key, _)| !["listeners", "allow"].contains(key)) {
            let shown = in_force.get(key).unwrap_or_else(|| panic!("{key} is not shown"));
            if let crate::config::yaml::Value::Map(entries) = &node.value {
                for (name, _) in entries {
                    assert!(shown.get(&*name.text).is_some(), "{key}.{} is not shown", name.text);
                }
            }
        }
    }
}
