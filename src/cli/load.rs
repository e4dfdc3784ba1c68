//! From arguments to a configuration.

use std::path::PathBuf;

use super::args::{ConfigArgs, ExplainArgs, RunArgs};
use super::complain;
use super::environment::Look;
use super::exit::Exit;
use crate::app::parts::{ConfigurationSource, Parts};
use crate::config::Overrides;
use crate::config::settings::{Admin, ResourceInput};

/// The configuration of `run`.
///
/// # Errors
/// A sentence on an argument that makes no sense.
pub(super) fn source_of_run(args: &RunArgs) -> Result<ConfigurationSource, String> {
    let admin = args.admin.as_deref().map(str::parse::<Admin>).transpose();
    let admin = admin.map_err(|error| format!("--admin: {error}"))?;
    let overrides = Overrides { listen: args.listen, admin, allow_addresses: args.allow_address.clone() };
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
    let resources = args.files.iter().map(|text| resource_input(text)).collect::<Result<_, _>>()?;
    Ok(ConfigurationSource::new(args.config.clone(), resources, overrides))
}

/// Reads `[NAMESPACE=]PATH`. A path may have a `=` in it, unless what stands before reads as a namespace: `./a=b.yaml` helps then.
fn resource_input(text: &str) -> Result<ResourceInput, String> {
    let (namespace, path) = match text.split_once('=') {
        Some((namespace, path)) if is_label(namespace) => (Some(namespace.into()), path),
        _ => (None, text),
    };
    if path.is_empty() {
        return Err(format!("-f {text:?}: expected a path, or NAMESPACE=PATH"));
    }
    Ok(ResourceInput { path: PathBuf::from(path), namespace })
}

/// RFC 1123 label, as Kubernetes names namespaces.
fn is_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_stands_before_the_path() {
        let read = |text| resource_input(text).map(|input| (input.namespace, input.path));
        assert_eq!(read("a.yaml"), Ok((None, "a.yaml".into())));
        assert_eq!(read("team-1=a=b"), Ok((Some("team-1".into()), "a=b".into())));
        assert_eq!(read("./a=b"), Ok((None, "./a=b".into())));
        assert_eq!(read("Team=b"), Ok((None, "Team=b".into())));
        assert!(read("").is_err() && read("ns=").is_err());
    }
}
