use std::fmt::Debug;

use super::*;
use crate::flow::Name;
use crate::tls::server::Alpn;

/// The YAML block of CONTRACT.md "Settings", key by key. `…` and the listener's `null`s stand as they are there.
const EVERY_KEY: &str = r#"
threads: 0
workload: { namespace: default, serviceAccount: default, labels: {} }
mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: null }, accessLogFile: /dev/stdout, accessLogEncoding: TEXT, accessLogFormat: "",
        connectTimeout: 10s, rootNamespace: istio-system, trustDomain: cluster.local, defaultHttpRetryPolicy: null }
listeners:
  - name: proxy
    protocol: forward
    address: 127.0.0.1:3128
    workload: null
    tls: null
    proxyProtocol: null
    clients: { from: [127.0.0.0/8, "::1/128"], basic: null }
    serverFirstPorts: []
allow: []
addresses: { allow: [], deny: [] }
consistency: { mode: auto, ech: allow }
parents: { through: null, always: [], never: [] }
onRevoke: close
dial: { source: [], happyEyeballsDelay: 250ms, tcpUserTimeout: 2m }
dns: { servers: system, family: any, timeout: 2s, attempts: 2, hosts: /etc/hosts, negativeTtl: 5s, failureTtl: 2s, addressesMax: 16, forward: {} }
limits: { connections: 20000, connectionsPerClient: 2000, headBytes: 32KiB, headFields: 100, headTime: 10s, tunnels: 20000, tunnelsPerClient: 2000, pendingDials: 2000, dnsQueries: 1000, idlePool: 512, bodyIdle: 5m, tunnelIdle: 1h, tunnelLifetime: 0 }
via: { name: auto, send: true }
admin: { address: 127.0.0.1:15000 }
drain: 30s
files: { root: / , sockets: [] }
secrets: []
credentials: { certificates: null }
resources: []
"#;

/// Reads and finishes settings as of `/etc/egret/egret.yaml`; every diagnostic as a line.
fn read_with(text: &str, overrides: &Overrides) -> (Settings, Vec<String>) {
    let mut diagnostics = Diagnostics::default();
    let source = Arc::new(Source::new("egret.yaml", text));
    let settings = Settings::read(source, Path::new("/etc/egret"), &mut diagnostics);
    let settings = settings.finish(overrides, &mut diagnostics);
    (settings, diagnostics.iter().map(ToString::to_string).collect())
}

fn clean(text: &str) -> Settings {
    let (settings, problems) = read_with(text, &Overrides::default());
    assert_eq!(problems, [""; 0], "{text}");
    settings
}

fn problems(text: &str) -> Vec<String> {
    read_with(text, &Overrides::default()).1
}

/// Without the places, which differ between what is written and what is built in.
fn shown(settings: &Settings) -> String {
    let mut settings = settings.clone();
    settings.document = Settings::default().document;
    settings.mesh.access_log.format.span = Span::default();
    for listener in &mut settings.listeners {
        (listener.name.span, listener.address.span) = (Span::default(), Span::default());
        listener.clients.from = listener.admitted();
    }
    format!("{settings:#?}")
}

#[test]
fn resolv_conf_is_watched_where_it_names_the_servers() {
    let watched = |text: &str| read_with(text, &Overrides::default()).0.watched().contains(&"/etc/resolv.conf".into());
    assert!(watched("{}") && watched("dns: { servers: system }"));
    assert!(!watched("dns: { servers: [10.0.0.53] }"));
}

#[test]
fn every_key_of_the_contract_is_read_and_says_the_default() {
    assert_eq!(shown(&clean(EVERY_KEY)), shown(&Settings::default()));
    assert_eq!(shown(&clean("")), shown(&Settings::default()));
    assert_eq!(shown(&clean("# nothing\n---\n")), shown(&Settings::default()));
}

#[test]
fn the_example_in_conf_says_every_default() {
    assert_eq!(shown(&clean(include_str!("../../../conf/egret.yaml"))), shown(&Settings::default()));
}

