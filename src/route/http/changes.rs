//! Fields that a route sets, adds and removes.

/// Changes to the fields of one message, in the order in which they are written: removed ones go first (as in Envoy), then the route's,
/// then the destination's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Lower case.
    removed: Vec<Box<str>>,
    /// Names in the case written, with their values; `true`: takes the place of all others of its name.
    written: Vec<(Box<str>, Box<str>, bool)>,
}

impl Changes {
    /// All fields of that name go.
    pub fn remove(&mut self, name: &str) {
        self.removed.push(name.to_ascii_lowercase().into());
    }

    /// The field has this value and no other.
    pub fn set(&mut self, name: &str, value: &str) {
        self.written.retain(|(other, _, _)| !other.eq_ignore_ascii_case(name));
        self.written.push((name.into(), value.into(), true));
    }

    /// One more field.
    pub fn add(&mut self, name: &str, value: &str) {
        self.written.push((name.into(), value.into(), false));
    }

    /// These, and then `others`.
    #[must_use]
    pub fn then(&self, others: &Self) -> Self {
        let mut all = self.clone();
        all.removed.extend(others.removed.iter().cloned());
        for (name, value, replaces) in &others.written {
            if *replaces {
                all.set(name, value);
            } else {
                all.add(name, value);
            }
        }
        all
    }

    /// True where fields of that name (any case) do not travel on as received.
    pub fn drops(&self, name: &[u8]) -> bool {
        let is = |other: &str| other.as_bytes().eq_ignore_ascii_case(name);
        self.removed.iter().any(|other| is(other))
            || self.written.iter().any(|(other, _, replaces)| *replaces && is(other))
    }

    /// The fields to write.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.written.iter().map(|(name, value, _)| (&**name, &**value))
    }

    /// True where nothing changes.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.written.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_has_one_value_and_what_is_added_one_more() {
        let mut route = Changes::default();
        route.remove("X-Gone");
        route.set("X-Set", "route");
        route.add("X-Add", "1");
        let mut destination = Changes::default();
        destination.set("x-set", "destination");
        destination.add("x-add", "2");
        let all = route.then(&destination);
        let fields: Vec<_> = all.fields().collect();
        assert_eq!(fields, [("X-Add", "1"), ("x-set", "destination"), ("x-add", "2")]);
        assert!(all.drops(b"x-GONE") && all.drops(b"X-SET") && !all.drops(b"x-add") && !all.drops(b"x-other"));
        assert!(Changes::default().is_empty() && !all.is_empty());
    }
}
