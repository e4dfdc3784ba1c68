//! From arguments to a configuration.

use super::args::{ConfigArgs, ExplainArgs, RunArgs};
use super::complain;
use super::environment::Look;
use super::exit::Exit;
use crate::app::parts::{ConfigurationSource, Parts};
use crate::config::settings::Admin;
use crate::config::{Overrides, Sources};

/// The configuration of `run`.
///
/// # Errors
/// A sentence on an argument that makes no sense.
pub(super) fn source_of_run(args: &RunArgs) -> Result<ConfigurationSource, String> {
    let admin = args.admin.as_deref().map(str::parse::<Admin>).transpose();
    let admin = admin.map_err(|error| format!("--admin: {error}"))?;
    let overrides = Overrides { listen: args.listen.clone(), admin, allow_addresses: args.allow_address.clone() };
    with_overrides(&args.config, overrides)
}

/// The configuration of commands that take nothing but its place.
///
/// # Errors
/// As [`source_of_run`].
pub(super) fn source(args: &ConfigArgs) -> Result<ConfigurationSource, String> {
    with_overrides(args, Overrides::default())
}

/// The configuration of `explain`, loaded; what is wrong has been printed.
///
/// # Errors
/// How to exit.
pub(super) fn parts_of_explain(args: &ExplainArgs) -> Result<Parts, Exit> {
    let overrides = Overrides { allow_addresses: args.allow_address.clone(), ..Overrides::default() };
    let source = with_overrides(&args.config, overrides).map_err(|text| {
        complain(text);
        Exit::Usage
    })?;
    source.load().map_err(|diagnostics| {
        eprint!("{}", diagnostics.render(Look::of_stderr().color));
        if diagnostics.input_missing() { Exit::NoInput } else { Exit::Config }
    })
}

fn with_overrides(args: &ConfigArgs, overrides: Overrides) -> Result<ConfigurationSource, String> {
    let resources = args.files.iter().map(|argument| Sources::split_file_argument(argument)).collect::<Vec<_>>();
    if let Some(index) = resources.iter().position(|(_, path)| path.as_os_str().is_empty()) {
        return Err(format!("-f {:?}: expected a path, or NAMESPACE=PATH", args.files[index]));
    }
    Ok(ConfigurationSource::new(Sources { settings: args.config.clone(), resources, overrides }))
}