#[test]
fn defaults_are_those_of_the_contract() {
    fn is<T: PartialEq + Debug>(found: T, expected: T) {
        assert_eq!(found, expected);
    }
    let s = Settings::default();
    let seconds = Duration::from_secs;
    is(s.threads, 0);
    is(&*s.workload.namespace, "default");
    is(&*s.workload.service_account, "default");
    is(s.mesh.mode, OutboundMode::AllowAny);
    is(s.mesh.access_log.file.as_deref(), Some(Path::new("/dev/stdout")));
    is(s.mesh.access_log.encoding, Encoding::Text);
    is(s.mesh.connect_timeout, seconds(10));
    is((&*s.mesh.root_namespace, &*s.mesh.trust_domain), ("istio-system", "cluster.local"));
    is(s.listeners.len(), 1);
    is(&*s.listeners[0].name.value, "proxy");
    is(s.listeners[0].address.to_string().as_str(), "127.0.0.1:3128");
    is(s.listeners[0].upstream_port, 443);
    is(s.on_revoke, OnRevoke::Close);
    is(s.dial.happy_eyeballs_delay, Duration::from_millis(250));
    is(s.dial.tcp_user_timeout, seconds(120));
    is((s.dns.timeout, s.dns.attempts, s.dns.addresses_max), (seconds(2), 2, 16));
    is((s.dns.negative_ttl, s.dns.failure_ttl), (seconds(5), seconds(2)));
    is(s.dns.hosts.as_deref(), Some(Path::new("/etc/hosts")));
    is((s.limits.head_bytes, s.limits.head_fields, s.limits.head_time), (32768, 100, seconds(10)));
    is((s.limits.tunnel_idle, s.limits.tunnel_lifetime), (seconds(3600), Duration::ZERO));
    is((s.limits.keep_alive_idle, s.limits.body_rate_min), (seconds(3600), 240));
    is(
        (s.limits.requests_per_connection, s.limits.pending_dials_per_client, s.limits.ipv6_client_prefix),
        (0, 400, 64),
    );
    is((s.limits.requests_per_second_per_client, s.limits.bytes_per_second_per_client), (0, 0));
    is(s.via, Via { name: None, send: true });
    is(s.admin, Admin::Address("127.0.0.1:15000".parse().expect("an address")));
    is(s.drain, seconds(30));
    is(s.files.root.as_path(), Path::new("/"));
}

#[test]
fn bounds_of_one_client_may_be_those_of_all_and_defaults_are_not_judged() {
    clean("limits: { connections: 100, connectionsPerClient: 100, tunnels: 3, pendingDials: 1 }");
    clean("limits: { requestsPerSecondPerClient: 1, requestsBurstPerClient: 5, bytesPerSecondPerClient: 1KiB }");
    clean("limits: { ipv6ClientPrefix: 128, bodyRateMin: 0, bytesPerSecondPerClient: 0, requestsBurstPerClient: 0 }");
}

#[test]
fn every_value_can_be_set() {
    let s = clean(
        r#"
threads: 4
workload: { namespace: egress, serviceAccount: proxy, labels: { app: egret, "version": "2" } }
mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: Parent.example., port: { number: 3128 }, subset: blue } },
        accessLogFile: "", accessLogEncoding: SQUID, accessLogFormat: "%REQ(:METHOD)%", connectTimeout: 1s, rootNamespace: root, trustDomain: td }
listeners:
  - { name: a, address: "[::1]:0", workload: { namespace: other }, clients: { from: [10.0.0.1], open: true } }
  - { name: b, protocol: sni, address: 0.0.0.0:8443, upstreamPort: 8443 }
  - { name: c, address: "unix:/run/egret/proxy.sock", socketMode: "0660" }
  - { name: d, address: "fd:web", tls: { certificate: a.pem, privateKey: /k.pem, clientCa: ca.pem, alpn: [h2, http/1.1] }, proxyProtocol: { from: [10.0.0.0/8] } }
