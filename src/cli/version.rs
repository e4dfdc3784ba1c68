//! `egret version`.

use serde::Serialize;

use super::args::VersionArgs;
use super::exit::Exit;
use super::say;

/// What `egret version --json` prints.
#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    os: &'static str,
    arch: &'static str,
    features: &'static [&'static str],
}

const VERSION: Version = Version {
    name: env!("CARGO_PKG_NAME"),
    version: env!("CARGO_PKG_VERSION"),
    os: std::env::consts::OS,
    arch: std::env::consts::ARCH,
    features: if cfg!(feature = "top") { &["top"] } else { &[] },
};

pub(super) fn version(args: &VersionArgs) -> Exit {
    let Version { name, version, .. } = VERSION;
    say(&match args.json {
        true => serde_json::to_string(&VERSION).expect("text and lists of text are JSON") + "\n",
        false => format!("{name} {version}\n"), // as `egret --version`
    });
    Exit::Ok
}
