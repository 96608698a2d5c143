//! Environment variables that look like settings and are none: a misspelt one would be ignored in silence.

use std::collections::BTreeSet;

use clap::CommandFactory;
use sanasr_shared::nearest::did_you_mean;

use crate::Cli;

/// What every setting's own variable begins with.
const PREFIX: &str = "SANASR_";
/// What the tests' own variables begin with, which reach the processes that they start.
const TESTS: &str = "SANASR_TEST_";

/// Warns of each variable that is no setting.
pub(crate) fn warn_of_unknown() {
    let settings = settings();
    for (name, _) in std::env::vars_os() {
        if let Some(said) = name.to_str().and_then(|name| unknown(name, &settings)) {
            tracing::warn!("{said}");
        }
    }
}

/// The variables of all settings.
fn settings() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open = vec![Cli::command()];
    while let Some(command) = open.pop() {
        let variables = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
        names.extend(variables.map(str::to_owned));
        open.extend(command.get_subcommands().cloned());
    }
    names
}

/// What to say of a variable, if it should be a setting and isn't.
fn unknown(name: &str, settings: &BTreeSet<String>) -> Option<String> {
    if !name.starts_with(PREFIX) || name.starts_with(TESTS) || settings.contains(name) {
        return None;
    }
    let meant = did_you_mean(name, settings.iter().map(String::as_str));
    Some(format!("{name} is set, but there is no such setting: it is ignored.{meant} `sanasr --help` lists them all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
        let settings = settings();
        let said = unknown("SANASR_LISEN", &settings).expect("no setting");
        assert!(said.contains("Did you mean SANASR_LISTEN?"), "{said}");
        assert!(unknown("SANASR_SMOKE", &settings).is_some_and(|said| !said.contains("mean")));
        for fine in ["SANASR_LISTEN", "SANASR_LOG", "SANASR_TEST_RUN", "PATH", "DATABASE_URL"] {
            assert_eq!(unknown(fine, &settings), None);
        }
    }
}
