use super::*;
use crate::flow::{NoFields, RequestFields, Scheme};

#[derive(Debug)]
struct List(Vec<(&'static str, &'static str)>);

impl RequestFields for List {
    fn each<'f>(&'f self, name: &str, look: &mut dyn FnMut(&'f [u8])) {
        self.0
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .for_each(|(_, value)| look(value.as_bytes()));
    }
}

fn judge(held: &Match, method: &str, url: &str, fields: &dyn RequestFields) -> Judged {
    let (authority, path) = url.split_once('/').map_or((url, String::new()), |(a, p)| (a, format!("/{p}")));
    let target = Target::parse_or_port(authority.as_bytes(), 80).unwrap();
    let request = Request { method, scheme: Scheme::Http, path: &path, inside_tunnel: false, fields };
    held.judge(&Subject::new(&request, &target))
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.into())
}

fn regex(text: &str) -> StringMatch {
    StringMatch::Regex(Pattern::new(text, true, false).unwrap())
}

fn uri(value: StringMatch, ignore_case: bool) -> Match {
    Match { path: vec![PathCondition::Uri { value, ignore_case }], ..Match::default() }
}

fn other(condition: Condition) -> Match {
    Match { others: vec![condition], ..Match::default() }
}

fn holds(held: &Match, url: &str) -> bool {
    judge(held, "GET", url, &NoFields).matched_bytes.is_some()
}

#[test]
fn a_uri_is_the_path_without_its_query() {
    for (held, url, expected) in [
        (uri(exact("/a"), false), "x.org/a", true),
        (uri(exact("/a"), false), "x.org/a?b=c", true),
        (uri(exact("/a"), false), "x.org/a/", false),
        (uri(exact("/a"), false), "x.org/A", false),
        (uri(exact("/a"), true), "x.org/A", true),
        (uri(prefix("/foo"), false), "x.org/foobar", true), // raw text, as in Istio
        (uri(prefix("/foo"), false), "x.org/FOO", false),
        (uri(prefix("/foo"), true), "x.org/FOO/x", true),
        (uri(prefix("/foo"), true), "x.org/fo", false),
        (uri(regex("/v[0-9]+/.*"), false), "x.org/v12/y?z", true),
        (uri(regex("/v[0-9]+"), false), "x.org/v12/y", false), // the whole path or nothing
        (uri(regex("v[0-9]+"), false), "x.org/v1", false),
        (uri(regex("/a|/b"), false), "x.org/bc", false),
        (uri(exact("/admin"), false), "x.org/public/..%2fadmin", true),
        (uri(prefix("/public"), false), "x.org/public/..%2fadmin", false),
    ] {
        assert_eq!(holds(&held, url), expected, "{held:?} {url}");
    }
    let judged = judge(&uri(prefix("/foo"), false), "GET", "x.org/foo/bar", &NoFields);
    assert_eq!(judged, Judged { matched_bytes: Some(4), by_path: true });
    assert_eq!(judge(&uri(regex("/f.*"), false), "GET", "x.org/foo", &NoFields).matched_bytes, Some(4));
    assert_eq!(judge(&Match::default(), "GET", "x.org/foo", &NoFields).matched_bytes, Some(1));
}

#[test]
fn the_path_decides_only_where_everything_else_fits() {
    let mut held = uri(prefix("/a"), false);
    held.others.push(Condition::Method(exact("POST")));
    assert_eq!(judge(&held, "GET", "x.org/b", &NoFields), Judged { matched_bytes: None, by_path: false });
    assert_eq!(judge(&held, "POST", "x.org/b", &NoFields), Judged { matched_bytes: None, by_path: true });
    assert_eq!(judge(&held, "POST", "x.org/a", &NoFields), Judged { matched_bytes: Some(2), by_path: true });
}

#[test]
fn authority_scheme_and_method_are_compared() {
    for (condition, url, expected) in [
        (Condition::Authority(exact("x.org")), "X.org./", true),
        (Condition::Authority(exact("x.org")), "x.org:80/", true),
        (Condition::Authority(exact("x.org")), "x.org:8080/", false),
        (Condition::Authority(exact("x.org:8080")), "x.org:8080/", true),
        (Condition::Authority(prefix("x.")), "x.org/", true),
        (Condition::Scheme(exact("http")), "x.org/", true),
        (Condition::Scheme(exact("https")), "x.org/", false),
        (Condition::Method(exact("GET")), "x.org/", true),
        (Condition::Method(exact("get")), "x.org/", false), // methods are case-sensitive
    ] {
        assert_eq!(holds(&other(condition.clone()), url), expected, "{condition:?} {url}");
    }
}

