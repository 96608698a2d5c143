//! Logs and metrics.
//!
//! Logs carry ids as fields, never secrets, and a message's text at `debug` at most.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::nearest::did_you_mean;
use crate::settings::{LogFormat, LogSettings};

/// What goes before the filter of the settings. lapin writes a line for each message that comes back, which is all of a
/// session's while nobody drives it; what matters of that is in our own lines and metrics.
const QUIET: &str = "sqlx=warn,lapin=off";

/// Starts writing logs, to standard error.
///
/// # Errors
/// What is wrong with the filter.
pub fn init_logs(settings: &LogSettings) -> Result<(), String> {
    let filter = filter(&settings.log)?;
    let json = match settings.log_format {
        LogFormat::Auto | LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.with_ansi(terminal).with_target(false).try_init()
    };
    done.map_err(|e| format!("can't start logging: {e}"))
}

/// The words of levels.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn filter(text: &str) -> Result<EnvFilter, String> {
    // A word alone would be taken for the name of a part, and every other part be switched off.
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty() && !word.contains(['=', '['])) {
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            let meant = did_you_mean(word, LEVELS);
            return Err(format!(
                "SANASR_LOG: {word} is no level.{meant} The levels are {}; a part has one of its own as in info,sqlx=debug",
                LEVELS.join(", ")
            ));
        }
    }
    EnvFilter::builder().parse(format!("{QUIET},{text}")).map_err(|e| format!("SANASR_LOG: {e}"))
}

/// Starts counting; the handle renders what was counted in Prometheus's text format.
///
/// # Errors
/// If something else counts already.
pub fn init_metrics() -> Result<PrometheusHandle, String> {
    use metrics_exporter_prometheus::Matcher;
    /// Seconds: from a lone commit to a slow bridge.
    const LATENCY: &[f64] =
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
    const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
    let set = |e: metrics_exporter_prometheus::BuildError| e.to_string();
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY)
        .map_err(set)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZES)
        .map_err(set)?
        .install_recorder()
        .map_err(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_quiet_unless_they_are_named() {
        let directives = |text: &str| {
            let mut directives: Vec<_> =
                filter(text).expect("a filter").to_string().split(',').map(str::to_owned).collect();
            directives.sort();
            directives
        };
        assert_eq!(directives("debug"), ["debug", "lapin=off", "sqlx=warn"]);
        assert_eq!(directives("info,lapin=debug"), ["info", "lapin=debug", "sqlx=warn"]);
        for wrong in ["verbose", "info,verbose", "sqlx", "3"] {
            assert!(filter(wrong).is_err_and(|said| said.contains("SANASR_LOG") && said.contains("debug")), "{wrong}");
        }
        assert!(filter("inof").is_err_and(|said| said.contains("Did you mean info?")));
        assert!(filter("INFO, debug").is_ok() && filter("").is_ok());
        assert!(filter("lapin=loud").is_err_and(|e| e.contains("SANASR_LOG")));
    }
}
