//! The report as a picture: one panel per scenario, one bar per contestant, short is good.

use std::fmt::Write;

use crate::contestant::Contestant;
use crate::results::Row;
use crate::scenario::Scenario;

/// Bars are as long as the median; the tick in a bar is the least round.
pub(crate) fn svg(rows: &[Row]) -> String {
    let mut scenarios: Vec<Scenario> = rows.iter().map(|row| row.scenario).collect();
    scenarios.dedup();
    let mut body = String::new();
    let mut bottom = MARGIN;
    // Two columns; a pair of panels is as high as the higher one.
    for pair in scenarios.chunks(2) {
        let mut height = 0;
        for (column, scenario) in pair.iter().enumerate() {
            let panel: Vec<&Row> = rows.iter().filter(|row| row.scenario == *scenario).collect();
            height = height.max(draw(&mut body, *scenario, &panel, MARGIN + column * (PANEL_WIDTH + MARGIN), bottom));
        }
        bottom += height + MARGIN;
    }
    let width = PANEL_WIDTH * 2 + MARGIN * 3;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {bottom}\" width=\"{width}\" height=\"{bottom}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// Returns the panel's height.
fn draw(body: &mut String, scenario: Scenario, rows: &[&Row], left: usize, top: usize) -> usize {
    let longest = rows.iter().filter_map(|row| row.figure()).map(|figure| figure.median).fold(0.0, f64::max);
    let _ = writeln!(body, "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>", top + 13, scenario.title());
    let _ = writeln!(
        body,
        "<text x=\"{left}\" y=\"{}\" fill=\"#777\" font-size=\"11\">{}</text>",
        top + 28,
        scenario.unit()
    );
    for (number, row) in rows.iter().enumerate() {
        let y = top + HEADING + number * BAR_PITCH;
        let (x, middle) = (left + NAME_WIDTH, y + 13);
        let _ =
            writeln!(body, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", x - 6, row.contestant.name());
        let Some(figure) = row.figure() else {
            let _ = writeln!(body, "<text x=\"{x}\" y=\"{middle}\" fill=\"#b00\">failed</text>");
            continue;
        };
        // A figure may be nothing, or (memory) less than nothing.
        let length = |value: f64| if longest > 0.0 { (value / longest).max(0.0) * BAR_WIDTH } else { 0.0 };
        let color = match row.contestant {
            Contestant::Egret => "#d9541e",
            Contestant::Floor => "#9a9a9a",
            _ => "#4f7cac",
        };
        let bar = length(figure.median);
        let _ = writeln!(body, "<rect x=\"{x}\" y=\"{y}\" width=\"{bar:.1}\" height=\"16\" fill=\"{color}\"/>");
        let least = x as f64 + length(figure.least);
        let _ =
            writeln!(body, "<line x1=\"{least:.1}\" x2=\"{least:.1}\" y1=\"{y}\" y2=\"{}\" stroke=\"#fff\"/>", y + 16);
        let digits = if figure.median >= 10.0 { 0 } else { 2 };
        let _ =
            writeln!(body, "<text x=\"{:.1}\" y=\"{middle}\">{:.digits$}</text>", x as f64 + bar + 5.0, figure.median);
    }
    HEADING + rows.len() * BAR_PITCH
}

const MARGIN: usize = 24;
const PANEL_WIDTH: usize = 440;
const NAME_WIDTH: usize = 80;
const BAR_WIDTH: f64 = 300.0;
const BAR_PITCH: usize = 21;
const HEADING: usize = 38;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::results::Round;

    #[test]
    fn every_contestant_has_a_bar_or_says_that_it_failed() {
        let round = Round { operations: 1000, bytes: 0, cpu: Duration::from_millis(90), wall: Duration::from_secs(1) };
        let mut rows = vec![
            Row::new(Scenario::Connect, Contestant::Floor, false),
            Row::new(Scenario::Connect, Contestant::Egret, false),
        ];
        rows[0].rounds.push(round);
        let picture = svg(&rows);
        assert!(picture.contains("width=\"300.0\"") && picture.contains(">90<"), "{picture}");
        assert_eq!(picture.matches(">failed<").count(), 1, "{picture}");
    }
}