#[test]
fn headers_are_there_fit_or_are_not() {
    let fields =
        List(vec![("X-A", "one"), ("Cookie", "user=jason"), ("X-Many", "a"), ("x-many", "b"), ("X-Empty", "")]);
    let header = |name: &str, value: Option<StringMatch>, negated| {
        other(Condition::Header { name: name.into(), value, negated })
    };
    for (held, expected) in [
        (header("x-a", Some(exact("one")), false), true),
        (header("x-a", Some(exact("One")), false), false),
        (header("x-a", Some(prefix("o")), false), true),
        (header("x-a", None, false), true),
        (header("x-b", None, false), false),
        (header("x-empty", None, false), true),
        (header("x-many", Some(exact("a,b")), false), true),
        (header("cookie", Some(regex("^(.*?;)?(user=jason)(;.*)?$")), false), true),
        (header("x-a", Some(exact("one")), true), false),
        (header("x-a", Some(exact("two")), true), true),
        (header("x-b", Some(exact("one")), true), true), // a missing one satisfies it
        (header("x-b", None, true), true),
        (header("x-a", None, true), false),
        (header(":method", Some(exact("GET")), false), true),
        (header(":authority", Some(exact("x.org")), false), true),
        (header("host", Some(exact("x.org")), true), false),
        (header(":scheme", Some(exact("http")), false), true),
    ] {
        assert_eq!(judge(&held, "GET", "x.org/", &fields).matched_bytes.is_some(), expected, "{held:?}");
    }
    let path = |value, negated| Match { path: vec![PathCondition::Field { value, negated }], ..Match::default() };
    assert!(holds(&path(Some(exact("/a?b")), false), "x.org/a?b"));
    assert!(!holds(&path(Some(exact("/a")), false), "x.org/a?b"));
    assert!(!holds(&path(Some(prefix("/a")), true), "x.org/a?b"));
    assert!(holds(&path(None, false), "x.org/"));
}

#[test]
fn parameters_are_compared_as_sent() {
    let query = |name: &str, value| other(Condition::Query { name: name.into(), value });
    for (held, url, expected) in [
        (query("k", Some(exact("true"))), "x.org/?k=true", true),
        (query("k", Some(exact("true"))), "x.org/?a=b&k=true&k=false", true),
        (query("k", Some(exact("true"))), "x.org/?k=false&k=true", false),
        (query("k", Some(exact(""))), "x.org/?k", true),
        (query("k", None), "x.org/?k=", true),
        (query("k", None), "x.org/?kk=1", false),
        (query("k", None), "x.org/", false),
        (query("k", Some(regex("[0-9]+"))), "x.org/?k=12a", false),
    ] {
        assert_eq!(holds(&held, url), expected, "{held:?} {url}");
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let mut held = uri(prefix("/a"), false);
    held.others.push(Condition::Header { name: "x".into(), value: Some(regex("b+")), negated: false });
    let target = Target::parse_or_port(b"x.org", 80).unwrap();
    let fields = List(vec![("x", "bb")]);
    let ask = |fields| Request { method: "GET", scheme: Scheme::Http, path: "/c", inside_tunnel: false, fields };
    let (without, with) = (ask(&NoFields), ask(&fields));
    let told = |request| held.differs_in(&Subject::new(request, &target));
    assert_eq!(told(&without), Some(("headers", "x: regex \"b+\"".to_owned())));
    assert_eq!(told(&with), Some(("uri", "prefix \"/a\"".to_owned())));
}

#[test]
fn a_pattern_cannot_be_made_to_take_long_or_much() {
    for bad in ["?", "[", "a)(b", r"(?=x)", r"(a)\1", "((((((((((a{99}){99}){99}){99}){99}){99}){99}))))"] {
        assert!(Pattern::new(bad, true, false).is_err(), "{bad}");
    }
    let nested = format!("{}a{}", "(".repeat(200), ")".repeat(200));
    assert!(Pattern::new(&nested, true, false).is_err());
    let evil = regex("(a+)+b");
    let text = vec![b'a'; 64 * 1024];
    let started = std::time::Instant::now();
    assert!(!evil.fits(&text));
    assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(!regex(".*").fits(b"a\nb") && regex("(?s).*").fits(b"a\nb"));
    assert!(!regex(".*").fits(b"\xff"), "no text, no match");
}
