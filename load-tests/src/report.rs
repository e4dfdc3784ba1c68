//! The report as Markdown: bad figures too.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::Plan;
use crate::contestant::Contestant;
use crate::results::{Memory, Row};
use crate::scenario::Scenario;
use crate::{chart, machine};

/// All that was found, ready to be written.
pub(crate) struct Report<'a> {
    pub(crate) rows: &'a [Row],
    pub(crate) versions: &'a [(Contestant, String)],
    pub(crate) missing: &'a [String],
    pub(crate) plan: &'a Plan,
    /// Both cores were ours alone for this long, or should have been.
    pub(crate) took: Duration,
}

impl Report<'_> {
    /// Writes `RESULTS.md`, `results.svg` and `results-raw.json` into `folder`.
    ///
    /// What an earlier `RESULTS.md` says from "Where the time goes" on was written by people, and stays.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let markdown = folder.join("RESULTS.md");
        let earlier = std::fs::read_to_string(&markdown).unwrap_or_default();
        let by_hand = earlier.find(BY_HAND).map_or(BY_HAND_EMPTY, |at| &earlier[at..]);
        std::fs::write(&markdown, format!("{}{by_hand}", self.document()))?;
        std::fs::write(folder.join("results.svg"), chart::svg(self.rows))?;
        std::fs::write(folder.join("results-raw.json"), serde_json::to_vec_pretty(self.rows)?)
    }

    fn document(&self) -> String {
        let mut text = String::new();
        let date = Command::new("date").args(["-u", "+%F"]).output().map(|output| output.stdout).unwrap_or_default();
        line(&mut text, format!("# Results of {}\n", String::from_utf8_lossy(&date).trim()));
        line(
            &mut text,
            format!(
                "Made by `{}` in {} min; README.md has the method.",
                self.command(),
                self.took.as_secs().div_ceil(60)
            ),
        );
        line(
            &mut text,
            "CPU is that of the proxy's processes, on a core of their own; clients and origin share the other core. \
             Ratios are medians of the ratio within each round.\n",
        );
        for item in machine::summary() {
            line(&mut text, format!("* {item}"));
        }
        let versions: Vec<String> =
            self.versions.iter().map(|(contestant, version)| format!("{} {version}", contestant.name())).collect();
        line(&mut text, format!("* {}", versions.join(", ")));
        if let Some(elsewhere) = median(self.rows.iter().flat_map(Row::elsewhere)) {
            let quiet = if elsewhere <= ELSEWHERE_MAX {
                ""
            } else {
                ": **not quiet**, times are too high and ratios are rough"
            };
            line(
                &mut text,
                format!(
                    "* other processes used {:.0} % of the cores meanwhile (median round){quiet}",
                    elsewhere * 100.0
                ),
            );
        }
        for why in self.missing {
            line(&mut text, format!("* not measured: {why}"));
        }
        line(&mut text, "\n![CPU per operation](results.svg)\n");
        line(&mut text, self.tables());
        line(&mut text, "## The peers' configurations\n");
        line(&mut text, "Templates: `{{…}}` is a port, a file or a folder of the run. `floor` has none.\n");
        for contestant in &self.plan.contestants {
            for (name, template) in contestant.templates() {
                let name = format!("{}: {name}", contestant.name());
                line(
                    &mut text,
                    format!("<details><summary>{name}</summary>\n\n```\n{}\n```\n</details>\n", template.trim_end()),
                );
            }
        }
        text
    }

    /// Aims, one table per scenario, system calls.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        line(&mut text, "## Aims\n");
        line(&mut text, "| aim | wanted | found | |\n| --- | ---: | ---: | --- |");
        for aim in AIMS {
            line(&mut text, self.aim(aim));
        }
        for scenario in self.scenarios() {
            line(&mut text, format!("\n## {}: {}\n", scenario.name(), scenario.title()));
            line(&mut text, if scenario == Scenario::Idle { self.memory() } else { self.work(scenario) });
        }
        line(&mut text, self.calls());
        text
    }

    fn aim(&self, aim: &Aim) -> String {
        let found = self.row(aim.scenario, Contestant::Egret).and_then(|egret| match aim.of {
            Of::Times(peer) => egret.times(self.row(aim.scenario, peer)?),
            Of::Figure => Some(egret.figure()?.median),
            Of::Calls => egret.calls_total(),
            Of::LeftAfterBurst => {
                median(egret.memory.iter().map(|memory| megabytes(memory.after) - megabytes(memory.start)))
            }
        });
        let verdict = match found {
            Some(found) if found <= aim.at_most => "met",
            Some(_) => "**missed**",
            None => "not measured",
        };
        let found = found.map_or_else(|| "–".to_owned(), |found| format!("{found:.2}"));
        format!("| {} | ≤ {} | {found} | {verdict} |", aim.what, aim.at_most)
    }

    fn work(&self, scenario: Scenario) -> String {
        let bulk = matches!(scenario, Scenario::Bulk1 | Scenario::Bulk16);
        let mut text = String::new();
        let rate = if bulk { "GB/s" } else { "operations/s" };
        line(
            &mut text,
            format!(
                "| | {}, median | least | ÷ floor | egret ÷ it | p50 | p99 | {rate} | core busy | |",
                scenario.unit()
            ),
        );
        line(&mut text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
        let (floor, egret) = (self.row(scenario, Contestant::Floor), self.row(scenario, Contestant::Egret));
        for row in self.rows.iter().filter(|row| row.scenario == scenario) {
            let mut cells = vec![row.contestant.name().to_owned()];
            let figure = row.figure();
            cells.push(number(figure.map(|figure| figure.median)));
            cells.push(number(figure.map(|figure| figure.least)));
            cells.push(number(floor.and_then(|floor| row.times(floor))));
            cells.push(number(egret.and_then(|egret| egret.times(row))));
            for percentile in [50.0, 99.0] {
                cells.push(
                    figure.map_or_else(|| "–".to_owned(), |_| duration(row.latency.value_at_percentile(percentile))),
                );
            }
            cells.push(number(row.rate()));
            cells.push(row.busy().map_or_else(|| "–".to_owned(), |busy| format!("{:.0} %", busy * 100.0)));
            cells.push(notes(row));
            line(&mut text, format!("| {} |", cells.join(" | ")));
        }
        text
    }

    fn memory(&self) -> String {
        let mut text = String::new();
        line(
            &mut text,
            "| | tunnels | KB per tunnel, median | least | RSS at start | with the tunnels | 30 s after | back within 8 MB | |",
        );
        line(&mut text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
        for row in self.rows.iter().filter(|row| row.scenario == Scenario::Idle) {
            let resident = |of: fn(&Memory) -> u64| {
                median(row.memory.iter().map(|memory| megabytes(of(memory))))
                    .map_or_else(|| "–".to_owned(), |value| format!("{value:.1} MB"))
            };
            let back = row.memory.iter().map(|memory| memory.back_after).collect::<Option<Vec<_>>>();
            let back = back.and_then(|back| back.into_iter().max());
            let cells = [
                row.contestant.name().to_owned(),
                row.memory.first().map_or_else(|| "–".to_owned(), |memory| memory.tunnels.to_string()),
                number(row.figure().map(|figure| figure.median)),
                number(row.figure().map(|figure| figure.least)),
                resident(|memory| memory.start),
                resident(|memory| memory.open),
                resident(|memory| memory.after),
                back.map_or_else(|| "no".to_owned(), |back| format!("after {:.1} s", back.as_secs_f64())),
                notes(row),
            ];
            line(&mut text, format!("| {} |", cells.join(" | ")));
        }
        text
    }

    /// Per operation, in a round of their own under strace.
    fn calls(&self) -> String {
        let counted: Vec<&Row> = self.rows.iter().filter(|row| row.calls_total().is_some()).collect();
        if counted.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "\n## System calls per operation\n\nCounted by `strace -c -f` in a short round of their own.\n\n",
        );
        let names: BTreeSet<Contestant> = counted.iter().map(|row| row.contestant).collect();
        line(
            &mut text,
            format!("| | {} |", names.iter().map(|contestant| contestant.name()).collect::<Vec<_>>().join(" | ")),
        );
        line(&mut text, format!("| --- |{}", " ---: |".repeat(names.len())));
        for scenario in self.scenarios() {
            let total = |contestant: &Contestant| number(self.row(scenario, *contestant).and_then(Row::calls_total));
            if counted.iter().any(|row| row.scenario == scenario) {
                line(
                    &mut text,
                    format!("| {} | {} |", scenario.name(), names.iter().map(total).collect::<Vec<_>>().join(" | ")),
                );
            }
        }
        text.push('\n');
        for row in counted.iter().filter(|row| matches!(row.contestant, Contestant::Floor | Contestant::Egret)) {
            let Some(Ok(calls)) = &row.calls else { continue };
            let mut calls: Vec<(&String, &f64)> = calls.0.iter().filter(|(_, count)| **count >= 0.01).collect();
            calls.sort_by(|one, other| other.1.total_cmp(one.1));
            let calls: Vec<String> = calls.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
            line(&mut text, format!("* {}, {}: {}", row.scenario.name(), row.contestant.name(), calls.join(", ")));
        }
        text
    }

    fn row(&self, scenario: Scenario, contestant: Contestant) -> Option<&Row> {
        self.rows.iter().find(|row| row.scenario == scenario && row.contestant == contestant)
    }

    fn scenarios(&self) -> BTreeSet<Scenario> {
        self.rows.iter().map(|row| row.scenario).collect()
    }

    fn command(&self) -> String {
        use clap::ValueEnum;
        let mut command = "./load-tests/run.sh".to_owned();
        if self.plan.scenarios.len() < Scenario::value_variants().len() {
            let names: Vec<&str> = self.plan.scenarios.iter().map(|scenario| scenario.name()).collect();
            let _ = write!(command, " --only {}", names.join(","));
        }
        if self.plan.contestants.len() + self.missing.len() < Contestant::value_variants().len() {
            let names: Vec<&str> = self.plan.contestants.iter().map(|contestant| contestant.name()).collect();
            let _ = write!(command, " --contestants {}", names.join(","));
        }
        if self.plan.quick {
            command.push_str(" --quick");
        } else {
            let _ = write!(command, " --rounds {}", self.plan.rounds);
        }
        command
    }
}