allow: ["api.github.com", "*.pypi.org:443"]
addresses: { allow: [10.0.0.0/8], deny: [10.1.0.0/16, "fd00::/8"] }
consistency: { mode: "off" }
onRevoke: report
dial: { source: [192.0.2.1, "2001:db8::1"], happyEyeballsDelay: 10ms, tcpUserTimeout: 0 }
dns: { servers: [10.0.0.53, "10.0.0.54:5353"], family: v4, timeout: 1s, attempts: 3, hosts: "", negativeTtl: 0, failureTtl: 1m, addressesMax: 8, forward: { corp.example: [10.0.0.55] } }
limits: { connections: 1, headBytes: 1MiB, headTime: 1s, tunnelLifetime: 1h, idlePool: 0, requestsPerConnection: 9, pendingDialsPerClient: 8,
          keepAliveIdle: 0, bodyRateMin: 1KiB, requestsPerSecondPerClient: 7, requestsBurstPerClient: 70, bytesPerSecondPerClient: 1MiB, ipv6ClientPrefix: 56 }
via: { name: edge-1, send: false }
admin: off
drain: 0
files: { root: root, sockets: [/run/egret] }
resources: [rules, { path: /srv/rules, namespace: other }]
"#,
    );
    assert_eq!((s.threads, &*s.workload.namespace, &s.workload.labels["version"][..]), (4, "egress", "2"));
    let proxy = s.mesh.egress_proxy.as_ref().expect("written");
    assert_eq!((&**proxy.host, proxy.port), ("parent.example", 3128));
    assert_eq!(&*proxy.subset.as_ref().expect("written").value, "blue");
    assert_eq!((&s.mesh.access_log.file, s.mesh.access_log.encoding), (&None, Encoding::Squid));
    assert_eq!(&*s.mesh.access_log.format.value, "%REQ(:METHOD)%");
    assert_eq!(s.listeners[0].admitted().expect("named")[0].to_string(), "10.0.0.1/32");
    assert_eq!(&*s.listeners[0].workload.as_ref().expect("written").namespace, "other");
    assert_eq!((s.listeners[1].protocol, s.listeners[1].upstream_port), (Protocol::Sni, 8443));
    assert_eq!(s.listeners[1].admitted(), None);
    assert_eq!(
        (s.listeners[2].address.to_string(), s.listeners[2].socket_mode),
        ("unix:/run/egret/proxy.sock".to_owned(), 0o660)
    );
    assert_eq!((s.listeners[2].admitted(), s.listeners[2].requires_certificates()), (None, false));
    let tls = s.listeners[3].tls.as_ref().expect("written");
    assert_eq!(
        (&*tls.certificate.value, &*tls.private_key.value),
        (Path::new("/etc/egret/a.pem"), Path::new("/k.pem"))
    );
    assert_eq!(tls.alpn, [Alpn::Http2, Alpn::Http1]);
    assert!(s.listeners[3].requires_certificates(), "who names an authority wants its clients");
    assert_eq!(s.listeners[3].proxy_protocol.as_ref().expect("written")[0].to_string(), "10.0.0.0/8");
    assert!(s.watched().iter().any(|file| file == Path::new("/etc/egret/ca.pem")));
    assert_eq!((&*s.allow[1].value, s.allow[1].span.line), ("*.pypi.org:443", 11));
    assert_eq!((s.addresses.allow.len(), s.addresses.deny.len()), (1, 2));
    assert_eq!((s.consistency.mode, s.on_revoke), (ConsistencyMode::Off, OnRevoke::Report));
    assert_eq!((s.dial.source.len(), s.dial.tcp_user_timeout), (2, Duration::ZERO));
    assert_eq!(s.dns.servers, ["10.0.0.53:53", "10.0.0.54:5353"].map(|server| server.parse().expect("an address")));
    assert_eq!((s.dns.family, s.dns.hosts), (Family::V4, None));
    assert_eq!(s.dns.forward[0].0, Name::parse(b"corp.example").expect("a name"));
    assert_eq!((s.limits.connections, s.limits.head_bytes, s.limits.idle_pool), (1, 1 << 20, 0));
    assert_eq!((s.limits.requests_per_connection, s.limits.pending_dials_per_client), (9, 8));
    assert_eq!((s.limits.keep_alive_idle, s.limits.body_rate_min), (Duration::ZERO, 1024));
    assert_eq!((s.limits.requests_per_second_per_client, s.limits.requests_burst_per_client), (7, 70));
    assert_eq!((s.limits.bytes_per_second_per_client, s.limits.ipv6_client_prefix), (1 << 20, 56));
    assert_eq!(s.via, Via { name: Some("edge-1".into()), send: false });
    assert_eq!((s.admin, s.drain), (Admin::Off, Duration::ZERO));
    assert_eq!(s.files.root, Path::new("/etc/egret/root"), "relative to the settings file");
    assert_eq!(s.resources[0].path, Path::new("/etc/egret/rules"));
    assert_eq!((&*s.resources[1].path, s.resources[1].namespace.as_deref()), (Path::new("/srv/rules"), Some("other")));
}

