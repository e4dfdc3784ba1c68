//! An explanation for people: what is asked, the seven stages with the place that decided, the verdict, and what would change it.

use std::fmt::Write;

use super::report::{Decision, Explanation, printable};
use super::stages::{Passed, StageReport};
use crate::cli::environment::Look;

const STAGE_WIDTH: usize = 13; // "authorization"

/// The whole text, ending in a line break.
pub(super) fn render(explanation: &Explanation, look: Look) -> String {
    let mut out = String::new();
    write(&mut out, explanation, Paint(look)).expect("a String takes everything");
    out
}

fn write(out: &mut String, explanation: &Explanation, paint: Paint) -> std::fmt::Result {
    writeln!(out, "{}\n", paint.bold(&explanation.asked))?;
    for stage in &explanation.stages {
        write_stage(out, stage, paint)?;
    }
    writeln!(out, "\n{}", verdict(explanation, paint))?;
    match explanation.decision {
        Decision::Allow => write_facts(out, explanation)?,
        Decision::Deny => write_told(out, explanation)?,
    }
    if let Some(nearest) = &explanation.nearest {
        let at = nearest.at.as_deref().map(|at| format!(" ({at})")).unwrap_or_default();
        writeln!(out, "\nnearest rule: {}{at}; its {} is {}", nearest.rule, nearest.differs_in, nearest.declared)?;
    }
    for (index, suggestion) in explanation.suggestions.iter().enumerate() {
        let lead = if index == 0 { "to allow it, write into" } else { "or into" };
        writeln!(out, "\n{lead} {}:", printable(&suggestion.r#where))?;
        write_indented(out, &suggestion.yaml)?;
    }
    if let Some(expansion) = &explanation.expansion {
        writeln!(out, "\nthe entry of allow stands for:")?;
        write_indented(out, expansion)?;
    }
    Ok(())
}

fn write_stage(out: &mut String, report: &StageReport, paint: Paint) -> std::fmt::Result {
    let (mark, name) = (paint.mark(report.result), report.stage);
    let text = printable(&report.text);
    let text = if report.result == Passed::NotReached { paint.dim(&text) } else { text };
    writeln!(out, "  {mark} {name:STAGE_WIDTH$}  {text}")?;
    match &report.at {
        Some(at) => writeln!(out, "    {:STAGE_WIDTH$}  {}", "", paint.dim(&format!("at {}", printable(at)))),
        None => Ok(()),
    }
}

fn verdict(explanation: &Explanation, paint: Paint) -> String {
    match (explanation.decision, explanation.status) {
        (Decision::Allow, Some(status)) => format!("{}: the client gets {status}", paint.green("allowed")),
        (Decision::Allow, None) => format!("{}: the upstream answers", paint.green("allowed")),
        (Decision::Deny, status) => {
            let answer = match (status, explanation.phrase) {
                (Some(status), Some(phrase)) => format!("the client gets {status} {phrase}"),
                _ => "the connection is closed with the alert unrecognized_name".to_owned(),
            };
            format!("{}: {answer} ({})", paint.red("refused"), explanation.reason.unwrap_or_default())
        }
    }
}

fn write_told(out: &mut String, explanation: &Explanation) -> std::fmt::Result {
    match &explanation.refusal {
        Some(refusal) => writeln!(out, "  because       {}", printable(refusal)),
        None => Ok(()),
    }
}

fn write_facts(out: &mut String, explanation: &Explanation) -> std::fmt::Result {
    if !explanation.endpoints.is_empty() {
        writeln!(out, "  dials         {}", explanation.endpoints.join(", "))?;
    }
    for hop in &explanation.via {
        let credentials = if hop.authorization { ", with credentials" } else { "" };
        let by = if hop.method == "CONNECT" { String::new() } else { format!(" by {}", hop.method) };
        writeln!(out, "  through       {}, asked for {}{by}{credentials}", hop.endpoints.join(", "), hop.asks_for)?;
        if let Some(at) = &hop.at {
            writeln!(out, "                as {} says ({})", printable(&hop.by), printable(at))?;
        }
    }
    if let Some(straight) = &explanation.straight {
        let at = straight.at.as_deref().map(|at| format!(" ({})", printable(at))).unwrap_or_default();
        writeln!(out, "  no parent     as {} says{at}", printable(&straight.by))?;
    }
    if let Some(tls) = &explanation.tls {
        let sni = tls.sni.as_deref().unwrap_or("none");
        writeln!(out, "  TLS           {}, SNI {sni}", tls.mode)?;
    }
    if !explanation.unknown.is_empty() {
        writeln!(out, "  not known     {}", explanation.unknown.join("; "))?;
    }
    Ok(())
}

fn write_indented(out: &mut String, text: &str) -> std::fmt::Result {
    text.lines().try_for_each(|line| writeln!(out, "    {}", printable(line)))
}

/// Colours and marks, as far as the terminal has them.
#[derive(Clone, Copy)]
struct Paint(Look);

impl Paint {
    fn mark(self, result: Passed) -> String {
        let (fancy, plain) = match result {
            Passed::Pass => ("✓", "+"),
            Passed::Refuse => ("✗", "x"),
            Passed::Unknown => ("?", "?"),
            Passed::NotReached => ("·", "."),
        };
        let mark = if self.0.unicode { fancy } else { plain };
        match result {
            Passed::Pass => self.green(mark),
            Passed::Refuse => self.red(mark),
            Passed::Unknown => self.wrap("33", mark),
            Passed::NotReached => self.dim(mark),
        }
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