/// What the design promises.
struct Aim {
    what: &'static str,
    scenario: Scenario,
    of: Of,
    at_most: f64,
}

enum Of {
    /// egret's figure, in those of this one
    Times(Contestant),
    Figure,
    Calls,
    /// MB of resident memory above the start
    LeftAfterBurst,
}

const AIMS: &[Aim] = &[
    Aim { what: "CONNECT ÷ floor", scenario: Scenario::Connect, of: Of::Times(Contestant::Floor), at_most: 1.2 },
    Aim { what: "CONNECT ÷ squid", scenario: Scenario::Connect, of: Of::Times(Contestant::Squid), at_most: 0.6 },
    Aim {
        what: "plain HTTP ÷ HAProxy with log",
        scenario: Scenario::Http,
        of: Of::Times(Contestant::Haproxy),
        at_most: 1.0,
    },
    Aim {
        what: "TLS origination ÷ nginx",
        scenario: Scenario::TlsOrigination,
        of: Of::Times(Contestant::Nginx),
        at_most: 1.0,
    },
    Aim {
        what: "HTTP/2 CONNECT ÷ Envoy",
        scenario: Scenario::H2Connect,
        of: Of::Times(Contestant::Envoy),
        at_most: 1.0,
    },
    Aim {
        what: "HTTP/2 requests ÷ Envoy", scenario: Scenario::H2Http, of: Of::Times(Contestant::Envoy), at_most: 1.0
    },
    Aim { what: "SNI ÷ nginx", scenario: Scenario::Sni, of: Of::Times(Contestant::Nginx), at_most: 1.0 },
    Aim {
        what: "bulk, 16 tunnels ÷ floor",
        scenario: Scenario::Bulk16,
        of: Of::Times(Contestant::Floor),
        at_most: 0.7,
    },
    Aim { what: "idle tunnel, KB", scenario: Scenario::Idle, of: Of::Figure, at_most: 2.0 },
    Aim {
        what: "RSS 30 s after a burst of tunnels, MB above the start",
        scenario: Scenario::Idle,
        of: Of::LeftAfterBurst,
        at_most: 8.0,
    },
    Aim { what: "system calls per CONNECT", scenario: Scenario::Connect, of: Of::Calls, at_most: 24.0 },
    Aim { what: "system calls per HTTP request", scenario: Scenario::Http, of: Of::Calls, at_most: 4.5 },
];

