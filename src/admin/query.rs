//! The query of a request: a few names, each at most once.

use std::borrow::Cow;
use std::ops::RangeInclusive;

/// `a=1&b=x%20y`, decoded as forms are.
#[derive(Debug)]
pub(super) struct Query<'q>(&'q str);

impl<'q> Query<'q> {
    pub(super) fn new(query: Option<&'q str>) -> Self {
        Self(query.unwrap_or_default())
    }

    /// The value of a name; the first one counts.
    pub(super) fn get(&self, name: &str) -> Option<Cow<'q, str>> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decode(value))
    }

    /// A number.
    ///
    /// # Errors
    /// A sentence, where it is none or out of bounds.
    pub(super) fn number(&self, name: &str, default: usize, bounds: RangeInclusive<usize>) -> Result<usize, String> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.parse() {
            Ok(number) if bounds.contains(&number) => Ok(number),
            _ => Err(format!("{name}: expected a number from {} to {}\n", bounds.start(), bounds.end())),
        }
    }

    /// One of a few words, the first by default.
    ///
    /// # Errors
    /// A sentence that names them.
    pub(super) fn one_of<T: Copy>(&self, name: &str, words: &[(&'static str, T)]) -> Result<T, String> {
        let Some(text) = self.get(name) else { return Ok(words[0].1) };
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("{name}: expected one of {}\n", words.join(", "))
        })
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| text.as_bytes().get(at).and_then(|&b| char::from(b).to_digit(16));
    let (mut bytes, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = text.as_bytes().get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', _, _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_malformed_escapes_stay() {
        let query = Query::new(Some("a=1&b=x%20y+z&c&d=%zz%4&a=2&e=%C3%A9&f=%ff"));
        for (name, value) in [("a", "1"), ("b", "x y z"), ("c", ""), ("d", "%zz%4"), ("e", "é"), ("f", "\u{fffd}")] {
            assert_eq!(query.get(name).unwrap(), value, "{name}");
        }
        assert_eq!(query.get("g"), None);
        assert_eq!(Query::new(None).get("a"), None);
    }

    #[test]
    fn numbers_and_words_have_bounds() {
        let query = Query::new(Some("n=10&big=11&word=up&x=&minus=-1"));
        assert_eq!(query.number("n", 5, 1..=10), Ok(10));
        assert_eq!(query.number("absent", 5, 1..=10), Ok(5));
        for name in ["big", "word", "x", "minus"] {
            assert_eq!(query.number(name, 5, 1..=10), Err(format!("{name}: expected a number from 1 to 10\n")));
        }
        let words = [("down", 0), ("up", 1)];
        assert_eq!((query.one_of("word", &words), query.one_of("absent", &words)), (Ok(1), Ok(0)));
        assert_eq!(query.one_of("x", &words), Err("x: expected one of down, up\n".to_owned()));
    }
}
