//! What a tunnel carries that it was not asked for.

use super::Name;

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In a word.
    pub kind: Unfit,
    /// One sentence; names in it are canonical, nothing else of the client's bytes is.
    pub detail: Box<str>,
    /// The server name of a ClientHello, where it has one.
    pub server_name: Option<Name>,
    /// How the client can be told.
    pub speaks: Speaks,
}

/// The ways not to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Another name, or an address.
    Differs,
    /// A ClientHello without name, on a port that is declared TLS.
    NoName,
    /// No TLS, on a port that is declared TLS.
    NotTls,
    /// An encrypted ClientHello under `ech: deny`.
    Ech,
    /// Broken TLS or HTTP: two readers may take two different names of it.
    Malformed,
    /// Not whole after 16 KiB, after 5 s, or at its end.
    Undecided,
    /// A ClientHello, where TLS of ours is around what the client says.
    DoubleTls,
}

/// What a client speaks, as far as a refusal differs by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// TLS: an alert tells it.
    Tls,
    /// HTTP/1: a 421 tells it.
    Http,
    /// Anything else: nothing can be said.
    Other,
}

impl Unfit {
    /// All, in order.
    pub const ALL: [Self; 7] =
        [Self::Differs, Self::NoName, Self::NotTls, Self::Ech, Self::Malformed, Self::Undecided, Self::DoubleTls];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::NoName => "no_name",
            Self::NotTls => "not_tls",
            Self::Ech => "ech",
            Self::Malformed => "malformed",
            Self::Undecided => "undecided",
            Self::DoubleTls => "double_tls",
        }
    }
}

impl Finding {
    /// Nobody can tell what the client speaks.
    pub fn undecided(detail: &str) -> Self {
        Self { kind: Unfit::Undecided, detail: detail.into(), server_name: None, speaks: Speaks::Other }
    }
}
