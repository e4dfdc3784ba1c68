//! Who may ask from other origins (`corsPolicy`, the Fetch standard's protocol).

use std::time::Duration;

use super::matching::StringMatch;

/// `corsPolicy`, compiled.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Origins that may ask; `*` fits all.
    pub origins: Vec<StringMatch>,
    /// `Access-Control-Allow-Methods`.
    pub methods: Box<str>,
    /// `Access-Control-Allow-Headers`.
    pub headers: Box<str>,
    /// `Access-Control-Expose-Headers`.
    pub exposed: Box<str>,
    /// `Access-Control-Max-Age`.
    pub max_age: Option<Duration>,
    /// `Access-Control-Allow-Credentials: true`.
    pub credentials: bool,
    /// A preflight from elsewhere is answered by us too, without allowing anything (`unmatchedPreflights: IGNORE`).
    pub answers_unmatched: bool,
}

impl Cors {
    /// True if pages of this origin may ask.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins
            .iter()
            .any(|allowed| allowed.fits(origin) || matches!(allowed, StringMatch::Exact(all) if &**all == "*"))
    }

    /// The fields of the answer to a preflight from `origin`; `None`: it is the upstream's to answer.
    pub fn preflight(&self, origin: &str) -> Option<Vec<(&'static str, String)>> {
        if !self.allows(origin.as_bytes()) {
            return self.answers_unmatched.then(Vec::new);
        }
        let mut fields = self.origin_fields(origin);
        let mut say = |name, value: &str| {
            if !value.is_empty() {
                fields.push((name, value.to_owned()));
            }
        };
        say("Access-Control-Allow-Methods", &self.methods);
        say("Access-Control-Allow-Headers", &self.headers);
        if let Some(age) = self.max_age {
            say("Access-Control-Max-Age", &age.as_secs().to_string());
        }
        Some(fields)
    }

    /// The fields that an answer to a request from `origin` gets, in place of the upstream's own.
    pub fn answer(&self, origin: &str) -> Vec<(&'static str, String)> {
        if !self.allows(origin.as_bytes()) {
            return Vec::new();
        }
        let mut fields = self.origin_fields(origin);
        if !self.exposed.is_empty() {
            fields.push(("Access-Control-Expose-Headers", self.exposed.to_string()));
        }
        fields
    }

    fn origin_fields(&self, origin: &str) -> Vec<(&'static str, String)> {
        let mut fields = vec![("Access-Control-Allow-Origin", origin.to_owned())];
        if self.credentials {
            fields.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_is_answered_where_the_origin_may_ask() {
        let cors = Cors {
            origins: vec![StringMatch::Exact("https://a.org".into()), StringMatch::Prefix("http://b.".into())],
            methods: "GET,POST".into(),
            headers: "x-a".into(),
            exposed: "x-b".into(),
            max_age: Some(Duration::from_secs(86400)),
            credentials: true,
            ..Cors::default()
        };
        let fields = cors.preflight("https://a.org").expect("allowed");
        assert_eq!(
            fields.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>(),
            [
                "Access-Control-Allow-Origin: https://a.org",
                "Access-Control-Allow-Credentials: true",
                "Access-Control-Allow-Methods: GET,POST",
                "Access-Control-Allow-Headers: x-a",
                "Access-Control-Max-Age: 86400",
            ]
        );
        assert!(cors.allows(b"http://b.org") && !cors.allows(b"https://a.org.evil"));
        assert!(cors.preflight("https://c.org").is_none(), "the upstream answers");
        assert_eq!(Cors { answers_unmatched: true, ..cors.clone() }.preflight("https://c.org"), Some(Vec::new()));
        assert_eq!(cors.answer("https://c.org"), Vec::new());
        assert_eq!(cors.answer("http://b.org").len(), 3);
        let all = Cors { origins: vec![StringMatch::Exact("*".into())], ..Cors::default() };
        assert!(all.allows(b"https://anybody.org"));
    }
}