#[test]
fn an_empty_policy_is_registry_only_and_an_absent_one_allow_any() {
    let mode = |policy: &str| clean(&format!("mesh: {{ outboundTrafficPolicy: {policy} }}")).mesh.mode;
    assert_eq!(mode("null"), OutboundMode::AllowAny);
    assert_eq!(mode("{}"), OutboundMode::RegistryOnly { report: false });
    assert_eq!(mode("{ mode: REGISTRY_ONLY, report: true }"), OutboundMode::RegistryOnly { report: true });
    assert_eq!(mode("{ mode: ALLOW_ANY }"), OutboundMode::AllowAny);
    assert_eq!(
        problems("mesh: { outboundTrafficPolicy: { mode: registry_only } }"),
        [
            r#"egret.yaml:1:40: error[E033]: mesh.outboundTrafficPolicy.mode: "registry_only" is none of the values known here (did you mean REGISTRY_ONLY?)"#
        ]
    );
}

/// Each mistake with its exact message; the valid neighbours are in the tests above and below.
#[test]
fn mistakes_are_named_with_place_and_path() {
    for (text, expected) in [
        ("lisners: []", "1:1: error[E030]: lisners: no field of this name is known here (did you mean `listeners`?)"),
        (
            "limits: { headByte: 1KiB }",
            "1:11: error[E030]: limits.headByte: no field of this name is known here (did you mean `headBytes`?)",
        ),
        ("threads: -1", "1:10: error[E034]: threads: -1 is not between 0 and 1024"),
        ("threads: 1025", "1:10: error[E034]: threads: 1025 is not between 0 and 1024"),
        (
            "limits: { bytesPerSecondPerClient: 1023 }",
            "1:36: error[E034]: limits.bytesPerSecondPerClient: 1023 bytes per second are fewer than 1024: nothing would get through (0 means no limit)",
        ),
        (
            "limits: { ipv6ClientPrefix: 129 }",
            "1:29: error[E034]: limits.ipv6ClientPrefix: 129 is not between 32 and 128",
        ),
        (
            "limits: { tunnelsPerClient: 0 }",
            "1:29: error[E034]: limits.tunnelsPerClient: 0 is not between 1 and 10000000",
        ),
        (
            "limits: { connections: 100, connectionsPerClient: 101 }",
            "1:51: warning[W042]: limits.connectionsPerClient: 101 of one client is above connections (100), which is reached before",
        ),
        (
            "limits: { requestsBurstPerClient: 5 }",
            "1:35: warning[W042]: limits.requestsBurstPerClient: a burst of a rate that is not limited: requestsPerSecondPerClient is 0",
        ),
        ("limits: { headBytes: 1023B }", "1:22: error[E034]: limits.headBytes: 1023B is not between 1KiB and 1MiB"),
        (
            "limits: { headBytes: 32kb }",
            "1:22: error[E035]: limits.headBytes: \"32kb\" is not a size (write it like 32KiB or 1MiB, or as a number of bytes)",
        ),
        ("drain: 30", "1:8: error[E035]: drain: \"30\" is not a duration (write it like 10s, 1h30m or 250ms)"),
        (
            "listeners: [{ address: 3128 }]",
            "1:24: error[E032]: listeners[0].address: expected text, found number 3128 (put \"3128\" in quotes)",
        ),
        (
            "listeners: [{ address: \":3128\" }]",
            "1:24: error[E035]: listeners[0].address: \":3128\": neither an address with port such as 127.0.0.1:3128 or [::1]:3128, nor unix:/PATH, nor fd:NAME",
        ),
        (
            "listeners: [{ protocol: transparent, address: 127.0.0.1:15001, serverFirstPorts: [3306] }]",
            "1:25: error[E036]: listeners[0].protocol: listeners of the protocol transparent are not supported yet",
        ),
        (
            "listeners: [{ protocol: sni, address: '127.0.0.1:1', tls: { certificate: a, privateKey: b } }]",
            "1:54: error[E036]: listeners[0].tls: not supported: TLS is forwarded here, and not opened",
        ),
        ("listeners: [{ tls: { certificate: a } }]", "1:20: error[E031]: listeners[0].tls: `privateKey` is missing"),
        (
            "listeners: [{ tls: { certificate: a, privateKey: b, clientCertificate: required } }]",
            "1:72: error[E031]: listeners[0].tls.clientCertificate: `clientCa` is missing: clients' certificates are verified against it",
        ),
        (
            "listeners: [{ tls: { certificate: a, privateKey: b, clientCa: c, clientCertificate: none } }]",
            "1:85: error[E043]: listeners[0].tls.clientCertificate: clientCa is there, and no certificate is asked for (write optional or required, or leave clientCa out)",
        ),
        (
            "listeners: [{ tls: { certificate: a, privateKey: b, clientCrl: c } }]",
            "1:64: error[E043]: listeners[0].tls.clientCrl: clientCrl has a meaning beside clientCa only",
        ),
        (
            "listeners: [{ tls: { certificate: a, privateKey: b, alpn: [http/1.1, h3] } }]",
            "1:70: error[E033]: listeners[0].tls.alpn[1]: \"h3\" is none of the values known here (one of http/1.1, h2)",
        ),
        (
            "listeners: [{ proxyProtocol: { from: [] } }]",
            "1:38: error[E031]: listeners[0].proxyProtocol.from: name the load balancers: nobody else may send a PROXY header",
        ),
        ("listeners: [{ proxyProtocol: {} }]", "1:30: error[E031]: listeners[0].proxyProtocol: `from` is missing"),
        (
            "listeners: [{ address: \"unix:run/x\" }]",
            "1:24: error[E035]: listeners[0].address: \"unix:run/x\": the path of a unix socket is absolute: unix:/run/egret/proxy.sock",
        ),
        (
            "listeners: [{ address: \"unix:/run/x\", clients: { from: [10.0.0.1] } }]",
            "1:48: error[E043]: listeners[0].clients: clients of a unix socket have no address: `from` would let nobody in (the file's permissions say who may use it (`socketMode`))",
        ),
        (
            "listeners: [{ address: \"unix:/run/x\", proxyProtocol: { from: [10.0.0.1] } }]",
            "1:54: error[E043]: listeners[0].proxyProtocol: peers of a unix socket have no address by which they could be trusted",
        ),
        (
            "listeners: [{ address: \"unix:/run/x\", socketMode: 0660 }]",
            "1:51: error[E032]: listeners[0].socketMode: expected text, found number 0660 (put \"0660\" in quotes)",
        ),
        (
            "listeners: [{ socketMode: \"0660\" }]",
            "1:27: error[E043]: listeners[0].socketMode: socketMode has a meaning for unix sockets that are bound here only",
        ),
        ("listeners: [{ protocol: sni }]", "1:13: error[E031]: listeners[0]: `address` is missing"),
        (
            "listeners: [{ serverFirstPorts: [22] }]",
            "1:33: error[E043]: listeners[0].serverFirstPorts: serverFirstPorts has a meaning on transparent listeners only",
        ),
        (
            "listeners: [{ upstreamPort: 22 }]",
            "1:29: error[E043]: listeners[0].upstreamPort: upstreamPort has a meaning on sni listeners only: clients of a forward listener name the port",
        ),
        (
            "listeners: [{ address: \"127.0.0.1:1\" }, { address: \"127.0.0.1:2\" }]",
            "1:41: error[E041]: listeners[1]: listener proxy is there twice (first at 1:13)",
        ),
        (
            "listeners: [{ name: a b }]",
            "1:21: error[E035]: listeners[0].name: \"a b\": a name is 1 to 63 letters, digits, `-`, `_` and `.`",
        ),
        (
            "listeners: []",
            "1:12: warning[W040]: listeners: there is no listener (leave `listeners` out for the default one)",
        ),
        (
            "listeners: [{ clients: { basic: { realm: x } } }]",
            "1:33: error[E031]: listeners[0].clients.basic: `htpasswd` is missing",
        ),
        (
            "listeners: [{ clients: { from: [10.0.0.0/33] } }]",
            "1:33: error[E035]: listeners[0].clients.from[0]: \"10.0.0.0/33\": neither a network such as 10.0.0.0/8 nor an address",
        ),
        (
            "mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, report: true } }",
            "1:59: error[E043]: mesh.outboundTrafficPolicy.report: under ALLOW_ANY nothing would be denied, so there is nothing to report (write `mode: REGISTRY_ONLY` beside `report: true`)",
        ),
        (
            "mesh: { outboundTrafficPolicy: { egressProxy: { host: p.example, port: { number: 1 } } } }",
            "1:47: error[E043]: mesh.outboundTrafficPolicy.egressProxy: unknown targets go to a proxy under ALLOW_ANY only (write `mode: ALLOW_ANY` beside it; a policy without mode is REGISTRY_ONLY, as in Istio)",
        ),
        (
            "mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: \"*.example\", port: { number: 1 } } } }",
            "1:72: error[E035]: mesh.outboundTrafficPolicy.egressProxy.host: \"*.example\": the host is not a DNS name",
        ),
        (
            "mesh: { outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: p.example } } }",
            "1:64: error[E031]: mesh.outboundTrafficPolicy.egressProxy: `port` is missing",
        ),
        (
            "mesh: { defaultHttpRetryPolicy: { attempts: 0, retryOn: 5xx } }",
            "1:33: error[E213]: mesh.defaultHttpRetryPolicy: with 0 attempts nothing is sent again, so nothing else may be said",
        ),
        (
            "mesh: { accessLogFile: /no/such/log }",
            "1:24: warning[W041]: mesh.accessLogFile: the folder /no/such does not exist: the log cannot be opened",
        ),
        (
            "gateways: [{ name: g, namespace: n, serviceAccount: s, labels: {}, address: 127.0.0.1, ports: [{ port: 80, name: http2, bind: 8080 }] }]",
            "1:12: warning[W001]: gateways[0]: gateways are not supported yet: this one is not opened",
        ),
        (
            "consistency: { mode: strict }",
            "1:22: error[E033]: consistency.mode: \"strict\" is none of the values known here (one of auto, enforce, warn, off)",
        ),
        (
            "consistency: { mode: off, ech: deny }",
            "1:32: error[E043]: consistency.ech: with `mode: off` nothing is judged, so encrypted ClientHellos pass (leave `mode` out, or write `ech: allow`)",
        ),
        (
            "dns: { servers: [] }",
            "1:17: error[E031]: dns.servers: no DNS server is named (write `system`, or a list such as [10.0.0.53])",
        ),
        (
            "dns: { servers: 10.0.0.53 }",
            "1:17: error[E032]: dns.servers: expected `system`, or a list such as [10.0.0.53], found text \"10.0.0.53\"",
        ),
        (
            "dns: { forward: { \"*.corp.example\": [10.0.0.53] } }",
            "1:19: error[E035]: dns.forward[\"*.corp.example\"]: \"*.corp.example\": the host is not a DNS name (a suffix such as corp.example, without wildcard or leading dot)",
        ),
        (
            "via: { name: \"a b\" }",
            "1:14: error[E035]: via.name: \"a b\": a name in Via is a token: letters, digits, `-`, `.` and the like, no spaces",
        ),
        (
            "admin: { address: \"unix:\" }",
            "1:19: error[E035]: admin.address: \"unix:\": the path of the socket is missing",
        ),
        (
            "credentials: { certificates: /nonexistent-folder }",
            "1:30: warning[W041]: credentials.certificates: the folder /nonexistent-folder does not exist (what needs the certificate of the mesh is refused until it is there)",
        ),
        (
            "secrets: [{ name: s, dir: /nonexistent-folder }]",
            "1:27: warning[W041]: secrets[0].dir: the folder /nonexistent-folder does not exist (what needs this Secret is refused until it is there)",
        ),
        (
            "secrets: [{ name: s, dir: / }, { name: s, namespace: default, dir: / }]",
            "1:40: error[E041]: secrets[1].name: the Secret default/s is mounted twice",
        ),
        (
            "workload: { namespace: Prod }",
            "1:24: error[E035]: workload.namespace: \"Prod\": a namespace is 1 to 63 lower-case letters, digits and `-`, and begins and ends with a letter or digit",
        ),
        ("resources: [{ namespace: a }]", "1:13: error[E031]: resources[0]: `path` is missing"),
        ("[a]", "1:1: error[E032]: expected a map, found a list"),
        (
            "threads: 1\n---\nthreads: 2\n",
            "3:1: error[E043]: a settings file is one document; this is a second one (resources stand in files of their own, named with -f or in `resources`)",
        ),
    ] {
        assert_eq!(problems(text), [format!("egret.yaml:{expected}")], "{text}");
    }
}

