//! "Did you mean": the known name nearest to what was written.

/// The name that differs by case alone, or by few enough edits for its length; `None` if none is near.
pub fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    if written.len() > NAME_BYTES_MAX {
        return None;
    }
    let same_but_case = names.clone().find(|name| name.eq_ignore_ascii_case(written));
    same_but_case.or_else(|| {
        let near = names.map(|name| (distance(written, name), name));
        near.filter(|(edits, name)| *edits <= name.len().max(written.len()) / 3).min().map(|(_, name)| name)
    })
}

const NAME_BYTES_MAX: usize = 64; // the longest name of a field is 35; what is longer is no typing mistake

/// Edits between two texts: insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["hosts", "ports", "location", "resolution", "exportTo"];
        let nearest = |written| nearest(written, names.into_iter());
        assert_eq!(nearest("host"), Some("hosts"));
        assert_eq!(nearest("hsots"), Some("hosts"));
        assert_eq!(nearest("exportto"), Some("exportTo"));
        assert_eq!(nearest("resolutoin"), Some("resolution"));
        assert_eq!(nearest("endpoints"), None);
        assert_eq!(nearest(""), None);
        assert_eq!(nearest(&"hosts".repeat(100)), None);
    }
}
