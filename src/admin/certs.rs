//! `/certs`: the certificates in use, of listeners and of rules, with their authorities, as Envoy lists them.

use std::collections::HashSet;
use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::chunks::list;
use super::facts::{Facts, ListenerTls};
use crate::route::{Origination, Snapshot};
use crate::tls::x509::{Shown, SubjectName};

/// Writes all of them. What rules trust because the system does is not listed.
pub(super) fn write(out: &mut impl Write, facts: &Facts, snapshot: &Snapshot) -> io::Result<()> {
    let now = Timestamp::now().as_second();
    out.write_all(b"{\"certificates\":")?;
    list(out, of_listeners(facts, now).into_iter().chain(of_rules(snapshot, now)))?;
    out.write_all(b"}")
}

fn of_listeners(facts: &Facts, now: i64) -> Vec<Value> {
    let with_tls = facts.listeners.iter().filter_map(|listener| Some((listener, listener.tls.as_ref()?)));
    let described = with_tls.map(|(listener, ListenerTls { server, certificate, client_ca })| {
        let ca = certificates(server.authorities(), client_ca.as_deref(), now);
        let chain = certificates(server.chain(), Some(certificate), now);
        json!({ "ca_cert": ca, "cert_chain": chain, "used_by": format!("listener {}", listener.name) })
    });
    described.collect()
}

fn of_rules(snapshot: &Snapshot, now: i64) -> Vec<Value> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    snapshot.for_each_cluster(|cluster| {
        let Some(Origination { client: Ok(client), origin, .. }) = cluster.tls.as_deref() else { return };
        let is_systems = client.authorities().is_empty() && client.chain().is_empty();
        if is_systems || !seen.insert((origin.resource.clone(), client.id())) {
            return;
        }
        let ca = certificates(client.authorities(), client.files().ca.as_deref(), now);
        let chain = certificates(client.chain(), client.files().chain.as_deref(), now);
        found
            .push((origin.resource.clone(), json!({ "ca_cert": ca, "cert_chain": chain, "used_by": origin.resource })));
    });
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, value)| value).collect()
}

fn certificates(shown: &[Shown], path: Option<&str>, now: i64) -> Vec<Value> {
    shown.iter().map(|shown| certificate(shown, path, now)).collect()
}

fn certificate(shown: &Shown, path: Option<&str>, now: i64) -> Value {
    const DAY: i64 = 86_400;
    let time = |seconds: i64| Timestamp::from_second(seconds).map(|at| at.to_string()).unwrap_or_default();
    let names = shown.names.iter().map(|name| match name {
        SubjectName::Dns(name) => json!({ "dns": name }),
        SubjectName::Uri(uri) => json!({ "uri": uri }),
        SubjectName::Ip(ip) => json!({ "ip_address": ip }),
    });
    json!({
        "path": path.unwrap_or_default(),
        "serial_number": shown.serial,
        "subject_alt_names": names.collect::<Vec<_>>(),
        "days_until_expiration": ((shown.validity.not_after - now).max(0) / DAY).to_string(),
        "valid_from": time(shown.validity.not_before),
        "expiration_time": time(shown.validity.not_after),
    })
}