fn notes(row: &Row) -> String {
    let mut notes = Vec::new();
    if row.blind {
        notes.push("TCP to a fixed target, no CONNECT".to_owned());
    }
    if !row.contestant.logs() {
        notes.push("no log".to_owned());
    } else if !row.rounds.is_empty() && !row.logged {
        notes.push("log not seen".to_owned());
    }
    if row.errors > 0 {
        notes.push(format!("{} errors: {}", row.errors, row.first_error.as_deref().unwrap_or_default()));
    }
    if let Some(Err(error)) = &row.calls {
        notes.push(format!("system calls not counted: {error}"));
    }
    if let Some(failure) = &row.failure {
        notes.push(format!("**failed**: {failure}"));
    }
    notes.join("; ").replace(['\n', '|'], " ")
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 1000.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn duration(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000 => format!("{:.0} µs", nanoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.2} s", nanoseconds as f64 / 1e9),
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn line(text: &mut String, line: impl AsRef<str>) {
    text.push_str(line.as_ref());
    text.push('\n');
}

/// Above this share of all cores, others were at work on the machine.
const ELSEWHERE_MAX: f64 = 0.05;
const BY_HAND: &str = "## Where the time goes";
const BY_HAND_EMPTY: &str = "## Where the time goes\n\nNot written yet.\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Round;

    fn row(contestant: Contestant, micros: u64) -> Row {
        let mut row = Row::new(Scenario::Connect, contestant, false);
        let round = Round {
            operations: 1000,
            bytes: 0,
            cpu: Duration::from_micros(micros * 1000),
            wall: Duration::from_secs(1),
            elsewhere: 0.0,
        };
        row.rounds.push(round);
        row
    }

    fn plan() -> Plan {
        Plan {
            scenarios: vec![Scenario::Connect],
            contestants: vec![Contestant::Floor, Contestant::Egret],
            rounds: 1,
            quick: false,
        }
    }

    #[test]
    fn an_aim_is_met_up_to_its_bound_and_missed_above() {
        for (egret, verdict) in [(120, "| met |"), (121, "| **missed** |")] {
            let rows = [row(Contestant::Floor, 100), row(Contestant::Egret, egret)];
            let report = Report { rows: &rows, versions: &[], missing: &[], plan: &plan(), took: Duration::ZERO };
            let aim = report.aim(&AIMS[0]);
            assert!(aim.contains(verdict), "{egret}: {aim}");
            assert!(report.aim(&AIMS[1]).contains("not measured"));
        }
    }

    #[test]
    fn a_failure_stands_in_its_row() {
        let mut rows = [row(Contestant::Floor, 100)];
        rows[0].fail("answered 503\nnot 200".to_owned());
        let report = Report { rows: &rows, versions: &[], missing: &[], plan: &plan(), took: Duration::ZERO };
        assert!(report.tables().contains("no log; **failed**: answered 503 not 200 |"), "{}", report.tables());
    }

    #[test]
    fn what_was_written_by_hand_stays() {
        let folder = std::env::temp_dir().join(format!("load-tests-report-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let by_hand = "## Where the time goes\n\nIn the kernel.\n";
        std::fs::write(folder.join("RESULTS.md"), format!("# Old\n\n{by_hand}")).expect("written");
        let rows = [row(Contestant::Floor, 100)];
        let report = Report { rows: &rows, versions: &[], missing: &[], plan: &plan(), took: Duration::ZERO };
        report.write(&folder).expect("written");
        let text = std::fs::read_to_string(folder.join("RESULTS.md")).expect("there");
        assert!(text.ends_with(by_hand) && !text.contains("# Old"), "{text}");
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
