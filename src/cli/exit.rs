//! Exit codes: sysexits.h where it has a word for it.

use std::process::ExitCode;

/// How a command ended, as the shell sees it (CONTRACT "Command line").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; `run` stopped in order, `explain` says allowed.
    Ok = 0,
    /// `check --strict` found warnings; `run` was ended by a second signal; `healthcheck` got no yes.
    Failed = 1,
    /// `explain` says refused.
    Refused = 3,
    /// EX_USAGE: the command line is wrong (where clap says 2).
    Usage = 64,
    /// EX_DATAERR: `check` found errors.
    Data = 65,
    /// EX_NOINPUT: a file named on the command line is not there.
    NoInput = 66,
    /// EX_UNAVAILABLE: an address cannot be bound; a sandbox is required and cannot be had.
    Unavailable = 69,
    /// EX_SOFTWARE: a bug of ours, or a kernel that refuses the ordinary.
    Software = 70,
    /// EX_CANTCREAT: an output file cannot be written.
    CannotCreate = 73,
    /// EX_NOPERM: not permitted to bind.
    Permission = 77,
    /// EX_CONFIG: the configuration has errors.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
