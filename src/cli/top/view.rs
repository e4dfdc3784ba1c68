//! What `egret top` shows, and what keys do.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};
use serde::Deserialize;

use super::refusals::{self, Refused};

/// What the admin port says of the open tunnels.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Listing {
    open: u64,
    matching: u64,
    tunnels: Vec<Tunnel>,
}

#[derive(Clone, Debug, Deserialize)]
struct Tunnel {
    id: u64,
    client: String,
    identity: Option<String>,
    target: String,
    cluster: String,
    rule: Option<Rule>,
    hop: Option<String>,
    age_s: f64,
    received_bytes: u64,
    sent_bytes: u64,
    received_rate: f64,
    sent_rate: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rule {
    resource: String,
    at: Option<String>,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{} at {at}", self.resource),
            None => f.write_str(&self.resource),
        }
    }
}

/// Flows that were refused, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusals(BTreeMap<String, u64>);

/// One look at the proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) listing: Listing,
    pub(super) refused: Refused,
    pub(super) refusals: Refusals,
}

/// Which tunnels are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    sort: &'static str,
    ascending: bool,
    filter: String,
}

/// What comes after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The screen is drawn anew.
    Stay,
    /// Something else is wanted of the proxy.
    Ask,
    Quit,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct View {
    admin: String,
    color: bool,
    sample: Sample,
    /// What was refused when we began.
    at_start: Option<Refusals>,
    problem: Option<String>,
    wanted: Wanted,
    /// The filter while it is typed.
    typing: Option<String>,
    table: TableState,
    /// What is refused is shown, in place of the tunnels; and where its cursor is.
    shows_refusals: bool,
    refusals: TableState,
}

const ROWS: usize = 200; // more than any screen has
const FILTER_CHARACTERS_MAX: usize = 100;
const SORTS: [(char, &str); 5] = [('r', "rate"), ('b', "bytes"), ('a', "age"), ('t', "target"), ('c', "client")];

impl Default for Wanted {
    fn default() -> Self {
        Self { sort: "rate", ascending: false, filter: String::new() }
    }
}

impl Wanted {
    /// As the admin port is asked for it.
    pub(super) fn path(&self) -> String {
        let order = if self.ascending { "asc" } else { "desc" };
        let mut path = format!("/tunnels?sort={}&order={order}&limit={ROWS}&filter=", self.sort);
        for byte in self.filter.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => path.push(char::from(byte)),
                _ => path += &format!("%{byte:02X}"),
            }
        }
        path
    }
}

