//! `rewrite`: the path and the host that go out.

use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::flow::Target;
use crate::route::http::actions::{Authority, Rewrite};

use super::super::matching::pattern;

#[derive(Default)]
pub(super) struct Read {
    pub(super) path: Option<Rewrite>,
    pub(super) authority: Option<Authority>,
}

pub(super) fn read(node: &Node, cx: &mut Context<'_>) -> Read {
    let Some(mut fields) = Fields::of(node, cx) else { return Read::default() };
    let uri = fields.text("uri", cx).filter(|text| !text.value.is_empty());
    let authority = fields.text("authority", cx).filter(|text| !text.value.is_empty());
    let regex = fields.get("uriRegexRewrite");
    fields.finish(cx);
    if uri.is_none() && authority.is_none() && regex.is_none() {
        cx.report(Code::BadRewrite, node.span, "a rewrite changes `uri`, `uriRegexRewrite` or `authority`");
    }
    if uri.is_some() && regex.is_some() {
        cx.report(Code::BadRewrite, node.span, "`uri` or `uriRegexRewrite`, not both");
    }
    if let Some(uri) = uri.filter(|uri| !uri.value.bytes().all(is_of_path)) {
        cx.report(Code::BadRewrite, uri.span, "a path holds visible ASCII only, and no `?` or `#`").found(uri.value);
    }
    let prefix = uri.map(|uri| Rewrite::Prefix(uri.value.into()));
    let authority = authority.and_then(|text| {
        let read = read_authority(text.value);
        if let Err(error) = &read {
            cx.report(Code::BadRewrite, text.span, format!("{:?}: {error}", text.value)).found(text.value);
        }
        read.ok()
    });
    Read { path: prefix.or_else(|| read_regex(regex?, cx)), authority }
}

/// Groups are written `\1` there, and `\0` is the whole.
fn read_regex(node: &Node, cx: &mut Context<'_>) -> Option<Rewrite> {
    let mut fields = Fields::of(node, cx)?;
    let found = fields.required("match", cx);
    let rewrite = fields.required("rewrite", cx).and_then(|node| node.text(cx));
    fields.finish(cx);
    let found = found?;
    let pattern = pattern(found, found.text(cx)?.value, false, false, cx)?;
    let rewrite = rewrite?;
    let groups = pattern.regex().captures_len();
    match replacement(rewrite.value, groups) {
        Ok(with) => Some(Rewrite::Regex(pattern, with.into())),
        Err(problem) => {
            cx.report(Code::BadRewrite, rewrite.span, problem).found(rewrite.value);
            None
        }
    }
}

fn replacement(text: &str, groups: usize) -> Result<String, String> {
    let mut with = String::with_capacity(text.len() + 8);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '$' => with.push_str("$$"),
            '\\' => match characters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit as usize - '0' as usize;
                    if group >= groups {
                        return Err(format!("\\{digit} is no group of the match"));
                    }
                    with.push_str(&format!("${{{digit}}}"));
                }
                Some('\\') => with.push('\\'),
                _ => return Err("`\\` is followed by the number of a group, or by another one".to_owned()),
            },
            c if c.is_ascii() && is_of_path(c as u8) => with.push(c),
            _ => return Err("a path holds visible ASCII only, and no `?` or `#`".to_owned()),
        }
    }
    Ok(with)
}

/// What could end the request line, or move the query, must not be in a path.
fn is_of_path(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')
}

/// A host with a port or without.
pub(super) fn read_authority(text: &str) -> Result<Authority, String> {
    let whole = Target::parse_authority(text.as_bytes());
    let has_port = whole.is_ok();
    let target = whole.or_else(|_| Target::parse_or_port(text.as_bytes(), 1)).map_err(|error| error.to_string())?;
    Ok(Authority { target, has_port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_match() {
        assert_eq!(replacement(r"\2/x/\1$", 3).as_deref(), Ok("${2}/x/${1}$$"));
        assert_eq!(replacement(r"\0\\", 1).as_deref(), Ok(r"${0}\"));
        for bad in [r"\1", "\\", r"\x", "/a b", "/a?b", "/a\r\n", "/é"] {
            assert!(replacement(bad, 1).is_err(), "{bad}");
        }
    }
}
