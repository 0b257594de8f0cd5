//! Medians over the rounds, and ratios within them, as a Markdown table.

use crate::scenario::{Expected, Number};

/// All rounds of one scenario: per server the numbers of each round, none where it failed.
pub struct Rounds {
    pub scenario: &'static str,
    pub about: &'static str,
    /// Outer: server; inner: round.
    pub numbers: Vec<Vec<Option<Vec<Number>>>>,
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values {
        [] => f64::NAN,
        _ if values.len() % 2 == 1 => values[values.len() / 2],
        _ => f64::midpoint(values[values.len() / 2 - 1], values[values.len() / 2]),
    }
}

fn figure(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    let middle = figure(median(&mut sorted));
    match (sorted.first(), sorted.last()) {
        (Some(least), Some(most)) if sorted.len() > 1 => format!("{middle} ({}..{})", figure(*least), figure(*most)),
        _ => middle,
    }
}

impl Rounds {
    fn values(&self, server: usize, row: usize) -> Vec<Option<f64>> {
        let rounds = self.numbers.get(server).map(Vec::as_slice).unwrap_or_default();
        rounds
            .iter()
            .map(|numbers| Some(numbers.as_ref()?.get(row)?.value))
            .collect()
    }

    fn print(&self, ours: Option<usize>) -> bool {
        let mut met = true;
        let first = self.numbers.iter().flatten().flatten().next();
        let Some(rows) = first else {
            println!("| {} | failed | | | | |", self.scenario);
            return false;
        };
        for (row, number) in rows.iter().enumerate() {
            let servers: Vec<Vec<Option<f64>>> =
                (0..self.numbers.len()).map(|server| self.values(server, row)).collect();
            let cells: Vec<String> = servers
                .iter()
                .map(|values| spread(&values.iter().flatten().copied().collect::<Vec<_>>()))
                .collect();
            let our_values = ours.and_then(|index| servers.get(index)).into_iter().flatten();
            let mut our_values: Vec<f64> = our_values.flatten().copied().collect();
            let mut ratios: Vec<f64> = match servers.as_slice() {
                [first, second] => first
                    .iter()
                    .zip(second)
                    .filter_map(|(a, b)| Some((*b)? / (*a)?))
                    .collect(),
                _ => Vec::new(),
            };
            let (verdict, fits) = judge(number.expected, median(&mut ratios), median(&mut our_values));
            met &= fits;
            let name = if row == 0 {
                format!("{}: {}", self.scenario, self.about)
            } else {
                String::new()
            };
            println!(
                "| {name} | {} | {} | {} | {verdict} |",
                number.what,
                cells.join(" | "),
                figure(median(&mut ratios))
            );
        }
        met
    }
}

fn judge(expected: Expected, ratio: f64, ours: f64) -> (String, bool) {
    let (text, value, fits) = match expected {
        Expected::Nothing => return (String::new(), true),
        Expected::RatioAtLeast(bound) => (format!("≥ {bound}"), ratio, ratio >= bound),
        Expected::RatioAtMost(bound) => (format!("≤ {bound}"), ratio, ratio <= bound),
        Expected::OursAtMost(bound) => (format!("ours ≤ {bound}"), ours, ours <= bound),
        Expected::OursAtLeast(bound) => (format!("ours ≥ {bound}"), ours, ours >= bound),
    };
    let word = match () {
        () if value.is_nan() => "not measured",
        () if fits => "met",
        () => "**missed**",
    };
    // What was not measured compares with nothing, so it does not fit.
    (format!("{text}: {word}"), fits)
}

/// Prints all; whether every expectation was measured and met.
pub fn print(servers: &[String], all: &[Rounds]) -> bool {
    let ours = servers.iter().position(|name| name == "rsmtpd");
    println!("\n| scenario | figure | {} | ratio | expected |", servers.join(" | "));
    println!("|---|---|{}---:|---|", "---:|".repeat(servers.len()));
    let missed = all.iter().filter(|rounds| !rounds.print(ours)).count();
    missed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_met() {
        let all = [
            Expected::RatioAtLeast(2.0),
            Expected::RatioAtMost(2.0),
            Expected::OursAtMost(2.0),
            Expected::OursAtLeast(2.0),
        ];
        for expected in all {
            let (text, fits) = judge(expected, f64::NAN, f64::NAN);
            assert!(!fits && text.ends_with("not measured"), "{text}");
            assert!(judge(expected, 2.0, 2.0).1, "the bound itself is met");
        }
        assert!(!judge(Expected::RatioAtLeast(2.0), 1.9, 9.0).1);
        assert!(!judge(Expected::RatioAtMost(2.0), 2.1, 0.0).1);
        assert!(!judge(Expected::OursAtMost(2.0), 0.0, 2.1).1);
        assert!(!judge(Expected::OursAtLeast(2.0), 9.0, 1.9).1);
        assert!(judge(Expected::Nothing, f64::NAN, f64::NAN).1);
    }
}
