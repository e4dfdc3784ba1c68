//! `egret run`: the proxy.

use std::io;

use super::args::RunArgs;
use super::environment::Look;
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
    match app::run(source, move |addresses| announce(addresses, bare)) {
        Ok(End::Drained) => Exit::Ok,
        Ok(End::Forced) => Exit::Failed,
        Err(error) => failed(&error),
    }
}

/// Not through the log: who starts us reads the ports from here, whatever RUST_LOG says.
fn announce(addresses: &Addresses, bare: bool) {
    eprintln!("{addresses}");
    if let (true, Some((_, address))) = (bare, addresses.listeners.first()) {
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
                StartError::Bind(_) => Exit::Unavailable,
                StartError::Runtime(_) => Exit::Software,
                StartError::Configuration(_) | StartError::Dial(_) | StartError::Account(_) => Exit::Config,
            }
        }
    }
}
