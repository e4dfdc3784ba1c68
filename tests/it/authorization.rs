//! AuthorizationPolicies over real sockets: who may ask what, told with the policy's name.

use crate::support::origin::{HELLO, Origin};
use crate::support::peer::{Ran, command, run};
use crate::support::{Egret, Folder, Setup, egret};

/// `api.example`: port 80 speaks HTTP, 443 stands for TLS; one origin behind both.
struct World {
    egret: Egret,
    origin: Origin,
    folder: Folder,
}

impl World {
    /// `policies`: pairs of name and spec.
    fn new(listener: &str, policies: &[(&str, &str)]) -> Self {
        let (origin, folder) = (Origin::http(HELLO), Folder::new());
        let port = origin.address.port();
        let mut rules = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: api }}\nspec:\n  \
             hosts: [api.example]\n  resolution: DNS\n  ports:\n  \
             - {{ number: 80, name: http, protocol: HTTP, targetPort: {port} }}\n  \
             - {{ number: 443, name: tls, protocol: TLS, targetPort: {port} }}\n"
        );
        for (name, spec) in policies {
            let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
            rules.push_str(&format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: {name} }}\nspec:\n{spec}"
            ));
        }
        let users = folder.path().join("users");
        for (flags, user) in [("-cbB", "ada"), ("-bB", "bob")] {
            run(command("htpasswd").args([flags, "-C", "4"]).arg(&users).args([user, "s3cret"])).succeeded();
        }
        let mesh = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
        let egret = Setup { mesh, rules: &rules, hosts: &["api.example"], listeners: listener, ..Setup::default() };
        Self { egret: egret.start(&folder), origin, folder }
    }

    /// curl as `user`; gives the body, and in a line of its own the status of the answer and that to a CONNECT.
    fn curl(&self, user: &str, args: &[&str]) -> Ran {
        let proxy = format!("http://{user}@{}", self.egret.proxy());
        let shown = "\n%{http_code} %{http_connect}";
        let mut curl = command("curl");
        run(curl.args(["-q", "-sS", "--path-as-is", "--max-time", "15", "-w", shown, "-x", &proxy]).args(args))
    }

    fn explain(&self, args: &[&str]) -> String {
        let settings = self.folder.path().join("egret.yaml");
        let ran = egret(&[&["explain", "-c", settings.to_str().unwrap()], args].concat());
        String::from_utf8(ran.stdout).unwrap()
    }
}

const OPEN: &str = "{ name: proxy, address: \"127.0.0.1:0\" }";
const BASIC: &str = "{ name: proxy, address: \"127.0.0.1:0\", clients: { basic: { htpasswd: users } } }";
const READERS: (&str, &str) = (
    "readers",
    "action: ALLOW\nrules:\n- from: [{ source: { principals: [ada] } }]\n  to: [{ operation: { hosts: [api.example], methods: [GET, HEAD] } }]",
);
const NO_SECRETS: (&str, &str) = (
    "no-secrets",
    "targetRefs: [{ kind: ServiceEntry, group: networking.istio.io, name: api }]\naction: DENY\nrules:\n- to: [{ operation: { paths: [/secret*] } }]",
);

#[test]
fn users_methods_and_paths_decide_and_the_policy_is_named() {
    let world = World::new(BASIC, &[READERS, NO_SECRETS]);
    let ask = |user: &str, args: &[&str]| world.curl(&format!("{user}:s3cret"), args).succeeded();
    assert_eq!(ask("ada", &["http://api.example/"]), "hello\n200 000");
    for (user, args, why) in [
        ("bob", &["http://api.example/"][..], "RBAC: access denied: no AuthorizationPolicy allows it"),
        ("ada", &["-d", "x", "http://api.example/"], "RBAC: access denied: no AuthorizationPolicy allows it"),
        ("ada", &["http://api.example/secret"], "RBAC: access denied by AuthorizationPolicy default/no-secrets"),
    ] {
        let told = ask(user, args);
        assert!(told.contains(why) && told.ends_with("\n403 000"), "{user} {args:?}: {told}");
    }
    let told = ask("ada", &["http://api.example/public/../secret"]);
    assert!(told.ends_with("\n400 000"), "who decides by the path does not guess what it means: {told}");
    assert_eq!(world.origin.requests().len(), 1, "nothing that was refused reached it");
}

#[test]
fn a_tunnel_to_http_is_judged_request_by_request_and_one_to_tls_by_what_it_shows() {
    let world = World::new(BASIC, &[READERS, NO_SECRETS]);
    let ask = |args: &[&str]| world.curl("ada:s3cret", &[&["-p"], args].concat());
    assert_eq!(ask(&["http://api.example/"]).succeeded(), "hello\n200 200");
    let told = ask(&["http://api.example/secret"]).succeeded();
    assert!(told.contains("AuthorizationPolicy default/no-secrets") && told.ends_with("\n403 200"), "{told}");
    // Inside TLS neither methods nor paths are seen: what might be denied is.
    let refused = ask(&["https://api.example/"]);
    assert!(refused.stdout.ends_with("000 403"), "{refused:?}");
    assert_eq!(world.origin.requests().len(), 1);
}

#[test]
fn explain_names_the_rule_that_allows_or_comes_nearest() {
    let world = World::new(OPEN, &[("get", "rules: [{ to: [{ operation: { methods: [GET], ports: [\"80\"] } }] }]")]);
    let allowed = world.explain(&["http://api.example/"]);
    assert!(allowed.contains("allowed by AuthorizationPolicy default/get"), "{allowed}");
    let refused = world.explain(&["-X", "POST", "http://api.example/", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&refused).unwrap();
    assert_eq!((&json["reason"], &json["status"]), (&"http_request_denied".into(), &403.into()), "{refused}");
    assert_eq!(json["nearest"]["rule"], "AuthorizationPolicy default/get");
    assert_eq!(json["nearest"]["differs_in"], "method");
    let stage = json["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "authorization").unwrap();
    assert!(stage.to_string().contains("RBAC: access denied"), "{stage}");
    let tunnel = world.explain(&["api.example:80"]);
    assert!(tunnel.contains("terminated, because AuthorizationPolicy default/get"), "{tunnel}");
}

#[test]
fn what_a_policy_of_action_audit_holds_for_passes_and_is_marked() {
    let audit =
        ("watch", "action: AUDIT\nrules: [{ to: [{ operation: { hosts: [api.example], methods: [GET, CONNECT] } }] }]");
    let world = World::new(OPEN, &[audit]);
    let ask = |args: &[&str]| world.curl("", args).succeeded();
    assert_eq!(ask(&["http://api.example/"]), "hello\n200 000");
    assert_eq!(ask(&["-X", "DELETE", "http://api.example/"]), "hello\n200 000");
    let (name, none) = ("AuthorizationPolicy default/watch", "");
    world.egret.record("\"GET\"").shows(&[("audited", name), ("response_code", "200")]);
    world.egret.record("\"DELETE\"").shows(&[("audited", none), ("response_code", "200")]);
    assert_eq!(world.egret.metric("egret_flows_audited_total"), 1);
    let explained = world.explain(&["http://api.example/"]);
    assert!(
        explained.contains("no policy refuses it (marked in the log by AuthorizationPolicy default/watch, AUDIT)"),
        "{explained}"
    );
    let explained = world.explain(&["-X", "DELETE", "http://api.example/"]);
    assert!(!explained.contains("AUDIT"), "{explained}");
}
