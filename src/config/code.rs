//! The stable codes of diagnostics, each with the paragraph that `egret check --explain-code` prints.
//!
//! A code is never given a new meaning; a rule that goes leaves a gap. `E` codes are errors, `W` codes warnings.
//! Numbers by hundreds: 0 files, YAML, fields and settings; 1 resources.

use std::fmt;

/// How much a diagnostic weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// The configuration is used; the operator should look.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Declares the codes: number, name and paragraph in one table.
macro_rules! codes {
    ($($number:ident $name:ident: $paragraph:literal,)*) => {
        /// What kind of thing is wrong; its text (`E011`) never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!(stringify!($number), ": ", $paragraph)] $name,)*
        }

        impl Code {
            /// All codes, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `E011`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($number),)* }
            }

            /// What it means, why it matters and what to do, in one paragraph.
            pub const fn paragraph(self) -> &'static str {
                match self { $(Self::$name => $paragraph,)* }
            }
        }
    };
}

codes! {
    // Files
    E001 InputMissing: "A file or folder that was named, with -f, -c or in the settings' `resources`, does not exist. Nothing is loaded in its place: a missing list of rules must not look like an empty one. The exit code of `check` is 66.",
    E002 InputUnreadable: "The file or folder exists but cannot be read. The message holds the system's reason, most often missing permission for the user that Egret runs as.",
    E003 InputNotAFile: "Configuration is read from regular files only. A FIFO, a socket or a device could block the reader or never end, and a loop of symbolic links leads nowhere.",
    E004 InputTooLarge: "The input is beyond a bound: a file over 64 MiB, folders more than 16 deep, or more than 100,000 files. Split the file, or name the folders one by one.",
    E005 InputNotUtf8: "Configuration files are UTF-8. The message says at which byte the text stops being that; a file in UTF-16 has to be converted.",
    W004 NoResources: "A folder that was named for resources holds no file that is read: names end in .yaml, .yml or .json and do not begin with a dot.",
    // YAML
    E010 Syntax: "The text is not YAML 1.2 (or JSON, which is part of it). The place is where the parser could not go on; the cause is often a line or two above, such as a missing quote, a tab used as indentation, or a key that is not indented as its neighbours. Other documents of the same file are still read.",
    E011 DuplicateKey: "A map holds the same key twice. YAML forbids it, and parsers differ in which of the two they keep, so what one tool shows would not be what another one applies.",
    E012 TooDeep: "Lists and maps are nested more than 64 deep, aliases counted where they are used. No resource comes near this.",
    E013 AliasBudget: "Anchors and aliases of this file expand to more than 100,000 nodes. A few lines of nested aliases can stand for gigabytes, so the expansion is bounded.",
    E014 BadTag: "Tags other than those of the core schema (`!!str`, `!!int`, `!!float`, `!!bool`, `!!null`, `!!map`, `!!seq`) have no meaning here, and a core tag has to fit the node that carries it.",
    E015 KeyNotText: "The keys of a map are text. A list or map as key (`? [a, b]`) cannot be a field's name.",
    E016 BadMerge: "The merge key `<<` takes a map, or a list of maps, most often as an alias.",
    // Documents
    E020 NotAResource: "A document in a resource file has to be a map with `apiVersion` and `kind`. Settings (`egret.yaml`) are named with -c, not with -f.",
    E021 UnknownApiVersion: "The kind is one of Istio's or Kubernetes' that Egret carries out, but not in this apiVersion. Istio's networking kinds are read as networking.istio.io/v1, v1beta1 and v1alpha3.",
    E022 BadMetadata: "`metadata` needs a `name`, and name and namespace have to be what Kubernetes accepts: lower-case letters, digits, `-` and, in names, `.`.",
    // Fields
    E030 UnknownField: "No field of this name is known here. It is an error rather than ignored, because a misspelt restriction would restrict nothing. Field names are case-sensitive.",
    E031 MissingField: "A field that has to be there is absent, `null` or empty; the place is that of the map it is missing from.",
    E032 WrongType: "The value is of another type than the field: text where a list should be, a number where text should be. YAML reads plain 443, true and null as number, boolean and nothing; in quotes they are text.",
    E033 UnknownValue: "The field takes one of a few names, spelled exactly so, and this is none of them.",
    E034 OutOfRange: "The number, duration or size is outside the bounds of the field; the message names them.",
    E035 BadValue: "The text is of the right type but does not read as what the field holds: an address, a host, a duration (`10s`, `1h30m`, `250ms`), a size (`32KiB`).",
    E036 NotSupported: "The field is known but Egret does not carry it out, and without it more would be let through, or sent elsewhere, than the resource says. So the configuration is refused.",
    W001 Ignored: "The field is known but Egret does not carry it out. Without it nothing more is let through, so it is ignored.",
    W002 KindPassedOver: "Egret does not carry out this kind of resource. It is passed over, so that files written for a cluster can be loaded as they are.",
    W003 Replaced: "Two documents describe the resource of the same kind, namespace and name. As with `kubectl apply`, the later one counts and the earlier one is dropped.",
    // Settings
    E040 OpenProxy: "The listener can be reached from other machines, lets everything through (ALLOW_ANY) and asks nobody who they are: an open proxy, which strangers find within hours. Name the clients (`clients.from`), ask for a password (`clients.basic`) or a client certificate (`tls.clientCertificate: required`), use REGISTRY_ONLY, or say `clients: { open: true }` if it is meant to be.",
    E041 NameUsedTwice: "Names of listeners, gateways and secrets identify them in logs, metrics and references, so each is used once.",
    E042 AddressUsedTwice: "Two listeners, or a listener and the admin port, cannot be bound to the same address and port.",
    E043 Conflict: "Two settings that are both present contradict each other, or a setting stands where it has no meaning.",
    E045 BadCertificate: "A certificate, key or bundle of authorities that a listener's `tls` names cannot be used: the file is no PEM, the key does not belong to the certificate, or its kind is not supported. The content is never shown. At a reload the listener goes on with what it has.",
    W040 NoListener: "The settings leave nothing to listen on (`listeners: []`), so no client can reach this process.",
    W042 NoEffect: "The setting is understood but cannot have an effect beside the others: a bound for one client that lies above the bound for all, or a burst of a rate that is not limited.",
    W041 FileMissing: "A file or folder that is referred to does not exist. The configuration is used all the same, and what needs the file is refused until it is there: it may be mounted later.",
    W045 CertificateNotValid: "A certificate that a listener or a rule uses has expired or is not valid yet, so one side of the connection will refuse the other. It is used all the same: clocks may differ. `egret_certificate_expiry_timestamp_seconds` tells the end of each beforehand.",
    W046 CertificateKept: "A new certificate, key, clientCa or clientCrl of a listener cannot be read or used: most often one of two files was replaced and the other not yet. The files were good before, so the listener goes on with what they held then and everything else of the new configuration is in force. It is looked at again as soon as the files change.",
    // Resources: ServiceEntry (ISTIO 2.4)
    E100 BadHost: "A host is a DNS name (1 to 255 characters, labels of letters, digits and `-`) whose first label may be or begin with `*`. International names are written in their ASCII form (xn--…). Addresses belong into `addresses`.",
    E101 HostOfEverything: "The host `*` alone would match every destination, so Istio forbids it in a ServiceEntry. To let everything through, say so with mesh.outboundTrafficPolicy.mode: ALLOW_ANY, where an operator looks for it.",
    E102 HostTwice: "The same host is listed twice in one resource. It has no effect beyond the first, and most often another host was meant.",
    E103 BadAddress: "An entry of `addresses` is an IP address (192.0.2.7, 2001:db8::1) or a network (192.0.2.0/24). Names belong into `hosts`.",
    E104 NetworkNeedsNone: "A network in `addresses` stands for many addresses, so only NONE, which dials the address asked for, and STATIC, which dials the endpoints, can serve it. With DNS there is one service behind one address.",
    E105 BadPortName: "The name of a port is a DNS label: lower-case letters, digits and `-`, at most 63 of them, neither beginning nor ending with `-`. Endpoints refer to ports by this name.",
    E106 PortTwice: "Two ports of one ServiceEntry have the same number. A client asks for a host and a number, so the second could never be reached.",
    E107 PortNameTwice: "Two ports of one ServiceEntry have the same name. Endpoints choose their own port numbers by name, which would then be ambiguous.",
    E108 UnknownProtocol: "The protocol of a port is one of HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO, REDIS, MYSQL and UDP, in any case, or absent (the first bytes decide). It says how flows to the port are treated, so a misspelt one cannot be guessed.",
    E109 EndpointsWithoutUse: "With resolution NONE and DYNAMIC_DNS the destination that the client asked for is dialled, so endpoints would never be used. Istio refuses them, because whoever wrote them expected traffic to go there.",
    E110 StaticEndpointAddress: "With resolution STATIC nothing is resolved, so the address of an endpoint is an IP address or a unix socket (unix:///path). Names need resolution DNS.",
    E111 DnsEndpointAddress: "With resolution DNS the address of an endpoint is a DNS name, which is resolved, or an IP address.",
    E112 UnixEndpoint: "A unix socket as endpoint is written unix:///absolute/path, needs resolution STATIC, and has no `ports`.",
    E113 UnixEndpointPorts: "A unix socket has no port numbers by which several service ports could be told apart, so the ServiceEntry has exactly one port.",
    E114 WildcardNotResolvable: "Resolution DNS resolves the host itself where there are no endpoints, and a wildcard is no name that DNS could answer for. DYNAMIC_DNS resolves the name that the client asked for, and so does NONE on explicit listeners.",
    E115 RoundRobinEndpoints: "DNS_ROUND_ROBIN takes the first address of one name anew for each connection, so there is at most one endpoint.",
    E116 EndpointPortUnknown: "The `ports` of an endpoint give another number for a port of the service, by its name. No port of this ServiceEntry has this name, so the number would never be used.",
    E117 DynamicDnsHost: "DYNAMIC_DNS resolves the name asked for and exists for wildcards. A plain name has the same effect with resolution DNS.",
    E118 DynamicDnsAddresses: "DYNAMIC_DNS goes by the name in the request, so `addresses` would have no meaning.",
    E119 DynamicDnsProtocol: "DYNAMIC_DNS needs the name of the destination, which only HTTP, HTTP2, GRPC and TLS carry in their first bytes.",
    E120 DynamicDnsInternal: "Istio refuses DYNAMIC_DNS for a service inside the mesh that is reached through a waypoint.",
    E121 SharedTcpPort: "Flows of a protocol such as TCP carry no host name, so several hosts on such a port cannot be told apart by Istio, and all but one would go to the wrong service. With resolution NONE there is nothing to choose.",
    E122 SelectorWithEndpoints: "Endpoints are either listed or selected among workloads (`workloadSelector`), not both.",
    E123 TooMany: "Istio's schema bounds these lists: 256 hosts, 256 addresses, 256 ports, 4096 endpoints. Use several resources.",
    E124 BadExportTo: "`exportTo` lists the namespaces that see a resource: `.` for its own, names, or `*` alone for all; a ServiceEntry also `~` alone for nobody. Nothing is listed twice, and `.` is the own namespace's name.",
    E125 UnknownAnnotation: "Annotations that begin with egret.dev/ are ours, and no such annotation is known for this kind. A misspelt one would silently do nothing.",
    W100 PartialWildcard: "A wildcard inside a label (`*foo.com`) covers foo.com's neighbours too: `*foo.com` covers evilfoo.com. Istio warns, and applies it to HTTP only.",
    W101 TcpWithoutAddress: "A service whose protocol carries no name and that has no `addresses` is found by its name on explicit listeners. On transparent listeners there is only the port to go by, so, as in Istio, it takes every connection to this port.",
    W102 SharedTcpAddress: "Several hosts share addresses and a port whose protocol carries no name: connections to the address cannot be told apart and go to the first host.",
    W103 EndpointWithoutAddress: "An endpoint without address is one of another network, reached through its gateway in Istio. There is no such gateway here, so the endpoint is left out.",
    W104 UdpPort: "No flow that Egret carries is UDP, so a port of protocol UDP is left out, as the data plane of Istio leaves it out. QUIC (HTTP/3) clients fall back to TCP, for which the same number needs an entry of its own with protocol TLS or HTTPS.",
    // Resources: DestinationRule (ISTIO 6.4, 7, 8)
    E140 BadDuration: "Durations of resources are whole milliseconds and at least one: 10s, 1h30m, 250ms.",
    E141 EmptyPolicy: "`trafficPolicy`, `connectionPool` and entries of `portLevelSettings` need at least one field: an empty one says nothing, and most often the indentation is wrong.",
    E142 SubsetTwice: "Two subsets of one DestinationRule have the same name, by which routes refer to them.",
    E143 BadSubsetName: "The name of a subset is a DNS label: lower-case letters, digits and `-`. It becomes part of the cluster's name.",
    E144 CredentialAndFiles: "TLS material comes from files (`caCertificates`, `clientCertificate`, `privateKey`) or from a Secret (`credentialName`), not from both.",
    E145 MutualNeedsCertificate: "Mode MUTUAL presents a client certificate, so `clientCertificate` and `privateKey` are both needed.",
    E146 SkipVerifyContradicts: "`insecureSkipVerify` verifies nothing, so certificates and names to verify against contradict it.",
    E147 TlsFieldWithoutUse: "The field has no use in this TLS mode: whoever wrote it expected it to be honoured.",
    E148 TunnelWithProxyProtocol: "Istio allows `tunnel` or `proxyProtocol`, not both.",
    E149 BadCredentialReference: "Credentials for a parent proxy are referred to as secret://name, secret://namespace/name or file:///path. They never stand in the resource itself.",
    E230 BadBalancer: "`loadBalancer` says in one way how endpoints are picked: `simple`, or `consistentHash` with one property of flows that is hashed, and one table for it. What contradicts each other is an error, as in Istio.",
    E231 BadCookie: "The cookie of `consistentHash` has a name, may have a path, a `ttl` (clients without the cookie are given one for so long; 0s: until they end) and attributes, each once. All of them stand in a Set-Cookie header, so their signs are those that it may hold.",
    E232 BadTableSize: "Maglev goes through its table in steps, and reaches every place only if their number is a prime. 65537 is the default; larger tables follow weights more closely and need 4 bytes for each place.",
    E233 BadLocality: "Places are written region, region/zone or region/zone/subzone, `*` at the end for all of them. `distribute` gives shares that add up to 100 for each place that flows come from; `failover` leads from one region to another.",
    E234 BadOutlierDetection: "`consecutiveLocalOriginFailures` counts what failed on the way to an endpoint. Without `splitExternalLocalOriginErrors: true` these failures count among the 5xx, so nothing would be counted apart.",
    W230 BalancingWithoutEffect: "This part of `loadBalancer` cannot act here: there is nothing to pick from where the client's own target is dialled, slow start is for LEAST_REQUEST and ROUND_ROBIN, and places count only where the workload says its own, by the labels topology.kubernetes.io/region, topology.kubernetes.io/zone and topology.istio.io/subzone, or istio-locality.",
    W231 FailoverWithoutOutliers: "Flows go elsewhere when endpoints are left out because they failed, which only `outlierDetection` does. Without it, `failover` and `failoverPriority` have no effect, as in Istio.",
    W232 DeprecatedField: "The field still acts, and Istio has another one in its place.",
    W233 EjectsNobody: "`maxEjectionPercent` of the endpoints, 10 unless written, may be left out at a time. Of fewer than ten endpoints 10 percent are less than one, so outlierDetection never acts, as in today's Envoy. With 100 all may be left out, and flows are then answered 503 (UH).",
    // Resources: VirtualService (ISTIO 5)
    E160 NoRoutes: "A VirtualService without http, tls and tcp routes decides nothing.",
    E161 NoDestination: "A route needs a destination: `route` with at least one `destination`.",
    E162 SniHostOutside: "Each of `sniHosts` has to be one of the VirtualService's hosts or narrower: routes for other names would never be asked.",
    E163 HostsOverlap: "Two hosts of one VirtualService overlap (`*.foo.com` and `a.foo.com`), so it would be unclear which of them is meant.",
    E164 TlsMatchMissing: "A tls route needs a match with at least one of `sniHosts`: TLS that is passed through shows nothing but the name.",
    E165 BadRegex: "A regular expression has the syntax of RE2 (no look-around, no back references), 1 to 1024 bytes, and has to fit the whole text: `/v[0-9]+` does not fit `/v1/x`. What it may need is bounded, so that no request can make it take long.",
    E166 BadStringMatch: "A comparison is one of `exact`, `prefix` and `regex`. An empty prefix fits everything and is possible for `uri` only; `{}` says that a header or parameter is there.",
    E167 BadHeader: "The name of a header is a token of RFC 9110 (letters, digits, `-` and a few signs), and a value holds no control characters. A `%` in a value begins a variable of Envoy; a plain one is written `%%`.",
    E168 BadGatewayName: "`gateways` names Gateways, as `name` for one of the own namespace or `namespace/name`, or `mesh` for all sidecars.",
    E169 BadWeight: "Of several destinations at least one needs a weight: those of weight 0 get no flows. Weights need not add up to 100.",
    E210 RouteActions: "A route does one thing with a request: it sends it on (`route`), answers it (`redirect`, `directResponse`), or leaves it to another VirtualService (`delegate`). What answers itself cannot have faults or rewrites.",
    E211 BadRedirect: "A redirect changes at least one part of the URL, by `uri` or `prefixRewrite`, `port` or `derivePort`, never both of a pair, with a status of 300 to 399. `prefixRewrite` replaces the prefix of a match, so there have to be matches by prefix alone.",
    E212 BadDirectResponse: "A direct response has a status of 200 to 599, and a body of at most a megabyte, as text (`string`) or in base64 (`bytes`).",
    E213 BadRetries: "`retryOn` lists conditions of Envoy (5xx, gateway-error, reset, connect-failure, refused-stream, retriable-4xx, …) and statuses, separated by commas. With 0 attempts nothing is sent again, so nothing else may be said.",
    E214 BadFault: "A fault delays requests by `fixedDelay` or aborts them with `httpStatus` (200 to 599) or the name of a `grpcStatus`, each for a `percentage` of them.",
    E215 BadRewrite: "A rewrite changes the path by `uri` or `uriRegexRewrite`, and the host by `authority`. The host is said once: there, or as `host` or `:authority` among the headers that a route or its destination sets. What is written becomes part of a request line, so it holds visible ASCII only.",
    E216 BadMirror: "Copies of requests go to one `mirror` or to several `mirrors`, not both.",
    E217 BadDelegate: "A VirtualService without `hosts` is a delegate: others lead to it by `delegate`. It is bound to what they are bound to, so it has no `gateways`, and it does not delegate any further.",
    E218 BadPercentage: "A percentage is 0, or from 0.0001 (what Envoy counts) to 100.",
    W161 LargeBody: "The body of a direct response is over 100 kB. It is held in memory for each route, and sent whole for each request.",
    W162 SniHostIsAddress: "A TLS client sends names, never addresses, as server name (RFC 6066 §3), so this entry of `sniHosts` could never fit. It is left out.",
    W163 MissingDelegate: "A route delegates to a VirtualService that is not loaded, has hosts of its own, or is not exported to the namespace of the one that delegates. Requests that the route takes are answered 503 (NC).",
    W160 NeverMatches: "An entry that can never be reached: an earlier one takes all of its flows.",
    // Resources: Kubernetes' Service and its addresses, WorkloadEntry, selectors, MeshConfig, AuthorizationPolicy
    E190 BadSelector: "A selector names labels that a workload has to have, each with its whole value. Wildcards are not possible, as in Istio's schema.",
    W190 EmptySelector: "A `workloadSelector` without labels selects every workload of the namespace. Most often the labels are missing by mistake.",
    W191 SelectorWithoutUse: "With resolution NONE and DYNAMIC_DNS the destination that the client asked for is dialled, so workloads that a selector picks are never used.",
    W192 UnfitWorkload: "A selector picks this WorkloadEntry, but the resolution of the ServiceEntry cannot use its address: STATIC resolves no names, DNS dials no unix sockets, DNS_ROUND_ROBIN takes one endpoint. It is left out.",
    W193 EndpointsWithoutService: "Endpoints and EndpointSlices hold addresses of a Service: Endpoints that of the same name, an EndpointSlice that which its label kubernetes.io/service-name names, in the same namespace. No such Service is loaded, so the addresses are not used.",
    W194 EndpointsReplaced: "Both Endpoints and EndpointSlices are loaded for a Service. Kubernetes mirrors the former into the latter and Istio reads the slices alone, so the slices count.",
    W195 ServiceWithoutEndpoints: "Nothing says where the service is. A ServiceEntry with `workloadSelector` needs a WorkloadEntry that it selects; a Service an EndpointSlice or Endpoints, a WorkloadEntry that it selects, or a `clusterIP` (a cluster adds it when the Service is applied; `kubectl get -o yaml` shows it). Flows to it are answered 503 (UH).",
    W196 PortWithoutEndpoints: "Addresses of a Service serve its ports by name: the `name` of a port in EndpointSlice or Endpoints is the name of the Service's port. No address serves this one, so flows to it are answered 503 (UH).",
    W197 ServiceWithoutPorts: "A Service of type ExternalName is an alias where a loaded resource declares the name it points to, and then needs no ports. Nothing declares this one, so the Service would stand for itself, and without `ports` it declares nothing.",
    W198 AliasPort: "An ExternalName Service whose target is known is an alias: it has the ports of what it points to, and its own are not used, as in Istio since 1.21.",
    W199 AliasLoop: "ExternalName Services point to each other in a circle, so none of them stands for anything.",
    W200 MeshSettingTaken: "A MeshConfig of a resource (ConfigMap `istio`, IstioOperator) sets what the settings file or an earlier MeshConfig sets already. The settings file counts, then the first to say it.",
    W201 OtherMesh: "Istio's mesh configuration is the ConfigMap `istio` of the root namespace (`mesh.rootNamespace`, istio-system by default). This one is of another namespace or revision, and has no effect, as in Istio.",
    E205 TwoReaches: "An AuthorizationPolicy is about workloads (`selector`, or all of its namespace) or about services (`targetRefs`), never both.",
    E206 EmptyPolicyPart: "An empty list in an AuthorizationPolicy could be read as nobody or as everybody, so it is an error, as in Istio. Leave the field out to ask for nothing; `rules: [{}]` holds for every flow, no `rules` at all for none.",
    E207 BadPolicyKey: "`when` of an AuthorizationPolicy looks at one of Istio's attributes, such as `source.ip`, `destination.port` or `request.headers[NAME]`.",
    W204 PolicyWithoutEffect: "This part of an AuthorizationPolicy can never hold here. An ALLOW lets nothing pass by it; a DENY without rules refuses nothing.",
    W203 ShellVariable: "A value is the name of a shell variable, as in a here-document of a guide: it is filled in by the shell (`envsubst`), never by Egret. The value is left out, so nothing is opened by it.",
    // Resources: Secret
    E170 BadSecretData: "Values of a Secret's `data` are base64; `stringData` holds plain text.",
    // References and conflicts between resources
    E180 BadAllowEntry: "An entry of `allow` is a host, a wildcard or an address, with a port or without (443 and 80): api.github.com, *.pypi.org:443, 10.0.0.5:5432.",
    E182 SocketNotAllowed: "Unix sockets may be dialled only under the folders of the setting `files.sockets`: whoever writes a ServiceEntry must not reach the sockets of the machine.",
    E250 OwnParent: "The annotation egret.dev/via leads a service through itself. It names the service port that is the parent proxy, and stands on what is reached through that.",
    W250 ParentBehindParent: "A service that is used as a parent proxy has the annotation egret.dev/via itself. A flow goes through one parent, so the parent is connected to directly; chain the proxies by giving the parent a parent of its own.",
    W180 MissingDestination: "A rule refers to a service that no loaded resource declares. Flows it applies to are answered 503 (NC), as in Istio.",
    W181 MissingSubset: "A route refers to a subset that no DestinationRule of the host declares. Flows it applies to are answered 503 (NC), as in Istio.",
    W182 MissingSecret: "A rule refers to a Secret, or a key of it, that is not there or cannot be used. A certificate with its key is read from the keys cert and key, or tls.crt and tls.key; authorities from cacert or ca.crt of NAME-cacert, then of NAME; their revocation lists from crl or ca.crl beside them. Flows that need it fail with 503 until it is there; nothing weaker is used instead.",
    W183 MissingFile: "A rule refers to a file that cannot be read or used. Flows that need it fail with 503 until the configuration is loaded with it.",
    W184 LostHost: "Another resource declares the same host and came first (the own namespace, then the oldest), and the two differ, so this one is not used at all for the host. Istio merges the ports of resources only if resolution, labels and exportTo are equal.",
    W185 LostPort: "Another resource declares the same host and port and came first, so this port is not used.",
    W186 LostRule: "An older resource decides for the same host, and the two are not merged: this one is not used for it.",
    W187 RuleWithoutService: "No loaded resource declares a service that this rule's host covers, so the rule applies to nothing.",
    W189 MeshTls: "A DestinationRule asks for the mutual TLS of the mesh (ISTIO_MUTUAL). For it the setting `credentials.certificates` names a folder with cert-chain.pem, key.pem and root-cert.pem, as Istio's agent writes them. Without it, flows that need it fail with 503; they never go out in plaintext instead.",
    W188 DoubleTls: "TLS is originated on a port whose clients speak TLS themselves (protocol TLS or HTTPS). A tunnel to it carries TLS inside TLS, which hardly any server understands. Limit the rule to the plain port with portLevelSettings.",
}

impl Code {
    /// Errors are `E…`, warnings `W…`.
    pub const fn severity(self) -> Severity {
        match self.as_str().as_bytes()[0] {
            b'E' => Severity::Error,
            _ => Severity::Warning,
        }
    }

    /// Finds a code by its text, in either case.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_is_unique_well_formed_and_documented() {
        let mut seen = HashSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} stands twice");
            assert!(
                matches!(text.as_bytes(), [b'E' | b'W', digits @ ..] if digits.len() == 3 && digits.is_ascii()),
                "{text}"
            );
            assert!(code.paragraph().len() > 50 && code.paragraph().ends_with('.'), "{text} is not documented");
            assert_eq!(Code::find(&text.to_lowercase()), Some(*code));
        }
        assert_eq!(Code::find("E999"), None);
    }
}
