//! `egret check`: every error and warning of the whole configuration.

use super::args::{CheckArgs, Format};
use super::environment::Look;
use super::exit::Exit;
use super::{complain, load, say};
use crate::config::{Code, Diagnostics};

pub(super) fn check(args: &CheckArgs) -> Exit {
    if let Some(code) = &args.explain_code {
        return explain_code(code);
    }
    let source = match load::source(&args.config) {
        Ok(source) => source,
        Err(text) => {
            complain(text);
            return Exit::Usage;
        }
    };
    let diagnostics = source.check();
    say(&match args.output {
        Format::Json => diagnostics.to_json() + "\n",
        Format::Text => diagnostics.render(Look::of_stdout().color),
    });
    exit(&diagnostics, args.strict)
}

fn exit(diagnostics: &Diagnostics, strict: bool) -> Exit {
    if diagnostics.input_missing() {
        Exit::NoInput
    } else if diagnostics.errors() > 0 {
        Exit::Data
    } else if strict && diagnostics.warnings() > 0 {
        Exit::Failed
    } else {
        Exit::Ok
    }
}

fn explain_code(text: &str) -> Exit {
    match Code::ALL.iter().find(|code| code.as_str().eq_ignore_ascii_case(text)) {
        Some(code) => {
            say(&format!("{code}: {}\n", code.paragraph()));
            Exit::Ok
        }
        None => {
            complain(format_args!("no diagnostic has the code {text:?}; codes look like {}", Code::ALL[0]));
            Exit::Usage
        }
    }
}