#[test]
fn all_mistakes_are_named_at_once() {
    let text = "threads: x\nlimits: { tunnels: 0, nope: 1 }\nallow: [1, ok.example]\nonRevoke: maybe\ndrain: [1]\n";
    assert_eq!(problems(text).len(), 6, "{:#?}", problems(text));
}

#[test]
fn the_command_line_stands_above_the_file() {
    let listen = Overrides { listen: Some("127.0.0.1:0".parse().expect("an address")), ..Overrides::default() };
    let listeners = |text: &str| {
        let (settings, problems) = read_with(text, &listen);
        assert_eq!(problems, [""; 0]);
        settings.listeners.into_iter().map(|l| format!("{} {}", l.name.value, *l.address)).collect::<Vec<_>>()
    };
    assert_eq!(listeners(""), ["proxy 127.0.0.1:0"]);
    assert_eq!(
        listeners("listeners: [{name: s, protocol: sni, address: '127.0.0.1:1'}, {name: f, address: '127.0.0.1:2'}]"),
        ["s 127.0.0.1:1", "f 127.0.0.1:0"]
    );
    assert_eq!(
        listeners("listeners: [{name: proxy, protocol: sni, address: '127.0.0.1:1'}]"),
        ["proxy 127.0.0.1:1", "listen 127.0.0.1:0"]
    );
    let overrides = Overrides {
        admin: Some("off".parse().expect("a word")),
        allow_addresses: vec!["192.168.0.0/16".parse().expect("a network")],
        ..Overrides::default()
    };
    let (settings, problems) = read_with("addresses: { allow: [10.0.0.0/8] }", &overrides);
    assert_eq!((settings.admin, settings.addresses.allow.len(), problems.len()), (Admin::Off, 2, 0));
    assert!("localhost:1".parse::<Admin>().is_err());
}