impl Refusals {
    /// Reads them from the text of `/metrics`.
    pub(super) fn of(metrics: &str) -> Self {
        let mut refusals = Self::default();
        for line in metrics.lines() {
            let Some(labels) = line.strip_prefix("egret_flows_total{") else { continue };
            let Some((labels, value)) = labels.split_once("} ") else { continue };
            let reason = labels.split(',').find_map(|label| label.strip_prefix("reason=\"")?.strip_suffix('"'));
            let count = value.split(' ').next().and_then(|value| value.parse::<u64>().ok());
            if let (Some(reason), Some(count)) = (reason, count)
                && !ORDINARY.contains(&reason)
            {
                *refusals.0.entry(reason.to_owned()).or_default() += count;
            }
        }
        refusals.0.retain(|_, count| *count > 0);
        refusals
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

const ORDINARY: [&str; 2] = ["complete", "abandoned"]; // ends that are nobody's refusal

impl View {
    pub(super) fn new(admin: String, color: bool) -> Self {
        Self {
            admin,
            color,
            sample: Sample::default(),
            at_start: None,
            problem: Some("asking".to_owned()),
            wanted: Wanted::default(),
            typing: None,
            table: TableState::default(),
            shows_refusals: false,
            refusals: TableState::default(),
        }
    }

    pub(super) fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    /// Takes an answer, or why there is none; what was shown stays.
    pub(super) fn take(&mut self, sample: Result<Sample, String>) {
        match sample {
            Ok(sample) => {
                self.at_start.get_or_insert_with(|| sample.refusals.clone());
                self.problem = None;
                // The cursor stays with its tunnel, wherever that has moved to.
                let id = self.selected().map(|tunnel| tunnel.id);
                self.sample = sample;
                let tunnels = &self.sample.listing.tunnels;
                let there = id.and_then(|id| tunnels.iter().position(|tunnel| tunnel.id == id));
                self.table.select(there);
            }
            Err(problem) => self.problem = Some(problem),
        }
    }

    fn selected(&self) -> Option<&Tunnel> {
        self.sample.listing.tunnels.get(self.table.selected()?)
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Step::Quit;
        }
        if let Some(mut typed) = self.typing.take() {
            match key.code {
                KeyCode::Enter => {
                    self.wanted.filter = typed;
                    return Step::Ask;
                }
                KeyCode::Esc => return Step::Stay,
                KeyCode::Backspace => _ = typed.pop(),
                KeyCode::Char(character) if typed.chars().count() < FILTER_CHARACTERS_MAX => typed.push(character),
                _ => {}
            }
            self.typing = Some(typed);
            return Step::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('/') => self.typing = Some(self.wanted.filter.clone()),
            KeyCode::Esc if !self.wanted.filter.is_empty() => {
                self.wanted.filter.clear();
                return Step::Ask;
            }
            KeyCode::Tab => self.shows_refusals = !self.shows_refusals,
            KeyCode::Char('o') => {
                self.wanted.ascending = !self.wanted.ascending;
                return Step::Ask;
            }
            KeyCode::Down | KeyCode::Char('j') => self.cursor().select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.cursor().select_previous(),
            KeyCode::Home | KeyCode::Char('g') => self.cursor().select_first(),
            KeyCode::End | KeyCode::Char('G') => self.cursor().select_last(),
            KeyCode::Char(key) => {
                if let Some((_, sort)) = SORTS.iter().find(|(sort, _)| *sort == key) {
                    self.wanted.sort = sort;
                    return Step::Ask;
                }
            }
            _ => {}
        }
        Step::Stay
    }

    fn cursor(&mut self) -> &mut TableState {
        if self.shows_refusals { &mut self.refusals } else { &mut self.table }
    }

    /// Draws all of it; 80 columns and 24 lines are enough.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let areas =
            Layout::vertical([Constraint::Length(2), Constraint::Min(3), Constraint::Length(2), Constraint::Length(1)]);
        let [head, body, detail, keys] = areas.areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        if self.shows_refusals {
            let rules = self.sample.refused.by_rule();
            frame.render_stateful_widget(refusals::table(&rules), body, &mut self.refusals);
            let selected = self.refusals.selected().and_then(|index| rules.get(index));
            frame.render_widget(Paragraph::new(selected.map(refusals::detail).unwrap_or_default()), detail);
        } else {
            let table = self.tunnels();
            frame.render_stateful_widget(table, body, &mut self.table);
            frame.render_widget(Paragraph::new(self.detail()), detail);
        }
        frame.render_widget(Paragraph::new(self.keys()), keys);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let Listing { open, matching, tunnels } = &self.sample.listing;
        let rate = |of: fn(&Tunnel) -> f64| amount(tunnels.iter().map(of).sum());
        let filter = match self.wanted.filter.as_str() {
            "" => String::new(),
            filter => format!(", {matching} with \"{filter}\""),
        };
        let first = match &self.problem {
            Some(problem) => Line::styled(format!("egret {}  {problem}", self.admin), self.paint(Color::Red)),
            None => Line::from(format!(
                "egret {}  {open} open{filter}  in {}/s  out {}/s",
                self.admin,
                rate(|tunnel| tunnel.received_rate),
                rate(|tunnel| tunnel.sent_rate)
            )),
        };
        let before = self.at_start.as_ref().map_or(0, Refusals::total);
        let refusals = &self.sample.refusals;
        let mut most: Vec<_> = refusals.0.iter().collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let most: Vec<String> = most.iter().take(3).map(|(reason, count)| format!("{reason} {count}")).collect();
        let new = refusals.total().saturating_sub(before);
        let second = format!("not served {} (+{new})  {}", refusals.total(), most.join("  "));
        vec![first, Line::styled(second, if new > 0 { self.paint(Color::Yellow) } else { Style::new() })]
    }

