//! Host patterns: what they cover, which is the most specific, and an index that finds it without allocation (ISTIO 3.2).
//!
//! A pattern is a name, `*.suffix` (one or more labels in place of the `*`), a partial wildcard (`*foo.com`), or `*`. Everything
//! here compares bytes: names and patterns come in lower case.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use foldhash::HashMap;

/// Finds the most specific pattern that covers a name: the exact one, else the longest wildcard.
///
/// A lookup hashes the name once, and once more per label where wildcards exist.
#[derive(Clone, Debug)]
pub struct HostIndex<T> {
    exact: HashMap<Arc<str>, T>,
    /// `*.foo.com` by `foo.com`.
    suffixes: HashMap<Arc<str>, T>,
    /// `*foo.com` by `foo.com`.
    partials: HashMap<Arc<str>, T>,
    /// Lengths of the keys of `partials`, longest first.
    partial_lengths: Vec<usize>,
    /// `*`.
    all: Option<T>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::default(),
            suffixes: HashMap::default(),
            partials: HashMap::default(),
            partial_lengths: Vec::new(),
            all: None,
        }
    }
}

impl<T> HostIndex<T> {
    /// The value of a pattern, made by `new` where there is none yet.
    pub fn entry(&mut self, pattern: &Arc<str>, new: impl FnOnce() -> T) -> &mut T {
        match Pattern::of(pattern) {
            Pattern::Exact => self.exact.entry(pattern.clone()).or_insert_with(new),
            Pattern::Suffix(suffix) => self.suffixes.entry(suffix.into()).or_insert_with(new),
            Pattern::Partial(suffix) => {
                if let Err(at) = self.partial_lengths.binary_search_by(|length| suffix.len().cmp(length)) {
                    self.partial_lengths.insert(at, suffix.len());
                }
                self.partials.entry(suffix.into()).or_insert_with(new)
            }
            Pattern::All => self.all.get_or_insert_with(new),
        }
    }

    /// The value of exactly this pattern.
    pub fn get(&self, pattern: &str) -> Option<&T> {
        match Pattern::of(pattern) {
            Pattern::Exact => self.exact.get(pattern),
            Pattern::Suffix(suffix) => self.suffixes.get(suffix),
            Pattern::Partial(suffix) => self.partials.get(suffix),
            Pattern::All => self.all.as_ref(),
        }
    }

    /// The value of the most specific pattern that covers a name.
    pub fn find(&self, name: &str) -> Option<&T> {
        self.exact.get(name).or_else(|| self.find_wildcard(name, false))
    }

    /// The value of the most specific pattern that covers everything that `pattern` covers.
    pub fn find_covering(&self, pattern: &str) -> Option<&T> {
        match pattern.strip_prefix('*') {
            None => self.find(pattern),
            Some("") => self.all.as_ref(),
            Some(rest) => self.find_wildcard(rest, true),
        }
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.suffixes.values()).chain(self.partials.values()).chain(&self.all)
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let wild = self.suffixes.values_mut().chain(self.partials.values_mut());
        self.exact.values_mut().chain(wild).chain(&mut self.all)
    }

    /// All names without wildcard, in no order.
    pub fn names(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.exact.iter()
    }

    /// The longest wildcard over `tail`: a name, or (`open`) what follows the `*` of a pattern, where nothing is left for another `*`
    /// to stand for.
    fn find_wildcard(&self, tail: &str, open: bool) -> Option<&T> {
        let suffix = self.longest_suffix(tail);
        let partial = self.longest_partial(tail, open);
        match (suffix, partial) {
            // `*.foo.com` has one byte more than its key says.
            (Some((suffix, value)), Some((partial, _))) if suffix + 1 >= partial => Some(value),
            (_, Some((_, value))) | (Some((_, value)), None) => Some(value),
            (None, None) => self.all.as_ref(),
        }
    }

    fn longest_suffix(&self, tail: &str) -> Option<(usize, &T)> {
        if self.suffixes.is_empty() {
            return None;
        }
        let mut rest = tail;
        while let Some(dot) = memchr::memchr(b'.', rest.as_bytes()) {
            rest = &rest[dot + 1..];
            if let Some(value) = self.suffixes.get(rest) {
                return Some((rest.len(), value));
            }
        }
        None
    }

    fn longest_partial(&self, tail: &str, open: bool) -> Option<(usize, &T)> {
        let fits = |length: usize| length < tail.len() || (open && length == tail.len());
        self.partial_lengths.iter().filter(|length| fits(**length)).find_map(|length| {
            let value = self.partials.get(tail.get(tail.len() - length..)?)?;
            Some((*length, value))
        })
    }
}