#[test]
fn addresses_used_twice_are_refused() {
    let two = |a: &str, b: &str, admin: &str| {
        problems(&format!(
            "listeners: [{{name: a, address: '{a}'}}, {{name: b, address: '{b}', clients: {{open: true}}}}]\nadmin: {admin}"
        ))
    };
    assert_eq!(two("127.0.0.1:1", "127.0.0.1:2", "off"), [""; 0]);
    assert_eq!(two("127.0.0.1:0", "127.0.0.1:0", "off"), [""; 0]);
    assert_eq!(two("127.0.0.1:1", "[::1]:1", "off"), [""; 0]);
    assert_eq!(
        two("127.0.0.1:1", "127.0.0.1:1", "off"),
        ["egret.yaml:1:67: error[E042]: listeners[1].address: 127.0.0.1:1 is the address of listener a too"]
    );
    assert_eq!(two("127.0.0.1:1", "0.0.0.0:1", "off").len(), 1);
    assert_eq!(two("127.0.0.1:1", "[::ffff:127.0.0.1]:1", "off").len(), 1);
    assert_eq!(
        two("127.0.0.1:15000", "127.0.0.1:1", "{}"),
        ["egret.yaml:1:32: error[E042]: listeners[0].address: 127.0.0.1:15000 is the address of the admin port too"]
    );
}