    fn tunnels(&self) -> Table<'static> {
        let rows = self.sample.listing.tunnels.iter().map(|tunnel| {
            let client = tunnel.client.rsplit_once(':').map_or(tunnel.client.as_str(), |(address, _)| address);
            Row::new([
                Cell::from(tunnel.target.clone()),
                Cell::from(tunnel.identity.clone().unwrap_or_else(|| client.to_owned())),
                Cell::from(format!("{:>6}", age(tunnel.age_s))),
                Cell::from(format!("{:>8}", amount(tunnel.received_rate))),
                Cell::from(format!("{:>8}", amount(tunnel.sent_rate))),
                Cell::from(format!("{:>8}", amount((tunnel.received_bytes + tunnel.sent_bytes) as f64))),
            ])
        });
        let widths = [
            Constraint::Min(20),
            Constraint::Length(18),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        let order = if self.wanted.ascending { "^" } else { "v" };
        let titles = [("target", "TARGET"), ("client", "CLIENT"), ("age", "AGE"), ("rate", "IN/s"), ("", "OUT/s")];
        let titles = titles.into_iter().chain([("bytes", "BYTES")]).enumerate().map(|(index, (sort, title))| {
            let title = if sort == self.wanted.sort { format!("{title}{order}") } else { title.to_owned() };
            match index {
                0 | 1 => title,
                2 => format!("{title:>6}"),
                _ => format!("{title:>8}"),
            }
        });
        Table::new(rows, widths)
            .header(Row::new(titles.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
    }

    /// The tunnel under the cursor, in full.
    fn detail(&self) -> Vec<Line<'static>> {
        let Some(tunnel) = self.selected() else { return Vec::new() };
        let rule = match &tunnel.rule {
            Some(rule) => rule.to_string(),
            None => "no rule allows it any more".to_owned(),
        };
        let hop = tunnel.hop.as_ref().map(|hop| format!(" through {hop}")).unwrap_or_default();
        let first = format!("#{} {} -> {}{hop}  {}", tunnel.id, tunnel.client, tunnel.target, tunnel.cluster);
        vec![Line::from(first), Line::from(format!("allowed by {rule}"))]
    }

    fn keys(&self) -> Line<'static> {
        match &self.typing {
            Some(typed) => Line::from(format!("filter: {typed}_   Enter applies, Esc leaves it")),
            None => Line::styled(
                "q quit  Tab refused  r rate b bytes a age t target c client  o order  / filter",
                self.paint(Color::DarkGray),
            ),
        }
    }

    /// A colour, unless none is wanted.
    fn paint(&self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }
}

/// `1.5K`, `20M`: four characters at most and a unit.
fn amount(number: f64) -> String {
    let mut number = number.max(0.0);
    for unit in ["", "K", "M", "G", "T"] {
        if number < 999.5 {
            return if number < 9.95 && !unit.is_empty() {
                format!("{number:.1}{unit}")
            } else {
                format!("{number:.0}{unit}")
            };
        }
        number /= 1000.0;
    }
    format!("{number:.0}P")
}