/// The kinds of pattern.
enum Pattern<'a> {
    Exact,
    Suffix(&'a str),
    Partial(&'a str),
    All,
}

impl<'a> Pattern<'a> {
    fn of(text: &'a str) -> Self {
        match text.strip_prefix('*') {
            None => Self::Exact,
            Some("") => Self::All,
            Some(rest) => rest.strip_prefix('.').map_or(Self::Partial(rest), Self::Suffix),
        }
    }
}

/// True if the pattern covers the name (or everything that a narrower pattern covers).
pub fn covers(pattern: &str, name: &str) -> bool {
    is_subset(name, pattern)
}

/// True if two patterns can share a host.
pub fn overlap(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => a == b,
        (Some(a), None) => b.ends_with(a),
        (None, Some(b)) => a.ends_with(b),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
    }
}

/// True if `b` covers everything that `a` covers.
pub fn is_subset(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => a == b,
        (Some(_), None) => false,
        (None, Some(b)) => a.ends_with(b),
        (Some(a), Some(b)) => a.ends_with(b),
    }
}

/// What two lists of patterns have in common: of each pair that overlaps the narrower one, in the order of the lists.
pub fn intersection<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<&'a str> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b)));
    pairs.filter_map(|(a, b)| if is_subset(a, b) { Some(a) } else { is_subset(b, a).then_some(b) }).fold(
        Vec::new(),
        |mut common, pattern| {
            if !common.contains(&pattern) {
                common.push(pattern);
            }
            common
        },
    )
}

/// Orders the more specific pattern first: names before wildcards, then the longer, then by alphabet.
pub fn by_specificity(a: &str, b: &str) -> Ordering {
    let wild = |pattern: &str| pattern.starts_with('*');
    wild(a).cmp(&wild(b)).then_with(|| b.len().cmp(&a.len())).then_with(|| a.cmp(b))
}

/// The most specific of `patterns` that covers the needle (a name or itself a pattern).
pub fn most_specific<'a, P: Borrow<str> + ?Sized>(
    patterns: impl IntoIterator<Item = &'a P>,
    needle: &str,
) -> Option<&'a P> {
    let covering = patterns.into_iter().filter(|pattern| is_subset(needle, (*pattern).borrow()));
    covering.min_by(|a, b| by_specificity((*a).borrow(), (*b).borrow()))
}

