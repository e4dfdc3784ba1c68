//! The path as rules compare it (CONTRACT: "Routes and policies match a normalised copy of the path").

use std::borrow::Cow;

/// The path without its dot segments, double slashes and backslashes, and without the escapes that hide them (`%2e`, `%2f`, `%5c`, once).
/// What is no path (`*`) stays as it is. Costs no allocation where nothing changes.
///
/// Other escapes stay: they are not decoded by Istio either, and whoever writes a rule sees the same bytes.
pub fn normalised(path: &str) -> Cow<'_, str> {
    if !path.starts_with('/') || !is_suspect(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let plain = unescaped(path);
    let mut kept: Vec<&str> = Vec::new();
    for segment in plain.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop(); // above the root there is the root (RFC 3986 §5.2.4)
            }
            segment => kept.push(segment),
        }
    }
    let mut normal = String::with_capacity(plain.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    let last = plain.rsplit('/').next().unwrap_or_default();
    if kept.is_empty() || matches!(last, "" | "." | "..") {
        normal.push('/');
    }
    if normal == path { Cow::Borrowed(path) } else { Cow::Owned(normal) }
}

/// True where something may have to change.
fn is_suspect(path: &[u8]) -> bool {
    let pairs = path.iter().zip(path.iter().skip(1));
    path.contains(&b'\\') || path.contains(&b'%') || pairs.into_iter().any(|pair| matches!(pair, (b'/', b'/' | b'.')))
}

/// Dots, slashes and backslashes without their escapes; all slashes forward.
fn unescaped(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        plain.push_str(&rest[..at]);
        let escape = rest[at..].get(..3).map(str::to_ascii_lowercase);
        let (with, length) = match (rest.as_bytes()[at], escape.as_deref()) {
            (b'\\', _) | (_, Some("%2f" | "%5c")) => ('/', if rest.as_bytes()[at] == b'\\' { 1 } else { 3 }),
            (_, Some("%2e")) => ('.', 3),
            _ => ('%', 1),
        };
        plain.push(with);
        rest = &rest[at + length..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_path_becomes_one() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//", "/"),
            ("/a//b", "/a/b"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/../../a", "/a"),
            ("/public/..%2fadmin", "/admin"),
            ("/public/%2E%2e/admin", "/admin"),
            ("/public/..\\admin", "/admin"),
            ("/public%5c..%5Cadmin", "/admin"),
            ("/a%2Fb", "/a/b"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a%", "/a%"),
            ("/a%2", "/a%2"),
            ("/%61dmin", "/%61dmin"),
            ("/..;/admin", "/..;/admin"),
            ("/.hidden", "/.hidden"),
            ("/a...b/", "/a...b/"),
            ("/%c0%ae%c0%ae/", "/%c0%ae%c0%ae/"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(normalised(path), expected, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_normal_costs_nothing() {
        for path in ["/", "/a/b.c", "/a%20b", "/x/y/"] {
            assert!(matches!(normalised(path), Cow::Borrowed(_)), "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_normal_has_nothing_left_to_normalise(path in "/[a./\\\\%25eEfFcC]{0,24}") {
            let once = normalised(&path).into_owned();
            prop_assert!(once.starts_with('/'));
            prop_assert!(!once.contains("//") && !once.contains("/../") && !once.contains("/./") && !once.contains('\\'));
            prop_assert!(!once.ends_with("/..") && !once.ends_with("/."));
        }
    }
}
