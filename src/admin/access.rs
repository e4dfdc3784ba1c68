//! Who may change something: whoever may connect to a Unix socket, or shows the token; never a page of another site.

use http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};

/// The secret of `admin.tokenFile`. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<[u8]>);

/// Shortest token: below that, guessing is worth a try.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;

/// Why somebody may not change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// A browser says that a page of another site sends this.
    ForeignPage,
    /// TCP, and no token is configured.
    NoToken,
    /// The token is missing.
    Missing,
    /// The token is another one.
    Wrong,
}

impl Token {
    /// Reads the content of a token file: one line of visible ASCII, 16 to 1024 bytes; a line break at the end is none of it.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn parse(content: &[u8]) -> Result<Self, &'static str> {
        let token = content.trim_ascii_end();
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err("a token is one line of visible ASCII characters without spaces");
        }
        match token.len() {
            0 => Err("it is empty"),
            length if length < TOKEN_BYTES_MIN => Err("a token has at least 16 characters"),
            length if length > TOKEN_BYTES_MAX => Err("a token has at most 1024 characters"),
            _ => Ok(Self(token.into())),
        }
    }

    /// Compares in a time that tells nothing but the length.
    fn is(&self, shown: &[u8]) -> bool {
        let differences = self.0.iter().zip(shown).fold(0, |differences, (ours, theirs)| differences | (ours ^ theirs));
        self.0.len() == shown.len() && std::hint::black_box(differences) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Judges a request that would change something. `trusted`: it came over a Unix socket, where the kernel has judged.
pub(super) fn may_change(headers: &HeaderMap, trusted: bool, token: Option<&Token>) -> Result<(), Denied> {
    if !is_from_our_page(headers) {
        return Err(Denied::ForeignPage);
    }
    if trusted {
        return Ok(());
    }
    let token = token.ok_or(Denied::NoToken)?;
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    match (shown.next(), shown.next()) {
        (Some(value), None) if bearer(value.as_bytes()).is_some_and(|shown| token.is(shown)) => Ok(()),
        (None, _) => Err(Denied::Missing),
        (Some(_), _) => Err(Denied::Wrong),
    }
}

/// What browsers say of themselves (Fetch Metadata; RFC 6454 §7). Other clients say nothing of the kind.
fn is_from_our_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return false;
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers.get(HOST).map(http::HeaderValue::as_bytes);
    let ours = origin.as_bytes().strip_prefix(b"http://").or_else(|| origin.as_bytes().strip_prefix(b"https://"));
    ours.is_some() && ours == host
}

/// The token of `Bearer TOKEN` (RFC 6750 §2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_file_holds_one_line_of_at_least_16_characters() {
        for good in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n", &"x".repeat(1024)] {
            assert!(Token::parse(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "\n",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcdef\nmore",
            &"x".repeat(1025),
            "é123456789abcdef",
        ] {
            assert!(Token::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(!format!("{:?}", Token::parse(b"0123456789abcdef").unwrap()).contains("0123"));
    }

    #[test]
    fn over_tcp_the_whole_token_is_needed() {
        let token = Token::parse(b"0123456789abcdef").unwrap();
        let judge = |fields: &[(&'static str, &str)]| may_change(&headers(fields), false, Some(&token));
        assert_eq!(judge(&[("authorization", "Bearer 0123456789abcdef")]), Ok(()));
        assert_eq!(judge(&[("authorization", "bearer  0123456789abcdef ")]), Ok(()));
        assert_eq!(judge(&[]), Err(Denied::Missing));
        for wrong in
            ["Bearer 0123456789abcde", "Bearer 0123456789abcdefg", "Bearer", "Bearer ", "Basic 0123456789abcdef", ""]
        {
            assert_eq!(judge(&[("authorization", wrong)]), Err(Denied::Wrong), "{wrong}");
        }
        let twice = [("authorization", "Bearer 0123456789abcdef"), ("authorization", "Bearer x")];
        let twice: HeaderMap = {
            let mut map = HeaderMap::new();
            for (name, value) in twice {
                map.append(name, value.parse().unwrap());
            }
            map
        };
        assert_eq!(may_change(&twice, false, Some(&token)), Err(Denied::Wrong));
        assert_eq!(may_change(&headers(&[]), false, None), Err(Denied::NoToken));
        assert_eq!(may_change(&headers(&[]), true, None), Ok(()));
    }

    #[test]
    fn a_page_of_another_site_changes_nothing_whatever_it_shows() {
        for (fields, ours) in [
            (
                vec![
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "http://127.0.0.1:15000"),
                    ("host", "127.0.0.1:15000"),
                ],
                true,
            ),
            (vec![("sec-fetch-site", "none"), ("host", "127.0.0.1:15000")], true),
            (vec![("host", "127.0.0.1:15000")], true),
            (vec![("sec-fetch-site", "cross-site"), ("host", "127.0.0.1:15000")], false),
            (vec![("sec-fetch-site", "same-site"), ("host", "127.0.0.1:15000")], false),
            (vec![("origin", "http://127.0.0.1:8080"), ("host", "127.0.0.1:15000")], false),
            (vec![("origin", "http://evil.example"), ("host", "127.0.0.1:15000")], false),
            (vec![("origin", "null"), ("host", "127.0.0.1:15000")], false),
            (vec![("origin", "http://127.0.0.1:15000")], false),
        ] {
            assert_eq!(may_change(&headers(&fields), true, None).is_ok(), ours, "{fields:?}");
        }
    }
}
