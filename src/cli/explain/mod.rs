//! `egret explain`: how a flow would be handled, stage by stage, by the data plane's own function.

mod answer;
mod consistency;
mod plan;
mod question;
mod report;
mod stages;
mod suggest;
mod text;

use self::answer::{Answers, Asking};
use self::question::{NoQuestion, Question};
use self::report::{Decision, Explanation};
use super::args::{ExplainArgs, Format};
use super::environment::Look;
use super::exit::Exit;
use super::{complain, load, say};
use crate::accept::ListenerSettings;
use crate::admin::Address;
use crate::app::parts::Parts;
use crate::dial::{Dialer, OwnListeners, ResolveError};
use crate::flow::{Failure, Name};
use crate::http1::HeadLimits;

pub(super) fn explain(args: &ExplainArgs) -> Exit {
    let parts = match load::parts_of_explain(args) {
        Ok(parts) => parts,
        Err(exit) => return exit,
    };
    let Some(listener) = listener(&parts, args.listener.as_deref()) else {
        let names: Vec<&str> = parts.listeners.iter().map(|wanted| wanted.settings.name.name.as_str()).collect();
        complain(format_args!("no such listener; there are: {}", names.join(", ")));
        return Exit::Usage;
    };
    let limits = HeadLimits { bytes: parts.limits.head_bytes, fields: parts.limits.head_fields };
    let (kind, port) = (listener.name.kind, listener.sni_port);
    let question = match Question::read(&args.target, args.method.as_deref(), &args.headers, (kind, port), &limits) {
        Ok(question) => Ok(question),
        Err(NoQuestion::Refused(failure)) => Err(failure),
        Err(NoQuestion::Usage(text)) => {
            complain(text);
            return Exit::Usage;
        }
    };
    let mut explanation = ask(args, &parts, listener, &question, &Answers::new());
    if args.resolve && !explanation.names.is_empty() {
        match resolve(&parts, &explanation.names) {
            Ok(answers) => explanation = ask(args, &parts, listener, &question, &answers),
            Err(text) => {
                complain(text);
                return Exit::Config;
            }
        }
    }
    print(&explanation, args.output);
    match explanation.decision {
        Decision::Allow => Exit::Ok,
        Decision::Deny => Exit::Refused,
    }
}

fn ask(
    args: &ExplainArgs,
    parts: &Parts,
    listener: &ListenerSettings,
    question: &Result<Question, Failure>,
    answers: &Answers,
) -> Explanation {
    let proxies = parts.listeners.iter().filter_map(|wanted| wanted.address.inet()).collect();
    let own = OwnListeners { proxies, admin: parts.admin.as_ref().and_then(Address::tcp) };
    let asking = Asking {
        listener,
        client: args.client.to_canonical(),
        user: args.user.as_deref(),
        sni: args.sni.as_deref(),
        snapshot: &parts.snapshot,
        own: &own,
        answers,
        expansion: &|origin| parts.expansion(origin),
    };
    asking.explain(&args.target, question.clone())
}

/// The listener of that name; the first one where none is named.
fn listener<'a>(parts: &'a Parts, name: Option<&str>) -> Option<&'a ListenerSettings> {
    let mut settings = parts.listeners.iter().map(|wanted| &wanted.settings);
    match name {
        None => settings.next(),
        Some(name) => settings.find(|settings| settings.name.name == name),
    }
}

/// Asks DNS as the proxy would.
fn resolve(parts: &Parts, names: &[Name]) -> Result<Answers, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start the runtime: {error}"))?;
    runtime.block_on(async {
        let dialer = Dialer::new(parts.dial.clone())?;
        let mut answers = Answers::new();
        for name in names {
            let addresses = dialer.addresses(name).await;
            let failed = |error: ResolveError| Failure::new(error.error_type(), format!("{name}: {error}"));
            answers.insert(name.clone(), addresses.map_err(failed));
        }
        Ok(answers)
    })
}

fn print(explanation: &Explanation, output: Format) {
    say(&match output {
        Format::Json => serde_json::to_string_pretty(explanation).expect("text and numbers only") + "\n",
        Format::Text => text::render(explanation, Look::of_stdout()),
    });
}
