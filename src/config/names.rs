//! Names of Kubernetes objects (RFC 1123, as `kubectl apply` checks them).

/// The name of an object: a DNS subdomain of at most 253 bytes, lower case.
///
/// # Errors
/// A sentence.
pub(crate) fn object_name(text: &str) -> Result<Box<str>, &'static str> {
    match text.len() <= 253 && text.split('.').all(is_label_of_name) {
        true => Ok(text.into()),
        false => {
            Err("a name is made of lower-case letters, digits, `-` and `.`, and begins and ends with a letter or digit")
        }
    }
}

/// The name of a namespace: one DNS label, lower case.
///
/// # Errors
/// A sentence.
pub(crate) fn namespace(text: &str) -> Result<Box<str>, &'static str> {
    match text.len() <= 63 && is_label_of_name(text) {
        true => Ok(text.into()),
        false => {
            Err("a namespace is 1 to 63 lower-case letters, digits and `-`, and begins and ends with a letter or digit")
        }
    }
}

/// Labels inside of a name may be longer than 63 bytes in Kubernetes; only the whole is bounded.
fn is_label_of_name(label: &str) -> bool {
    let is_edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = label.as_bytes();
    is_edge(bytes.first().copied())
        && is_edge(bytes.last().copied())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_accepts() {
        assert!(["a", "a-b.c", "0", "a.b", &"x".repeat(253)].iter().all(|name| object_name(name).is_ok()));
        assert!(
            ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "ä", &"x".repeat(254)]
                .iter()
                .all(|name| object_name(name).is_err())
        );
        assert!(namespace(&"x".repeat(63)).is_ok() && namespace(&"x".repeat(64)).is_err() && namespace("a.b").is_err());
    }
}
