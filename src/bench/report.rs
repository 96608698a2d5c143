//! What was measured, as a table for people and as JSON for programs.

use std::fmt::Write;

use sanasr_shared::time::Time;
use serde::Serialize;

/// A bound that a value should keep.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

impl Aim {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    PerSecond,
    Milliseconds,
    Megabytes,
    Kilobytes,
    Percent,
    Messages,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", grouped(value)),
            Self::Milliseconds if value < 10.0 => format!("{value:.2} ms"),
            Self::Milliseconds => format!("{} ms", grouped(value)),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Kilobytes => format!("{value:.1} kB"),
            Self::Percent => format!("{value:.0}%"),
            Self::Messages => grouped(value),
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    value: f64,
    unit: Unit,
    aim: Option<Aim>,
}

/// The measured rows, in the order in which they were taken.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    machine: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// An empty report about this machine; `what` is measured on it.
    pub(super) fn new(what: &str) -> Self {
        Self { machine: format!("{what}; {}", machine()), ..Self::default() }
    }

    /// Adds a measured value.
    pub(super) fn row(&mut self, what: impl Into<String>, value: f64, unit: Unit) {
        self.push(what.into(), value, unit, None);
    }

    /// Adds a measured value that should keep a bound.
    pub(super) fn aimed(&mut self, what: impl Into<String>, value: f64, unit: Unit, aim: Aim) {
        self.push(what.into(), value, unit, Some(aim));
    }

    fn push(&mut self, what: String, value: f64, unit: Unit, aim: Option<Aim>) {
        eprintln!("  {what}: {}", unit.write(value));
        self.rows.push(Row { what, value, unit, aim });
    }

    /// Adds a remark under the table.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The report as a Markdown table.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("| measured | value | aim | |\n|---|---:|---:|---|\n");
        for Row { what, value, unit, aim } in &self.rows {
            let (limit, met) = match aim {
                None => (String::new(), ""),
                Some(aim) => {
                    let (word, limit) = match aim {
                        Aim::AtMost(limit) => ("≤", *limit),
                        Aim::AtLeast(limit) => ("≥", *limit),
                    };
                    (format!("{word} {}", unit.write(limit)), if aim.is_met(*value) { "met" } else { "**missed**" })
                }
            };
            // Writing into a string can't fail.
            let _ = writeln!(text, "| {what} | {} | {limit} | {met} |", unit.write(*value));
        }
        let _ = write!(text, "\nMeasured on {}.", self.machine);
        for note in &self.notes {
            let _ = write!(text, "\n{note}");
        }
        text
    }

    /// The report as one line of JSON.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

/// A whole number, with commas between the thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 { format!("−{text}") } else { text }
}

/// Processor, cores, memory, kernel and the day.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
    let build = if cfg!(debug_assertions) { "a debug build" } else { "a release build" };
    format!(
        "{cores} cores of {}, {:.0} GB, Linux {}, {build}, {}",
        field(&read("/proc/cpuinfo"), "model name"),
        memory / 1_048_576.0,
        read("/proc/sys/kernel/osrelease").trim(),
        Time::now().day(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_with_their_units() {
        assert_eq!(Unit::PerSecond.write(1_234_567.4), "1,234,567/s");
        assert_eq!(Unit::Milliseconds.write(1.234), "1.23 ms");
        assert_eq!(Unit::Milliseconds.write(1234.0), "1,234 ms");
        assert_eq!(grouped(-1234.0), "−1,234");
        assert_eq!(grouped(-0.2), "0");
    }

    #[test]
    fn a_table_says_what_fell_short() {
        let mut report = Report::new("a test");
        report.aimed("fast", 1.0, Unit::Milliseconds, Aim::AtMost(5.0));
        report.aimed("slow", 9.0, Unit::Milliseconds, Aim::AtMost(5.0));
        let table = report.table();
        assert!(table.contains("| fast | 1.00 ms | ≤ 5.00 ms | met |"), "{table}");
        assert!(table.contains("| slow | 9.00 ms | ≤ 5.00 ms | **missed** |"), "{table}");
        let json: serde_json::Value = serde_json::from_str(&report.json().expect("JSON")).expect("JSON");
        assert_eq!(json["rows"][0]["aim"]["at_most"], 5.0);
    }
}
