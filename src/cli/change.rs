//! `egret reload`, `egret drain`: over the admin port, which answers with what came of it; a signal cannot.

use serde_json::Value;

use super::args::{ChangeArgs, Format};
use super::ask::{AdminClient, Answer};
use super::exit::Exit;
use super::{complain, say};

/// 0: the new configuration is in force; 78: it has errors, and the old one stays.
pub(super) fn reload(args: &ChangeArgs) -> Exit {
    change(args, "/reload", |report| {
        let number = |name: &str| report[name].as_u64().unwrap_or_default();
        let mut text = format!("reloaded: generation {}", number("generation"));
        if number("revoked") > 0 {
            text += &format!(", {} open tunnels are no longer allowed", number("revoked"));
        }
        text
    })
}

/// 0: the end has begun.
pub(super) fn drain(args: &ChangeArgs) -> Exit {
    change(args, "/drain", |report| {
        let tunnels = report["tunnels"].as_u64().unwrap_or_default();
        match report["deadline_s"].as_f64() {
            Some(seconds) => format!("draining: {tunnels} tunnels have {seconds} s"),
            None => format!("draining: {tunnels} tunnels"),
        }
    })
}

fn change(args: &ChangeArgs, path: &str, describe: impl Fn(&Value) -> String) -> Exit {
    let answer = match AdminClient::find(&args.admin).and_then(|admin| admin.post(path, args.timeout)) {
        Ok(answer) => answer,
        Err(error) => {
            complain(error);
            return Exit::Unavailable;
        }
    };
    let exit = exit(&answer);
    let report: Option<Value> = serde_json::from_slice(&answer.body).ok();
    match (report, args.output) {
        (Some(_), Format::Json) => say(&(answer.text().trim_end().to_owned() + "\n")),
        (Some(report), Format::Text) if exit == Exit::Ok => say(&(describe(&report) + "\n")),
        (Some(report), Format::Text) => {
            let errors = report["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
            errors.for_each(|error| eprintln!("{error}"));
            complain("not reloaded, the old configuration stays");
        }
        (None, _) => complain(format_args!("{} {}", answer.status, answer.text().trim())),
    }
    exit
}

fn exit(answer: &Answer) -> Exit {
    match answer.status {
        200..=299 => Exit::Ok,
        401 | 403 => Exit::Permission,
        422 => Exit::Config,
        _ => Exit::Unavailable,
    }
}
