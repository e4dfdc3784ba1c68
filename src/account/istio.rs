//! Istio's standard metrics: the labels of a series, and the text of all of them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::traffic::{self, BOUNDS, Connections, Counts, Histogram, Of, Requests, Series};
use crate::flow::Workload;

const UNKNOWN: &str = "unknown"; // what Istio writes where it does not know

/// The labels of a series, as Istio's proxies report at the source. Nothing that a peer chose is among them: hosts are those of the
/// registry, and flows to others count to `PassthroughCluster`.
pub(super) fn labels(cluster: &str, resource: &str, workload: &Workload, of: Of) -> String {
    let label =
        |names: &[&str]| names.iter().find_map(|name| workload.labels.get(*name)).map_or(UNKNOWN, String::as_str);
    let app = label(&["app", "app.kubernetes.io/name"]);
    let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = match label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]) {
        UNKNOWN => "latest",
        revision => revision,
    };
    let destination = Destination::of(cluster, resource);
    let mut text = String::with_capacity(768);
    let mut add = |name: &str, value: &str| {
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma}{name}=\"").expect("a String takes everything");
        escape(&mut text, value);
        text.push('"');
    };
    add("reporter", "source");
    add("source_workload", canonical);
    add("source_canonical_service", canonical);
    add("source_canonical_revision", revision);
    add("source_workload_namespace", &workload.namespace);
    add("source_principal", UNKNOWN); // Istio knows it over mutual TLS only
    add("source_app", app);
    add("source_version", label(&["version", "app.kubernetes.io/version"]));
    add("source_cluster", UNKNOWN);
    add("destination_workload", UNKNOWN);
    add("destination_workload_namespace", UNKNOWN);
    add("destination_principal", UNKNOWN);
    add("destination_app", UNKNOWN);
    add("destination_version", UNKNOWN);
    add("destination_service", destination.service);
    add("destination_canonical_service", UNKNOWN);
    add("destination_canonical_revision", "latest");
    add("destination_service_name", destination.name);
    add("destination_service_namespace", destination.namespace);
    add("destination_cluster", UNKNOWN);
    let flags = match of {
        Of::Request(code, flags) => {
            add("request_protocol", "http");
            add("response_code", itoa::Buffer::new().format(code));
            add("grpc_response_status", "");
            flags
        }
        Of::Connection(flags) => {
            add("request_protocol", "tcp");
            flags
        }
    };
    add("response_flags", flags);
    add("connection_security_policy", UNKNOWN);
    text
}

struct Destination<'a> {
    service: &'a str,
    name: &'a str,
    namespace: &'a str,
}

impl<'a> Destination<'a> {
    /// `outbound|443|subset|host` is a service of the registry; every other name is a cluster of Istio's own, and its service unknown.
    fn of(cluster: &'a str, resource: &'a str) -> Self {
        let Some(host) = cluster.strip_prefix("outbound|").and_then(|rest| rest.splitn(3, '|').nth(2)) else {
            let name = if cluster.is_empty() { UNKNOWN } else { cluster };
            return Self { service: UNKNOWN, name, namespace: UNKNOWN };
        };
        let mut labels = host.split('.');
        let (name, space, kind) = (labels.next(), labels.next(), labels.next());
        match (name, space, kind) {
            (Some(name), Some(namespace), Some("svc")) => Self { service: host, name, namespace },
            _ => {
                let namespace =
                    resource.split_once(' ').and_then(|(_, name)| name.split_once('/')).map(|(space, _)| space);
                Self { service: host, name: host, namespace: namespace.unwrap_or(UNKNOWN) }
            }
        }
    }
}

/// OpenMetrics: `\`, `"` and line breaks are escaped; other control characters say nothing and could drive a terminal.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c if c.is_control() => text.push('?'),
            c => text.push(c),
        }
    }
}