#[test]
fn open_proxies_are_refused() {
    let of = |listener: &str, mesh: &str| {
        problems(&format!("listeners: [{{ address: '0.0.0.0:3128', {listener} }}]\n{mesh}"))
    };
    let open = |listener: &str, mesh: &str| of(listener, mesh).iter().any(|problem| problem.contains("error[E040]"));
    assert_eq!(
        of("", ""),
        [
            "egret.yaml:1:24: error[E040]: listeners[0].address: listener proxy is an open proxy: 0.0.0.0:3128 can be reached from other machines, unknown targets pass (ALLOW_ANY), and nobody is asked who they are (name the clients (`clients: { from: [10.0.0.0/8] }`), ask for a password (`clients.basic`) or a client certificate (`tls.clientCertificate: required`), use REGISTRY_ONLY, or say `clients: { open: true }`)"
        ]
    );
    // A network of everything names nobody.
    assert!(open("clients: { from: [0.0.0.0/0] }", "") && open("clients: { from: [10.0.0.0/8, '::/0'] }", ""));
    assert!(open("", "mesh: { outboundTrafficPolicy: { mode: REGISTRY_ONLY, report: true } }"));
    assert!(open("clients: {}", ""));
    assert!(!open("clients: { from: [10.0.0.0/8] }", ""));
    assert!(!open("clients: { basic: { htpasswd: users } }", ""));
    assert!(!open("clients: { open: true }", ""));
    assert!(!open("", "mesh: { outboundTrafficPolicy: {} }"));
    assert!(!open("protocol: sni", ""), "no pass-through there");
    let tls = |clients: &str| format!("tls: {{ certificate: a, privateKey: b, {clients} }}");
    assert!(!open(&tls("clientCa: c"), ""), "a certificate is required");
    assert!(open(&tls("clientCa: c, clientCertificate: optional"), "") && open(&tls(""), ""));
    for (address, is_open) in [
        ("127.5.0.1:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("[::]:1", true),
        ("192.0.2.1:1", true),
        ("unix:/run/egret/proxy.sock", false),
        ("fd:web", true), // what was bound cannot be known here
    ] {
        let overrides = Overrides { listen: Some(address.parse().expect("an address")), ..Overrides::default() };
        let (_, problems) = read_with("", &overrides);
        assert_eq!(problems.len(), usize::from(is_open), "{address}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.starts_with("--listen: error[E040]: ")), "{problems:?}");
    }
}

#[test]
fn a_listener_without_named_clients_admits_whom_its_address_reaches() {
    assert_eq!(Listener::default().admitted().expect("loopback").len(), 2);
    let s = clean("listeners: [{ address: '0.0.0.0:1' }]\nmesh: { outboundTrafficPolicy: {} }");
    assert_eq!(s.listeners[0].admitted(), None);
}
