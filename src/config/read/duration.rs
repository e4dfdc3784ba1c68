//! Durations as Istio reads them: the syntax of Go's `time.ParseDuration`, without a sign.

use std::time::Duration;

/// Reads `10s`, `1h30m`, `250ms`, `1.5h`, or `0`. `None`: not a duration, or longer than 292 years (Go's bound).
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (nanoseconds, after) = parse_term(rest)?;
        total += nanoseconds;
        rest = after;
        if total > i64::MAX as u128 {
            return None;
        }
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total as u64))
}

/// Number and unit, such as `1.5h`: its nanoseconds, and what stands behind it.
fn parse_term(text: &str) -> Option<(u128, &str)> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // `ms` before `m` and `s`: the longest unit counts.
    let (unit, rest) = UNITS.iter().find_map(|(name, unit)| Some((*unit, rest.strip_prefix(name)?)))?;
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|n| *n <= i64::MAX as u128)? };
    let (part, scale) = fraction
        .bytes()
        .take(FRACTION_DIGITS)
        .fold((0u128, 1u128), |(part, scale), digit| (part * 10 + u128::from(digit - b'0'), scale * 10));
    Some((whole * unit + part * unit / scale, rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

const FRACTION_DIGITS: usize = 18; // below a nanosecond of an hour
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let ms = |n| Some(Duration::from_millis(n));
        for (text, expected) in [
            ("0", ms(0)),
            ("0s", ms(0)),
            ("10s", ms(10_000)),
            ("1h30m", ms(5_400_000)),
            ("250ms", ms(250)),
            ("0.5s", ms(500)),
            (".5s", ms(500)),
            ("5.s", ms(5_000)),
            ("1.5h", ms(5_400_000)),
            ("1m1m", ms(120_000)),
            ("3us", Some(Duration::from_micros(3))),
            ("0.0000000000000000000000001h", ms(0)),
            ("2562047h47m16.854775807s", Some(Duration::from_nanos(i64::MAX as u64))),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
        for text in
            ["", "10", "s", ".s", "-1s", "+1s", "1 s", "1s ", "1d", "1S", "1e3s", "2562047h47m16.854775808s", "1h30"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration(&"9".repeat(100_000)), None);
        assert_eq!(parse_duration(&format!("{}s", "9".repeat(100_000))), None);
    }
}