/// Writes all families.
pub(super) fn write(out: &mut String) {
    let all = traffic::all();
    let requests: Vec<(&Series, &Requests)> =
        all.iter().filter_map(|series| Some((&**series, requests(series)?))).collect();
    let counter = |out: &mut String, name: &str, help: &str| {
        write!(out, "# HELP {name} {help}.\n# TYPE {name} counter\n").expect("a String takes everything");
    };
    counter(out, "istio_requests", "Requests, by Istio's standard labels");
    for (series, requests) in &requests {
        line(out, "istio_requests_total", &series.labels, requests.duration.count());
    }
    type Part = fn(&Requests) -> &Histogram;
    let histograms: [(&str, &str, Part); 3] = [
        ("istio_request_duration_milliseconds", "From a request to the end of its answer", |of| &of.duration),
        ("istio_request_bytes", "Bodies of requests", |of| &of.request_bytes),
        ("istio_response_bytes", "Bodies of answers", |of| &of.response_bytes),
    ];
    for (name, help, part) in histograms {
        write!(out, "# HELP {name} {help}.\n# TYPE {name} histogram\n").expect("a String takes everything");
        for (series, requests) in &requests {
            histogram(out, name, &series.labels, part(requests));
        }
    }
    type Count = fn(&Connections) -> &AtomicU64;
    let counters: [(&str, &str, Count); 4] = [
        ("istio_tcp_connections_opened", "Tunnels and connections opened", |of| &of.opened),
        ("istio_tcp_connections_closed", "Tunnels and connections closed", |of| &of.closed),
        ("istio_tcp_sent_bytes", "Bytes to the client", |of| &of.sent),
        ("istio_tcp_received_bytes", "Bytes from the client", |of| &of.received),
    ];
    for (name, help, count) in counters {
        counter(out, name, help);
        for series in &all {
            if let Counts::Connections(connections) = &series.counts {
                let name = format_args!("{name}_total").to_string();
                line(out, &name, &series.labels, count(connections).load(Ordering::Relaxed));
            }
        }
    }
}

fn requests(series: &Series) -> Option<&Requests> {
    match &series.counts {
        Counts::Requests(requests) => Some(requests),
        Counts::Connections(_) => None,
    }
}

fn line(out: &mut String, name: &str, labels: &str, value: u64) {
    writeln!(out, "{name}{{{labels}}} {value}").expect("a String takes everything");
}

fn histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let mut count = 0;
    let bounds = BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
    for (bucket, bound) in histogram.buckets.iter().zip(bounds) {
        count += bucket.load(Ordering::Relaxed);
        writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}").expect("a String takes everything");
    }
    let sum = histogram.sum.load(Ordering::Relaxed);
    writeln!(out, "{name}_sum{{{labels}}} {}.{:03}", sum / 1000, sum % 1000).expect("a String takes everything");
    line(out, &format!("{name}_count"), labels, count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_hosts_of_the_registry_or_istios_own_clusters() {
        for (cluster, resource, expected) in [
            (
                "outbound|443||www.wikipedia.org",
                "ServiceEntry web/wiki",
                ("www.wikipedia.org", "www.wikipedia.org", "web"),
            ),
            ("outbound|443|v2|*.wiki.org", "allow[0]", ("*.wiki.org", "*.wiki.org", "unknown")),
            ("outbound|80||db.prod.svc.cluster.local", "Service prod/db", ("db.prod.svc.cluster.local", "db", "prod")),
            ("PassthroughCluster", "", ("unknown", "PassthroughCluster", "unknown")),
            ("BlackHoleCluster", "", ("unknown", "BlackHoleCluster", "unknown")),
            ("", "", ("unknown", "unknown", "unknown")),
        ] {
            let found = Destination::of(cluster, resource);
            assert_eq!((found.service, found.name, found.namespace), expected, "{cluster}");
        }
    }

    #[test]
    fn labels_are_istios_and_nothing_leaves_its_quotes() {
        let mut workload = Workload::default();
        workload.labels.insert("app".to_owned(), "a\"b\\c\nd\x1b".to_owned());
        let text = labels("outbound|443||a.example", "ServiceEntry n/a", &workload, Of::Request(200, "-"));
        assert!(text.starts_with("reporter=\"source\",source_workload=\"a\\\"b\\\\c\\nd?\","), "{text}");
        for part in [
            "source_app=\"a",
            "source_workload_namespace=\"default\"",
            "destination_service=\"a.example\"",
            "request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\"",
            "connection_security_policy=\"unknown\"",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let tcp = labels("PassthroughCluster", "", &workload, Of::Connection("UF"));
        assert!(tcp.contains("request_protocol=\"tcp\",response_flags=\"UF\"") && !tcp.contains("response_code"));
    }

    #[test]
    fn buckets_add_up() {
        let histogram_of = Histogram::default();
        for bucket in &histogram_of.buckets {
            bucket.store(1, Ordering::Relaxed);
        }
        histogram_of.sum.store(1_234, Ordering::Relaxed);
        let mut out = String::new();
        histogram(&mut out, "x", "a=\"b\"", &histogram_of);
        assert!(out.starts_with("x_bucket{a=\"b\",le=\"0.5\"} 1\nx_bucket{a=\"b\",le=\"1\"} 2\n"), "{out}");
        assert!(out.ends_with("le=\"+Inf\"} 20\nx_sum{a=\"b\"} 1.234\nx_count{a=\"b\"} 20\n"), "{out}");
    }
}
