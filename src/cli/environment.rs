//! What the environment says; read once, here only.
#![expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]

use std::env;
use std::io::IsTerminal;
use std::path::PathBuf;

use listenfd::ListenFd;

use crate::accept::passed::{PassedSocket, PassedSockets};

/// How to print for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Colours may be used.
    pub(super) color: bool,
    /// Characters outside ASCII may be used.
    pub(super) unicode: bool,
}

impl Look {
    /// For text on standard output.
    pub(super) fn of_stdout() -> Self {
        Self::of(std::io::stdout().is_terminal(), |name| env::var(name).ok())
    }

    /// For text on standard error.
    pub(super) fn of_stderr() -> Self {
        Self::of(std::io::stderr().is_terminal(), |name| env::var(name).ok())
    }

    /// NO_COLOR (no-color.org) beats CLICOLOR_FORCE beats the terminal; the first of LC_ALL, LC_CTYPE and LANG that is set names
    /// the character set.
    fn of(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let forced = set("CLICOLOR_FORCE").is_some_and(|value| value != "0");
        let dumb = set("TERM").is_some_and(|value| value == "dumb");
        let color = set("NO_COLOR").is_none() && (forced || (terminal && !dumb));
        let charset = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
        Self { color, unicode: charset.contains("utf-8") || charset.contains("utf8") }
    }
}

/// Files and folders of trusted roots that stand in place of the system's, as OpenSSL reads them.
pub(super) fn trust() -> Vec<PathBuf> {
    let folders = env::var_os("SSL_CERT_DIR").unwrap_or_default();
    env::var_os("SSL_CERT_FILE").map(PathBuf::from).into_iter().chain(env::split_paths(&folders)).collect()
}

/// The filter of the application log: RUST_LOG where it is set.
pub(super) fn rust_log() -> Option<String> {
    env::var("RUST_LOG").ok().filter(|value| !value.is_empty())
}

/// The sockets that the service manager passed to us (sd_listen_fds(3)), if any. To be called before there are threads.
pub(super) fn passed_sockets() -> PassedSockets {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut passed = ListenFd::from_env();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown"); // as sd_listen_fds_with_names(3)
        let tcp = passed.take_tcp_listener(index).ok().flatten().map(PassedSocket::Tcp);
        match tcp.or_else(|| passed.take_unix_listener(index).ok().flatten().map(PassedSocket::Unix)) {
            Some(socket) => sockets.push((name.into(), socket)),
            None => tracing::warn!(name, "passed over: neither a TCP nor a unix stream socket"),
        }
    }
    PassedSockets::new(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(terminal: bool, variables: &[(&str, &str)]) -> Look {
        Look::of(terminal, |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn colour_is_for_terminals_unless_somebody_says_otherwise() {
        assert!(look(true, &[]).color && !look(false, &[]).color);
        assert!(!look(true, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]).color);
        assert!(look(true, &[("NO_COLOR", "")]).color, "empty counts as not set");
        assert!(look(false, &[("CLICOLOR_FORCE", "1")]).color);
        assert!(!look(true, &[("TERM", "dumb")]).color);
    }

    #[test]
    fn the_first_locale_variable_that_is_set_names_the_character_set() {
        assert!(look(true, &[("LANG", "C.UTF-8")]).unicode && look(true, &[("LC_CTYPE", "de_DE.utf8")]).unicode);
        assert!(!look(true, &[("LC_ALL", "C"), ("LANG", "C.UTF-8")]).unicode && !look(true, &[]).unicode);
    }
}
