//! Every setting as an env file: made from the settings themselves, so that it can't lag behind.

use std::fmt::Write;

use clap::CommandFactory;

use crate::Cli;

/// All settings that have an environment variable, with what they mean and their defaults.
pub(crate) fn render() -> String {
    let mut text = String::from("# Every setting of sanasr with its default. Remove the # of a line to change it.\n");
    let mut heading = None;
    let command = Cli::command();
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let Some(variable) = argument.get_env().and_then(|name| name.to_str()) else { continue };
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            let _ = write!(text, "\n# ---- {} ----\n", heading.unwrap_or_default());
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let _ = write!(text, "\n# {help}\n#{variable}={}\n", default.join(","));
    }
    text
}
