//! The command line as typed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::config::read::parse_duration;
use crate::flow::ListenAddress;

/// An egress proxy and egress gateway driven by Istio's own resources.
#[derive(Debug, Parser)]
#[command(
    name = "egret",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true // `egret -c x check` would check something else than x
)]
pub struct Cli {
    /// What to do; `run` when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `run`, when no command is named.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Run(RunArgs),
    /// Report every error and warning of the whole configuration
    Check(CheckArgs),
    /// Say how a flow would be handled, stage by stage, and which rule decides
    Explain(ExplainArgs),
    /// Ask a running proxy whether it takes new work: exit 0 if so, 1 if not (for HEALTHCHECK of a container)
    Healthcheck(HealthcheckArgs),
    /// Have a running proxy read its configuration again, and say what came of it
    Reload(ChangeArgs),
    /// Have a running proxy end in order, as SIGTERM does
    Drain(ChangeArgs),
    /// Watch the tunnels of a running proxy
    #[cfg(feature = "top")]
    Top(TopArgs),
    /// Print the JSON Schema of the settings file, for editors
    Schema,
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(ManArgs),
    /// Print the version
    Version(VersionArgs),
}

/// Where the configuration is.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Settings file
    #[arg(short, long, value_name = "EGRET.YAML", env = "EGRET_CONFIG")]
    pub config: Option<PathBuf>,
    /// Resources: a file or folder, for a namespace other than `default` written NAMESPACE=PATH; may be repeated
    #[arg(short = 'f', long = "file", value_name = "[NAMESPACE=]PATH")]
    pub files: Vec<String>,
}

/// Options of `egret run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Address of the first forward listener, in place of the one in the settings: IP:PORT, unix:/PATH or fd:NAME
    #[arg(long, value_name = "ADDR", env = "EGRET_LISTEN")]
    pub listen: Option<ListenAddress>,
    /// Address of the admin port, `unix:PATH` for a socket of our own user, or `off`
    #[arg(long, value_name = "ADDR|unix:PATH|off", env = "EGRET_ADMIN")]
    pub admin: Option<String>,
    /// Let flows reach these addresses although they are special (loopback, private …); may be repeated
    #[arg(long, value_name = "CIDR", value_parser = parse_net, env = "EGRET_ALLOW_ADDRESS", value_delimiter = ',')]
    pub allow_address: Vec<IpNet>,
    /// Application log on stderr: error, warn, info, debug or trace; RUST_LOG wins
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "EGRET_LOG_LEVEL")]
    pub log_level: String,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Options of `egret check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Exit with 1 if there are warnings
    #[arg(long, env = "EGRET_STRICT")]
    pub strict: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t, env = "EGRET_OUTPUT")]
    pub output: Format,
    /// Print what a diagnostic code means, and nothing else
    #[arg(long, value_name = "CODE")]
    pub explain_code: Option<String>,
}

/// Options of `egret explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// host:port (a CONNECT), or a URL
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// The client's address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub client: IpAddr,
    /// The user the client authenticated as
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The SNI of the client's first bytes
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// The listener that the flow comes through, by name; default: the first one
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// The method of an HTTP request
    #[arg(short = 'X', long = "method", value_name = "METHOD")]
    pub method: Option<String>,
    /// A header of an HTTP request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Let flows reach these addresses although they are special, as with `run`
    #[arg(long, value_name = "CIDR", value_parser = parse_net)]
    pub allow_address: Vec<IpNet>,
    /// Ask DNS for the addresses and judge them too
    #[arg(long)]
    pub resolve: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t, env = "EGRET_OUTPUT")]
    pub output: Format,
}

/// Options of `egret healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Which proxy is meant.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How long to wait for its answer
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "2s", env = "EGRET_TIMEOUT")]
    pub timeout: Duration,
}

/// Options of `egret reload` and `egret drain`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Which proxy is meant.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t, env = "EGRET_OUTPUT")]
    pub output: Format,
    /// How long to wait for the answer; what was asked for goes on
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "2m", env = "EGRET_TIMEOUT")]
    pub timeout: Duration,
}

/// Options of `egret top`.
#[cfg(feature = "top")]
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Which proxy is meant.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How often to ask it
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "1s", env = "EGRET_INTERVAL")]
    pub interval: Duration,
}

/// Where a running proxy's admin port is.
#[derive(Clone, Debug, Default, Args)]
pub struct AdminArgs {
    /// Address of the admin port, or unix:/path; default: what the settings say
    #[arg(long, value_name = "ADDR", env = "EGRET_ADMIN")]
    pub admin: Option<String>,
    /// File with the token that lets us change something over TCP; default: what the settings say
    #[arg(long, value_name = "FILE", env = "EGRET_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Settings file of that proxy
    #[arg(short, long, value_name = "EGRET.YAML", env = "EGRET_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Options of `egret completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}

/// Options of `egret man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write egret.1 and a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Options of `egret version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// A wait of at least a millisecond, at most an hour.
fn parse_wait(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(1)..=Duration::from_secs(3600);
    parse_duration(text)
        .filter(|wait| bounds.contains(wait))
        .ok_or_else(|| format!("{text:?} is not a duration from 1ms to 1h, such as 2s"))
}

/// A network, or a single address.
fn parse_net(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an address nor a network such as 10.0.0.0/8"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_at_all_means_run() {
        let cli = Cli::try_parse_from(["egret", "--listen", "127.0.0.1:0", "--allow-address", "10.0.0.1"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.listen, Some("127.0.0.1:0".parse().unwrap()));
        assert_eq!(cli.run.allow_address, ["10.0.0.1/32".parse().unwrap()]);
    }
}
