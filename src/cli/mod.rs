//! Commands; the only reader of arguments and environment.

pub mod args;

mod ask;
mod change;
mod check;
mod environment;
mod exit;
mod explain;
mod healthcheck;
mod load;
mod log;
mod pages;
mod run;
#[cfg(feature = "top")]
mod top;
mod version;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use exit::Exit;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    execute(std::env::args_os()).into()
}

fn execute(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Explain(args)) => explain::explain(&args),
        Some(Command::Healthcheck(args)) => healthcheck::healthcheck(&args),
        Some(Command::Reload(args)) => change::reload(&args),
        Some(Command::Drain(args)) => change::drain(&args),
        #[cfg(feature = "top")]
        Some(Command::Top(args)) => top::top(&args),
        Some(Command::Schema) => {
            say(&(crate::config::settings::schema() + "\n"));
            Exit::Ok
        }
        Some(Command::Completions(args)) => pages::completions(&args),
        Some(Command::Man(args)) => pages::man(&args),
        Some(Command::Version(args)) => version::version(&args),
    }
}

/// Help and version are what was asked for; everything else is a mistake.
fn usage(error: &clap::Error) -> Exit {
    let _ = error.print(); // standard error closed: nobody is there to be told
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
        _ => Exit::Usage,
    }
}

/// Prints a command's result. A reader that has seen enough (`| head`) is no error.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Says why a command does nothing, on standard error.
fn complain(text: impl std::fmt::Display) {
    eprintln!("egret: {text}");
}