/// The whole name that a host in a resource means: short names (without a dot) are Kubernetes services of the resource's
/// namespace; everything else stays as written.
pub fn resolve_short_name(host: &str, namespace: &str, domain: &str) -> String {
    if host.contains(['*', '.', ':']) {
        return host.to_owned();
    }
    [host, namespace, "svc", domain].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::route::shared_cases::{Cases, shared_cases};

    fn index(patterns: &[&str]) -> HostIndex<String> {
        let mut index = HostIndex::default();
        for pattern in patterns {
            index.entry(&Arc::from(*pattern), || (*pattern).to_owned());
        }
        index
    }

    #[test]
    fn the_exact_name_wins_then_the_longest_wildcard() {
        let index = index(&["*", "*.com", "*.foo.com", "*-api.foo.com", "*ar.foo.com", "foo.com", "a.foo.com"]);
        for (name, pattern) in [
            ("a.foo.com", "a.foo.com"),
            ("b.foo.com", "*.foo.com"),
            ("c.b.foo.com", "*.foo.com"),
            ("x-api.foo.com", "*-api.foo.com"),
            ("bar.foo.com", "*ar.foo.com"),
            ("foo.com", "foo.com"),
            ("bar.com", "*.com"),
            ("com", "*"),
            ("foo.org", "*"),
        ] {
            assert_eq!(index.find(name).map(String::as_str), Some(pattern), "{name}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_at_least_one_byte() {
        let index = index(&["*.foo.com", "*-api.foo.com", "*bar.org"]);
        for name in ["foo.com", "bar.org", "xfoo.com", "-api.foo.org"] {
            assert_eq!(index.find(name), None, "{name}");
        }
        assert_eq!(index.find("xbar.org").map(String::as_str), Some("*bar.org"));
    }

    #[test]
    fn a_pattern_is_covered_by_itself_and_by_wider_ones_only() {
        let index = index(&["a.foo.com", "*.b.foo.com", "*.foo.com", "*oo.org"]);
        for (pattern, covering) in [
            ("*.b.foo.com", Some("*.b.foo.com")),
            ("*.a.foo.com", Some("*.foo.com")),
            ("*.foo.com", Some("*.foo.com")),
            ("*x.foo.com", Some("*.foo.com")),
            ("*foo.com", None),
            ("*.com", None),
            ("*", None),
            ("*oo.org", Some("*oo.org")),
            ("*foo.org", Some("*oo.org")),
            ("a.foo.com", Some("a.foo.com")),
        ] {
            assert_eq!(index.find_covering(pattern).map(String::as_str), covering, "{pattern}");
        }
    }

    #[test]
    fn names_that_are_cut_inside_a_character_do_not_panic() {
        let index = index(&["*bcd", "*.é.com"]);
        assert_eq!(index.find("aéd"), None);
        assert_eq!(index.find("éé"), None);
    }

    #[test]
    fn a_lookup_among_a_hundred_thousand_takes_less_than_a_microsecond() {
        let limit = Duration::from_micros(if cfg!(debug_assertions) { 20 } else { 1 });
        let mut index = HostIndex::default();
        for n in 0..50_000 {
            index.entry(&Arc::from(format!("host-{n}.example.com")), || n);
            index.entry(&Arc::from(format!("*.zone-{n}.example.com")), || n);
        }
        let names: Vec<String> = (0..1_000).map(|n| format!("a.b.zone-{}.example.com", n * 47)).collect();
        let round = || {
            let started = Instant::now();
            assert!(names.iter().enumerate().all(|(n, name)| index.find(name) == Some(&(n * 47))));
            started.elapsed() / 1_000
        };
        let best = (0..20).map(|_| round()).min().unwrap();
        assert!(best < limit, "{best:?}");
    }

    fn pattern() -> impl Strategy<Value = String> {
        "(\\*|\\*\\.[ab]|\\*[ab]{1,2}|[ab])(\\.[abc]){0,3}"
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_scan_of_all_patterns_finds(
            patterns in proptest::collection::vec(pattern(), 0..12),
            name in "[ab]{1,2}(\\.[abc]){0,4}",
        ) {
            let index = index(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
            let fitting = patterns.iter().filter(|pattern| pattern.len() <= name.len() || !pattern.starts_with('*') || *pattern == "*");
            prop_assert_eq!(index.find(&name), most_specific(fitting, &name));
        }

        #[test]
        fn covering_patterns_are_found_as_by_a_scan(
            patterns in proptest::collection::vec(pattern(), 0..12),
            needle in pattern().prop_filter("a pattern", |pattern| pattern.starts_with('*')),
        ) {
            let index = index(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(index.find_covering(&needle), most_specific(&patterns, &needle));
        }
    }

    fn list(row: &Value, key: &str) -> Vec<String> {
        row[key].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn istio_s_table_of_hosts_holds() {
        let Some(cases) = shared_cases("hosts.json") else { return };
        let mut seen = Cases::default();
        for (table, row) in cases.rows() {
            let text = |key: &str| row[key].as_str().unwrap();
            let found: Value = match table {
                "TestNameMatches" => overlap(text("a"), text("b")).into(),
                "TestNameSubsetOf" => is_subset(text("a"), text("b")).into(),
                "TestNamesIntersection" => {
                    let (a, b) = (list(row, "a"), list(row, "b"));
                    let a: Vec<&str> = a.iter().map(String::as_str).collect();
                    let b: Vec<&str> = b.iter().map(String::as_str).collect();
                    intersection(&a, &b).into()
                }
                "TestNamesSortOrder" => {
                    let mut names = list(row, "in");
                    names.sort_by(|a, b| by_specificity(a, b));
                    names.into()
                }
                "TestMoreSpecific" => by_specificity(text("a"), text("b")).is_le().into(),
                "TestMostSpecificHostMatch" => {
                    let hosts = list(row, "hosts");
                    most_specific(&hosts, text("needle")).map_or("", String::as_str).into()
                }
                "TestResolveShortnameToFQDN" => {
                    resolve_short_name(text("host"), text("configNamespace"), text("domain")).into()
                }
                _ => {
                    seen.skipped(table, "which namespaces may bind to a host of a Gateway's server: Gateways are passed over, and a Sidecar's hosts are judged with it");
                    continue;
                }
            };
            assert_eq!(found, row["expect"], "{table} {}", row["index"]);
            seen.held();
        }
        seen.report("hosts.json", 50);
    }
}
