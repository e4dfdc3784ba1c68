//! Points in time as logs write them, in UTC.

use std::cell::Cell;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::Offset;

thread_local! {
    /// The second that was formatted last, as `2020-08-25T14:55:49.`: the lines of a worker are mostly of the same one.
    static SECOND: Cell<(u64, [u8; 20])> = const { Cell::new((u64::MAX, [0; 20])) };
}

/// `2020-08-25T14:55:49.810Z`.
pub(super) fn instant(out: &mut Vec<u8>, since_1970: Duration) {
    let (cached, mut text) = SECOND.get();
    if cached != since_1970.as_secs() {
        text = second(since_1970);
        SECOND.set((since_1970.as_secs(), text));
    }
    out.extend_from_slice(&text);
    push_digits(out, since_1970.subsec_millis(), 3);
    out.push(b'Z');
}

/// As `format` says; see [`check`].
pub(super) fn formatted(out: &mut Vec<u8>, since_1970: Duration, format: &str) {
    match strtime::format(format, timestamp(since_1970)) {
        Ok(text) => out.extend_from_slice(text.as_bytes()),
        Err(_) => out.push(b'-'), // `check` let it pass, so no time that a clock of ours shows comes here
    }
}

/// Translates a format of Envoy's `%START_TIME(…)%` (strftime, with `%f` for nanoseconds and `%1f` to `%9f` for fewer digits).
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(format: &str) -> Result<Box<str>, String> {
    if format.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        return Err("a time format holds no quotes, backslashes or control characters".to_owned());
    }
    let mut translated = String::with_capacity(format.len());
    let mut rest = format;
    while let Some((text, after)) = rest.split_once('%') {
        translated.push_str(text);
        translated.push('%');
        rest = match after.strip_prefix('f') {
            Some(rest) => {
                translated.push_str("9f");
                rest
            }
            None => {
                let second = after.chars().next().filter(|c| *c == '%');
                translated.extend(second);
                &after[second.map_or(0, char::len_utf8)..]
            }
        };
    }
    translated.push_str(rest);
    strtime::format(&translated, timestamp(Duration::from_secs(1))).map_err(|error| error.to_string())?;
    Ok(translated.into())
}

fn second(since_1970: Duration) -> [u8; 20] {
    let time = Offset::UTC.to_datetime(timestamp(since_1970));
    let mut text = Vec::with_capacity(20);
    push_digits(&mut text, time.year().unsigned_abs().into(), 4);
    for (before, number) in
        [(b'-', time.month()), (b'-', time.day()), (b'T', time.hour()), (b':', time.minute()), (b':', time.second())]
    {
        text.push(before);
        push_digits(&mut text, number.unsigned_abs().into(), 2);
    }
    text.push(b'.');
    text.try_into().expect("4 + 5 × 3 + 1 bytes")
}

fn timestamp(since_1970: Duration) -> Timestamp {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(since_1970.subsec_nanos()).unwrap_or_default();
    Timestamp::new(seconds, nanos).unwrap_or(Timestamp::MAX)
}

/// Exactly `width` digits.
pub(super) fn push_digits(out: &mut Vec<u8>, number: u32, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10u32.pow(place) % 10) as u8);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(millis: u64) -> String {
        let mut out = Vec::new();
        instant(&mut out, Duration::from_millis(millis));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn instants_have_milliseconds_and_the_cached_second_is_not_mistaken_for_another() {
        assert_eq!(shown(1_598_367_349_810), "2020-08-25T14:55:49.810Z");
        assert_eq!(shown(1_598_367_349_009), "2020-08-25T14:55:49.009Z");
        assert_eq!(shown(1_598_367_350_000), "2020-08-25T14:55:50.000Z");
        assert_eq!(shown(1_598_367_349_999), "2020-08-25T14:55:49.999Z");
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(1_582_934_400_000), "2020-02-29T00:00:00.000Z");
    }

    #[test]
    fn envoys_time_formats_mean_here_what_they_mean_there() {
        for (format, expected) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2020/08/25T14:55:49+0000 1598367349"),
            ("%s.%3f", "1598367349.810"),
            ("%f", "810004000"),
            ("%6f", "810004"),
            ("%%f", "%f"),
        ] {
            let mut out = Vec::new();
            formatted(&mut out, Duration::new(1_598_367_349, 810_004_000), &check(format).unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
        }
        for format in ["%!", "%", "a\"b", "%Y\n", "\\"] {
            assert!(check(format).is_err(), "{format}");
        }
    }
}
