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
        "VirtualService.http[].fault.abort" | "VirtualService.http[].fault.delay" if object.is_null() => {
            json!({ "route": route, "fault": null })
        }
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
    seen.report("virtualservice.json", 100);
}

/// One http route that goes to `foo.baz`, with changes.
fn http(changes: &Value) -> String {
    let mut route = json!({ "route": [{ "destination": { "host": "foo.baz" } }] });
    for (key, value) in changes.as_object().expect("a map") {
        route[key] = value.clone();
    }
    whole(&json!({ "hosts": ["foo.bar"], "http": [route] }))
}

fn whole(spec: &Value) -> String {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": "foo", "namespace": "bar" },
        "spec": spec,
    })
    .to_string()
}

/// Codes, paths and messages of what is wrong with the resource itself.
fn own_problems(document: &str) -> Vec<String> {
    let diagnostics = check(document);
    let own = diagnostics.iter().filter(|diagnostic| is_of_its_own(diagnostic.code));
    own.map(|diagnostic| format!("{} {}: {}", diagnostic.code, diagnostic.path, diagnostic.message)).collect()
}

#[test]
fn rules_of_actions_have_a_code_a_message_and_a_passing_neighbour() {
    let route = json!([{ "destination": { "host": "foo.baz" } }]);
    let only = |changes: Value| {
        let mut changes = changes;
        changes["route"] = Value::Null;
        http(&changes)
    };
    for (wrong, message, neighbour) in [
        (
            http(&json!({ "redirect": { "uri": "/" } })),
            "E210 spec.http[0]: one of `route`, `redirect`, `directResponse` and `delegate` at a time",
            only(json!({ "redirect": { "uri": "/" } })),
        ),
        (
            only(json!({ "directResponse": { "status": 200 }, "fault": { "abort": { "httpStatus": 500 } } })),
            "E210 spec.http[0]: a route that answers itself has no `fault`",
            only(json!({ "directResponse": { "status": 200 }, "headers": { "response": { "set": { "a": "b" } } } })),
        ),
        (
            only(json!({ "redirect": {} })),
            "E211 spec.http[0].redirect: a redirect changes at least one of `uri`, `prefixRewrite`, `authority`, `port` and `scheme`",
            only(json!({ "redirect": { "scheme": "https" } })),
        ),
        (
            only(json!({ "redirect": { "uri": "/", "redirectCode": 400 } })),
            "E211 spec.http[0].redirect.redirectCode: 400 is no status of a redirect (300 to 399)",
            only(json!({ "redirect": { "uri": "/", "redirectCode": 399 } })),
        ),
        (
            only(json!({ "redirect": { "port": 1, "derivePort": "FROM_REQUEST_PORT" } })),
            "E211 spec.http[0].redirect: `port` or `derivePort`, not both",
            only(json!({ "redirect": { "derivePort": "FROM_REQUEST_PORT" } })),
        ),
        (
            only(json!({ "redirect": { "uri": "/a\r\nX: y" } })),
            "E211 spec.http[0].redirect: a location holds visible ASCII only",
            only(json!({ "redirect": { "uri": "/a%0d%0a" } })),
        ),
        (
            only(json!({ "directResponse": { "status": 199 } })),
            "E212 spec.http[0].directResponse.status: 199 is no status of an answer (200 to 599)",
            only(json!({ "directResponse": { "status": 200 } })),
        ),
        (
            only(json!({ "directResponse": { "status": 200, "body": { "string": "a".repeat(1024 * 1024 + 1) } } })),
            "E212 spec.http[0].directResponse: a body of 1048577 bytes is more than 1048576",
            only(json!({ "directResponse": { "status": 200, "body": { "string": "a" } } })),
        ),
        (
            only(json!({ "directResponse": { "status": 200, "body": { "string": "a".repeat(100 * 1024 + 1) } } })),
            "W161 spec.http[0].directResponse: a body of 102401 bytes is held in memory once per route",
            only(json!({ "directResponse": { "status": 200, "body": { "string": "a".repeat(100 * 1024) } } })),
        ),
        (
            http(&json!({ "retries": { "attempts": 1, "retryOn": "5xx,sometimes" } })),
            "E213 spec.http[0].retries.retryOn: \"sometimes\" is no condition of Envoy and no status",
            http(&json!({ "retries": { "attempts": 1, "retryOn": "5xx, 418,reset" } })),
        ),
        (
            http(&json!({ "fault": { "abort": { "httpStatus": 600 } } })),
            "E214 spec.http[0].fault.abort.httpStatus: 600 is no status of an answer (200 to 599)",
            http(&json!({ "fault": { "abort": { "httpStatus": 599 } } })),
        ),
        (
            http(&json!({ "fault": { "delay": { "percentage": { "value": 1 } } } })),
            "E214 spec.http[0].fault.delay: `fixedDelay` is missing: a delay has a length",
            http(&json!({ "fault": { "delay": { "fixedDelay": "1s", "percentage": { "value": 1 } } } })),
        ),
        (
            http(&json!({ "rewrite": { "uri": "/a b" } })),
            "E215 spec.http[0].rewrite.uri: a path holds visible ASCII only, and no `?` or `#`",
            http(&json!({ "rewrite": { "uri": "/a%20b" } })),
        ),
        (
            http(&json!({ "rewrite": { "uriRegexRewrite": { "match": "a(b)", "rewrite": "\\2" } } })),
            "E215 spec.http[0].rewrite.uriRegexRewrite.rewrite: \\2 is no group of the match",
            http(&json!({ "rewrite": { "uriRegexRewrite": { "match": "a(b)", "rewrite": "\\1" } } })),
        ),
        (
            http(&json!({
                "rewrite": { "authority": "a.test" },
                "route": [{ "destination": { "host": "foo.baz" }, "headers": { "request": { "set": { "Host": "b.test" } } } }],
            })),
            "E215 spec.http[0].route[0].headers.request.set.Host: the host is rewritten already, by the route",
            http(&json!({ "rewrite": { "authority": "a.test" }, "headers": { "request": { "set": { "X": "b" } } } })),
        ),
        (
            http(&json!({ "headers": { "request": { "remove": ["Host"] } } })),
            "E167 spec.http[0].headers.request.remove[0]: every request has a host: it cannot be removed",
            http(&json!({ "headers": { "request": { "remove": ["Hosts"] } } })),
        ),
        (
            http(&json!({ "headers": { "request": { "set": { "Content-Length": "0" } } } })),
            "E167 spec.http[0].headers.request.set.Content-Length: Content-Length belongs to the connection, or says where the message ends: it cannot be changed",
            http(&json!({ "headers": { "request": { "set": { "Content-Type": "a/b" } } } })),
        ),
        (
            http(&json!({ "headers": { "response": { "set": { "a": "b\r\nc: d" } } } })),
            "E167 spec.http[0].headers.response.set.a: a header's value holds no control characters",
            http(&json!({ "headers": { "response": { "set": { "a": "b\tc" } } } })),
        ),
        (
            http(&json!({ "headers": { "response": { "set": { "a": "%HOSTNAME%" } } } })),
            "W001 spec.http[0].headers.response.set.a: variables of Envoy are not supported: the header is left out",
            http(&json!({ "headers": { "response": { "set": { "a": "%%HOSTNAME%%" } } } })),
        ),
        (
            http(&json!({ "mirror": { "host": "a.test" }, "mirrors": [{ "destination": { "host": "b.test" } }] })),
            "E216 spec.http[0].mirrors: `mirror` or `mirrors`, not both",
            http(&json!({ "mirrors": [{ "destination": { "host": "b.test" } }] })),
        ),
        (
            http(&json!({ "mirror": { "host": "a.test" }, "mirrorPercentage": { "value": 0.00009 } })),
            "E218 spec.http[0].mirrorPercentage.value: 0.00009 is no percentage: 0, or from 0.0001 to 100",
            http(&json!({ "mirror": { "host": "a.test" }, "mirrorPercentage": { "value": 0.0001 } })),
        ),
        (
            whole(&json!({ "http": [{ "delegate": { "name": "other" } }] })),
            "E217 spec.http[0].delegate: a delegate does not delegate any further",
            whole(&json!({ "http": [{ "route": route }] })),
        ),
        (
            whole(&json!({ "gateways": ["mesh"], "http": [{ "route": route }] })),
            "E217 spec: a delegate is bound to what its roots are bound to: it has no `gateways`",
            whole(&json!({ "hosts": ["foo.bar"], "gateways": ["mesh"], "http": [{ "route": route }] })),
        ),
    ] {
        assert_eq!(own_problems(&wrong), [message], "{wrong}");
        assert_eq!(own_problems(&neighbour), Vec::<String>::new(), "the neighbour of {message}");
    }
}
