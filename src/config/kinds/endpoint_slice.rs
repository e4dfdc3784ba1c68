//! EndpointSlice as written: a part of the addresses of the Service that its label names (Kubernetes discovery.k8s.io/v1).

use super::endpoints::{Address, Endpoints, Group, read_ip, read_port};
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::Spanned;
use crate::config::yaml::Node;

/// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
pub fn read<'r>(resource: &'r Resource, diagnostics: &mut Diagnostics) -> Option<Endpoints<'r>> {
    let cx = &mut resource.context(diagnostics);
    let mut fields = Fields::of(&resource.root, cx)?;
    let kind = fields.required("addressType", cx).and_then(|node| node.one_of(ADDRESS_TYPES, cx))?;
    let ports = fields.list("ports", cx).iter().filter_map(|node| read_port(node, cx)).collect();
    let endpoints = fields.list("endpoints", cx);
    let addresses = match kind {
        AddressType::Ip => endpoints.iter().flat_map(|node| read_endpoint(node, cx)).collect(),
        AddressType::Fqdn => {
            let message =
                "slices of type FQDN are passed over, as in Istio: the Service gets no endpoint from this one";
            cx.report(Code::Ignored, resource.root.span, message).help("a ServiceEntry with resolution DNS has names");
            Vec::new()
        }
    };
    let Some(service) = resource.metadata.labels.get(SERVICE_NAME) else {
        let message = format!("the label {SERVICE_NAME} is missing: this slice belongs to no Service");
        cx.report(Code::EndpointsWithoutService, resource.root.span, message);
        return None;
    };
    let label = resource.root.entry("metadata").and_then(|metadata| metadata.entry("labels")?.entry(SERVICE_NAME));
    let span = label.map_or(resource.root.span, |node| node.span);
    let service = Spanned { value: service.as_str().into(), span };
    Some(Endpoints { resource, service, groups: vec![Group { addresses, ports }] })
}

fn read_endpoint(node: &Node, cx: &mut Context<'_>) -> Vec<Address> {
    let Some(mut fields) = Fields::of(node, cx) else { return Vec::new() };
    let addresses = fields.required("addresses", cx).and_then(|node| node.items(cx)).unwrap_or_default();
    let mut is_ready = true; // not said: ready
    if let Some(mut conditions) = fields.fields("conditions", cx) {
        is_ready = conditions.boolean("ready", cx).unwrap_or(true);
        // An endpoint that terminates is written as not ready, but for a Service that publishes those too: `ready` says it all.
        for known in ["serving", "terminating"] {
            conditions.boolean(known, cx);
        }
        conditions.finish(cx);
    }
    for known in ["hostname", "nodeName", "zone", "hints", "targetRef", "topology", "deprecatedTopology"] {
        fields.get(known);
    }
    fields.finish(cx);
    let ips = addresses.iter().filter_map(|item| read_ip(item, cx));
    ips.map(|ip| Address { ip: ip.value, span: ip.span, is_ready }).collect()
}

#[derive(Clone, Copy)]
enum AddressType {
    Ip,
    Fqdn,
}

const ADDRESS_TYPES: &[(&str, AddressType)] =
    &[("IPv4", AddressType::Ip), ("IPv6", AddressType::Ip), ("FQDN", AddressType::Fqdn), ("IP", AddressType::Ip)];
const SERVICE_NAME: &str = "kubernetes.io/service-name";
