//! Text of peers made harmless: what stands between quotes stays there, one line stays one line, a terminal shows and does not obey.

/// Which bytes of a value stand for themselves in a text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between quotes: a space is one.
    Quoted,
    /// Between spaces: a space would begin the next column.
    Bare,
}

/// Appends with `"`, `\`, control bytes, everything beyond ASCII and (bare) spaces as `\xHH`.
pub(crate) fn text(out: &mut Vec<u8>, value: &[u8], place: Place) {
    let stays = |byte: u8| stays_in_json(byte) && (byte != b' ' || place == Place::Quoted);
    // Without a branch for each byte: almost every value is harmless.
    if value.iter().fold(true, |harmless, byte| harmless & stays(*byte)) {
        out.extend_from_slice(value);
        return;
    }
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| !stays(*byte)) {
        out.extend_from_slice(&rest[..at]);
        push_hex(out, b"\\x", rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Appends as the inside of a JSON string, in ASCII: other characters as `\uHHHH`, bytes that are no UTF-8 as `\\xHH`.
pub(crate) fn json(out: &mut Vec<u8>, value: &[u8]) {
    if value.iter().all(|byte| stays_in_json(*byte)) {
        out.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        json_str(out, chunk.valid());
        chunk.invalid().iter().for_each(|byte| push_hex(out, b"\\\\x", *byte));
    }
}

fn json_str(out: &mut Vec<u8>, value: &str) {
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            ' '..='~' => out.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let [high, low] = unit.to_be_bytes();
                    push_hex(out, b"\\u", high);
                    push_hex(out, b"", low);
                }
            }
        }
    }
}

const fn stays_in_json(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn push_hex(out: &mut Vec<u8>, prefix: &[u8], byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(value: &[u8], place: Place) -> String {
        let mut out = Vec::new();
        text(&mut out, value, place);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quotes_backslashes_controls_and_bytes_beyond_ascii_are_escaped() {
        assert_eq!(escaped(b"curl/7.88 (x)", Place::Quoted), "curl/7.88 (x)");
        assert_eq!(escaped(b"a\" 200 -", Place::Quoted), "a\\x22 200 -");
        assert_eq!(escaped(b"\\x22", Place::Quoted), "\\x5cx22");
        assert_eq!(escaped(b"\r\n\0\x1b[2J\x7f\xc2\x9b", Place::Quoted), "\\x0d\\x0a\\x00\\x1b[2J\\x7f\\xc2\\x9b");
        assert_eq!(escaped(b"evil.com - 200", Place::Bare), "evil.com\\x20-\\x20200");
    }

    #[test]
    fn json_is_ascii_and_tells_bytes_that_are_no_text() {
        let mut out = Vec::new();
        json(&mut out, b"\"\\\n\x1b\x7f\xff \xc3\xa9\xf0\x9f\x90\xa6");
        assert_eq!(String::from_utf8(out).unwrap(), r#"\"\\\u000a\u001b\u007f\\xff \u00e9\ud83d\udc26"#);
    }

    proptest! {
        #[test]
        fn nothing_leaves_its_quotes_its_column_or_its_line(value: Vec<u8>) {
            for place in [Place::Quoted, Place::Bare] {
                let text = escaped(&value, place);
                prop_assert!(text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'"'));
                prop_assert!(place == Place::Quoted || !text.contains(' '));
            }
        }

        #[test]
        fn every_json_string_reads_back(value: Vec<u8>, valid: String) {
            let mut out = vec![b'"'];
            json(&mut out, &value);
            out.push(b'"');
            prop_assert!(serde_json::from_slice::<String>(&out).is_ok());
            prop_assert!(out.is_ascii());
            let mut out = vec![b'"'];
            json(&mut out, valid.as_bytes());
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), valid);
        }
    }
}
