//! Squid's native format (`logformat squid`), one line at the end of a flow, as its log analysers read it:
//! `%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt`.
//!
//! Differences that cannot be seen in the format: `%<st` counts bytes of bodies and tunnels, not heads.

use super::escape::{self, Place};
use super::operator::{millis, url_start};
use super::{End, push_number, time};
use crate::account::record::{AccessRecord, Asked, Field, Message};
use crate::flow::{Ending, ErrorType, Outcome, Side, Transport, put_ip};

pub(super) fn line(out: &mut Vec<u8>, record: &AccessRecord, end: End) {
    push_number(out, end.at.as_secs());
    out.push(b'.');
    time::push_digits(out, end.at.subsec_millis(), 3);
    out.push(b' ');
    let lasted = millis(end.lasted);
    let width = out.len() + 6;
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(lasted).as_bytes();
    out.resize(width.saturating_sub(digits.len()).max(out.len()), b' ');
    out.extend_from_slice(digits);
    out.push(b' ');
    match record.source.transport {
        Transport::Unix(_) => out.push(b'-'),
        Transport::Tcp | Transport::Tls(_) => put_ip(out, record.source.peer.ip().to_canonical()),
    }
    out.push(b' ');
    out.extend_from_slice(result(record).as_bytes());
    out.extend_from_slice(suffix(&record.outcome).as_bytes());
    out.push(b'/');
    time::push_digits(out, status(record).into(), 3);
    out.push(b' ');
    push_number(out, record.sent);
    out.push(b' ');
    method_and_url(out, record);
    out.push(b' ');
    or_dash(out, record.text(Field::Identity));
    out.push(b' ');
    hierarchy(out, record);
    out.push(b' ');
    let media_type = record.extra(Message::Response, MEDIA_TYPE).split(|byte| *byte == b';').next();
    or_dash(out, media_type.unwrap_or_default().trim_ascii());
}

/// The field of the answer that `%mt` shows, without its parameters.
pub(super) const MEDIA_TYPE: &str = "content-type";

/// Squid's result code.
fn result(record: &AccessRecord) -> &'static str {
    match (&record.outcome, record.asked) {
        (Outcome::Failed { error, .. }, _) if error.row().side == Side::Policy => "TCP_DENIED",
        (_, Asked::Unreadable) => "NONE_NONE",
        (Outcome::Failed { error: ErrorType::BadRequest | ErrorType::HeadTooLarge, .. }, _) => "NONE_NONE",
        (_, Asked::Connect | Asked::Sni) => "TCP_TUNNEL",
        (_, Asked::Http) => "TCP_MISS",
    }
}

fn suffix(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ended(Ending::IdleTimeout | Ending::LifetimeExceeded) => "_TIMEDOUT",
        Outcome::Ended(_) | Outcome::Abandoned => "_ABORTED",
        Outcome::Complete | Outcome::Failed { .. } => "",
    }
}

/// A TLS flow that was let through counts as a tunnel that was; one that was refused as what a client of a forward listener would get.
fn status(record: &AccessRecord) -> u16 {
    match (&record.outcome, record.asked) {
        (Outcome::Failed { error, .. }, Asked::Sni) => error.row().status,
        (_, Asked::Sni) => 200,
        _ => record.status,
    }
}

fn method_and_url(out: &mut Vec<u8>, record: &AccessRecord) {
    match record.asked {
        Asked::Unreadable => out.extend_from_slice(b"NONE error:invalid-request"),
        Asked::Sni => {
            out.extend_from_slice(b"CONNECT ");
            or_dash(out, record.text(Field::ServerName));
            // The port that was dialled; through a parent that would be the parent's.
            if let (Some(upstream), None) = (record.trace.upstream, &record.trace.hop) {
                out.push(b':');
                push_number(out, upstream.port().into());
            }
        }
        Asked::Connect => {
            out.extend_from_slice(b"CONNECT ");
            or_dash(out, record.text(Field::Authority));
        }
        Asked::Http => {
            or_dash(out, record.text(Field::Method));
            out.push(b' ');
            out.extend_from_slice(url_start(record.scheme).as_bytes());
            escape::text(out, record.text(Field::Authority), Place::Bare);
            escape::text(out, record.text(Field::Path), Place::Bare);
        }
    }
}

fn hierarchy(out: &mut Vec<u8>, record: &AccessRecord) {
    match (&record.trace.hop, record.trace.upstream) {
        (Some(hop), _) => {
            out.extend_from_slice(b"FIRSTUP_PARENT/");
            escape::text(out, hop.as_bytes(), Place::Bare);
        }
        (None, Some(upstream)) => {
            out.extend_from_slice(b"HIER_DIRECT/");
            put_ip(out, upstream.ip().to_canonical());
        }
        (None, None) => out.extend_from_slice(b"HIER_NONE/-"),
    }
}

fn or_dash(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_empty() {
        out.push(b'-');
    } else {
        escape::text(out, text, Place::Bare);
    }
}
