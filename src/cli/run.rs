//! `egret run`: the proxy.

use std::io;

use super::args::RunArgs;
use super::environment::{self, Look};
use super::exit::Exit;
use super::{complain, load, log};
use crate::app::listeners::BindError;
use crate::app::{self, Addresses, End, StartError};

pub(super) fn run(args: &RunArgs) -> Exit {
    if let Err(text) = log::start(&args.log_level) {
        complain(text);
        return Exit::Usage;
    }
    let source = match load::source_of_run(args) {
        Ok(source) => source,
        Err(text) => {
            complain(text);
            return Exit::Usage;
        }
    };
    let bare = args.config.config.is_none() && args.config.files.is_empty();
    let (trust, passed) = (environment::trust(), environment::passed_sockets());
    match app::run(source, &trust, passed, move |addresses| announce(addresses, bare)) {
        Ok(End::Drained) => Exit::Ok,
        Ok(End::Forced) => Exit::Failed,
        Err(error) => failed(&error),
    }
}

/// Not through the log: who starts us reads the ports from here, whatever RUST_LOG says.
fn announce(addresses: &Addresses, bare: bool) {
    eprintln!("{addresses}");
    if let (true, Some((_, address))) = (bare, addresses.listeners.first())
        && let Some(address) = address.inet()
    {
        eprintln!("try: curl -x http://{address} https://example.com/");
    }
}

fn failed(error: &StartError) -> Exit {
    match error {
        StartError::Configuration(diagnostics) => {
            eprint!("{}", diagnostics.render(Look::of_stderr().color));
            if diagnostics.input_missing() { Exit::NoInput } else { Exit::Config }
        }
        error => {
            complain(app::chain(error));
            match error {
                StartError::Bind(BindError { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                    Exit::Permission
                }
                StartError::Bind(_) | StartError::Sandbox(_) => Exit::Unavailable,
                StartError::Runtime(_) => Exit::Software,
                StartError::Configuration(_) | StartError::Dial(_) | StartError::Account(_) => Exit::Config,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_bound_is_69_and_what_may_not_be_bound_77() {
        let exit = |kind: io::ErrorKind| {
            let (what, address) = ("listener proxy".to_owned(), "127.0.0.1:80".to_owned());
            failed(&StartError::Bind(BindError { what, address, source: kind.into() }))
        };
        assert_eq!(exit(io::ErrorKind::PermissionDenied), Exit::Permission);
        assert_eq!(exit(io::ErrorKind::AddrInUse), Exit::Unavailable);
        assert_eq!((Exit::Permission as u8, Exit::Unavailable as u8), (77, 69));
    }
}