/// `12s`, `3m05`, `2h10`, `4d`.
fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn sample(targets: &[(u64, &str)]) -> Sample {
        let tunnels: Vec<serde_json::Value> = targets
            .iter()
            .map(|(id, target)| {
                serde_json::json!({
                    "id": id, "client": "10.1.2.3:40000", "identity": null, "target": target, "cluster": "outbound|443||x",
                    "rule": { "route": "r", "resource": "ServiceEntry default/x", "at": "x.yaml:3:1" }, "hop": null,
                    "age_s": 65.0, "received_bytes": 1500, "sent_bytes": 2_000_000, "received_rate": 10.0, "sent_rate": 123_456.0,
                    "listener": "proxy", "later": "additions do no harm",
                })
            })
            .collect();
        let open = tunnels.len();
        let listing = serde_json::json!({ "open": open, "matching": open, "offset": 0, "tunnels": tunnels });
        let metrics = "# TYPE egret_flows counter\negret_flows_total{kind=\"connect\",reason=\"complete\"} 7\n\
                       egret_flows_total{kind=\"connect\",reason=\"http_request_denied\"} 2\n\
                       egret_flows_total{kind=\"http\",reason=\"http_request_denied\"} 1\n";
        let refused = serde_json::json!({ "refusals": [{
            "target": "evil.example:443", "listener": "proxy", "client": "10.1.2.3", "reason": "not_found", "times": 3,
            "detail": "no rule names it", "rule": { "resource": "mesh.outboundTrafficPolicy", "at": "egret.yaml:1:9" },
        }] });
        let refused = serde_json::from_value(refused).unwrap();
        Sample { listing: serde_json::from_value(listing).unwrap(), refused, refusals: Refusals::of(metrics) }
    }

    fn screen(view: &mut View, columns: u16, lines: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let cells: Vec<String> = buffer.content().iter().map(|cell| cell.symbol().to_owned()).collect();
        cells.chunks(columns.into()).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    fn press(view: &mut View, keys: &str) -> Step {
        let code = |key| match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            key => KeyCode::Char(key),
        };
        keys.chars().map(|key| view.press(KeyEvent::from(code(key)))).last().unwrap()
    }

    #[test]
    fn everything_fits_80_columns_and_24_lines() {
        let mut view = View::new("127.0.0.1:15000".to_owned(), false);
        view.take(Ok(sample(&[(1, "api.example.com:443"), (2, "a-rather-long-name.of-a-service.example.com:8443")])));
        press(&mut view, "j");
        let screen = screen(&mut view, 80, 24);
        assert_eq!(screen[0], "egret 127.0.0.1:15000  2 open  in 20/s  out 247K/s");
        assert_eq!(screen[1], "not served 3 (+0)  http_request_denied 3");
        assert_eq!(screen[2], "TARGET                      CLIENT                AGE    IN/sv    OUT/s    BYTES");
        assert_eq!(screen[3], "api.example.com:443         10.1.2.3             1m05       10     123K     2.0M");
        assert!(screen[4].starts_with("a-rather-long-name.of-a-ser "), "{}", screen[4]);
        assert_eq!(screen[21], "#1 10.1.2.3:40000 -> api.example.com:443  outbound|443||x");
        assert_eq!(screen[22], "allowed by ServiceEntry default/x at x.yaml:3:1");
        assert_eq!(screen[23], "q quit  Tab refused  r rate b bytes a age t target c client  o order  / filter");
    }

    #[test]
    fn tab_shows_what_is_refused_by_its_rule() {
        let mut view = View::new("127.0.0.1:15000".to_owned(), false);
        view.take(Ok(sample(&[(1, "api.example.com:443")])));
        view.press(KeyEvent::from(KeyCode::Tab));
        press(&mut view, "j");
        let shown = screen(&mut view, 80, 24);
        assert!(shown[2].starts_with("  TIMES REASON               REFUSED BY"), "{}", shown[2]);
        assert!(shown[3].starts_with("      3 not_found            mesh.outboundTrafficPoli"), "{}", shown[3]);
        assert_eq!(shown[21], "3 x not_found by mesh.outboundTrafficPolicy at egret.yaml:1:9");
        assert_eq!(shown[22], "last 10.1.2.3 -> evil.example:443: no rule names it");
        view.press(KeyEvent::from(KeyCode::Tab));
        assert!(screen(&mut view, 80, 24)[2].starts_with("TARGET "));
    }

    #[test]
    fn it_draws_on_any_screen() {
        let mut view = View::new("unix:/run/egret/admin.sock".to_owned(), true);
        view.take(Ok(sample(&[(1, "api.example.com:443")])));
        for (columns, lines) in [(1, 1), (3, 2), (20, 5), (300, 100)] {
            screen(&mut view, columns, lines);
        }
    }

    #[test]
    fn keys_sort_filter_and_quit() {
        let mut view = View::new(String::new(), false);
        assert_eq!(press(&mut view, "b"), Step::Ask);
        assert_eq!(press(&mut view, "o"), Step::Ask);
        assert_eq!(press(&mut view, "/q\x08é &x"), Step::Stay, "typed, not obeyed");
        assert_eq!(press(&mut view, "\n"), Step::Ask);
        assert_eq!(view.wanted().path(), "/tunnels?sort=bytes&order=asc&limit=200&filter=%C3%A9%20%26x");
        assert_eq!(press(&mut view, "\x1b"), Step::Ask);
        assert_eq!(view.wanted().filter, "");
        press(&mut view, "/");
        press(&mut view, &"x".repeat(2 * FILTER_CHARACTERS_MAX));
        assert_eq!(view.typing.as_ref().unwrap().len(), FILTER_CHARACTERS_MAX);
        assert_eq!(press(&mut view, "\x1bz"), Step::Stay);
        assert_eq!(press(&mut view, "q"), Step::Quit);
        assert_eq!(view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Step::Quit);
    }

    #[test]
    fn the_cursor_stays_with_its_tunnel_and_a_failure_keeps_what_was_shown() {
        let mut view = View::new("127.0.0.1:1".to_owned(), false);
        view.take(Ok(sample(&[(1, "a.example:443"), (2, "b.example:443")])));
        press(&mut view, "jj");
        assert_eq!(view.selected().unwrap().id, 2);
        view.take(Ok(sample(&[(2, "b.example:443"), (1, "a.example:443")])));
        assert_eq!((view.selected().unwrap().id, view.table.selected()), (2, Some(0)));
        view.take(Err("Connection refused".to_owned()));
        let screen = screen(&mut view, 80, 24);
        assert_eq!(screen[0], "egret 127.0.0.1:1  Connection refused");
        assert!(screen[3].starts_with("b.example:443"));
        view.take(Ok(sample(&[(1, "a.example:443")])));
        assert!(view.selected().is_none());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 9.4, 999.4, 999.6, 1500.0, 12_345.0, 2e6, 3.2e9, 1e18, -1.0].map(amount);
        assert_eq!(shown, ["0", "9", "999", "1.0K", "1.5K", "12K", "2.0M", "3.2G", "1000P", "0"]);
        assert_eq!([0.0, 59.9, 60.0, 3725.0, 90_000.0].map(age), ["0s", "59s", "1m00", "1h02", "1d"]);
    }
}
