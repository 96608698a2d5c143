//! `sanasr`: the command line.
//!
//! Which implementation of a port is used is decided in `roles`, and nowhere else.

mod bench;
mod data_dir;
mod descriptors;
mod env_file;
mod env_template;
mod first_run;
mod roles;
mod users;
mod variables;

use std::io::Write;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use sanasr_shared::settings::{
    AcceptSettings, AdminSettings, HttpSettings, LogSettings, MediaSettings, ServiceSettings, SimulatorSettings,
    StoreSettings, TokenSettings, WhatsappSettings, WorkerSettings,
};

/// A queue-driven WhatsApp message dispatch service.
///
/// Without a command it runs everything in one process: the API, a worker, and, unless URLs of services are given, an
/// embedded database and queue.
#[derive(Debug, Parser)]
#[command(name = "sanasr", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    all: AllArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the HTTP API
    Api(ApiArgs),
    /// Send messages
    Worker(WorkerArgs),
    /// Bring the database's schema up to date
    Migrate(MigrateArgs),
    /// Users, from the command line
    #[command(subcommand, alias = "admin")]
    User(users::UserCommand),
    /// Measure a service: one that runs, or one that is started for it
    Bench(bench::BenchArgs),
    /// Print every setting with its default, as an env file
    #[command(hide = true)]
    EnvTemplate,
}

/// Everything in one process.
#[derive(Debug, Clone, Args)]
struct AllArgs {
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    services: ServiceSettings,
    #[command(flatten)]
    http: HttpSettings,
    #[command(flatten)]
    accept: AcceptSettings,
    #[command(flatten)]
    tokens: TokenSettings,
    #[command(flatten)]
    media: MediaSettings,
    #[command(flatten)]
    admin: AdminSettings,
    #[command(flatten)]
    worker: WorkerSettings,
    #[command(flatten)]
    simulator: SimulatorSettings,
    #[command(flatten)]
    whatsapp: WhatsappSettings,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(Debug, Clone, Args)]
struct ApiArgs {
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    services: ServiceSettings,
    #[command(flatten)]
    http: HttpSettings,
    #[command(flatten)]
    accept: AcceptSettings,
    #[command(flatten)]
    tokens: TokenSettings,
    #[command(flatten)]
    media: MediaSettings,
    #[command(flatten)]
    admin: AdminSettings,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(Debug, Clone, Args)]
struct WorkerArgs {
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    services: ServiceSettings,
    #[command(flatten)]
    http: HttpSettings,
    #[command(flatten)]
    media: MediaSettings,
    #[command(flatten)]
    worker: WorkerSettings,
    #[command(flatten)]
    simulator: SimulatorSettings,
    #[command(flatten)]
    whatsapp: WhatsappSettings,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(Debug, Clone, Args)]
struct MigrateArgs {
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    log: LogSettings,
}

/// The exit code of whatever its operator must mend: a bad setting, a taken port, an unwritable folder.
const EXIT_USAGE: u8 = 2;
/// The exit code after a part of the process has failed: whoever started it should start it again.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    sanasr_shared::tls::install();
    // Whatever this process writes is its own user's alone: the database and its write-ahead log, files, the ledger.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    if let Err(error) = env_file::read() {
        return fail(&error);
    }
    let cli = match unset_empty(Cli::command()).try_get_matches().and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli));
            // What hangs in a blocking call must not hold the process up.
            runtime.shutdown_timeout(std::time::Duration::from_millis(100));
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => roles::all(cli.all).await,
        Some(Command::Api(args)) => roles::api(args).await,
        Some(Command::Worker(args)) => roles::worker(args).await,
        Some(Command::Migrate(args)) => roles::migrate(args).await,
        Some(Command::User(command)) => users::run(command).await,
        Some(Command::Bench(args)) => bench::run(args).await,
        Some(Command::EnvTemplate) => {
            std::io::stdout().write_all(env_template::render().as_bytes())?;
            Ok(())
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}").replace('\n', " ");
    let _ = writeln!(std::io::stderr(), "sanasr: {text}");
    ExitCode::from(if error.is::<roles::Failed>() { EXIT_FAILED } else { EXIT_USAGE })
}

/// An empty variable is one that isn't set: that is how compose files and env files leave things out.
fn unset_empty(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| match argument.get_env().map(std::env::var_os) {
            Some(Some(value)) if value.is_empty() => argument.env(Resettable::Reset),
            _ => argument,
        })
        .mut_subcommands(unset_empty)
}

/// Names the variables beside the flags: most people have set those.
fn name_variables(command: &clap::Command, mut text: String) -> String {
    for argument in command.get_arguments() {
        if let (Some(flag), Some(variable)) = (argument.get_long(), argument.get_env()) {
            text = text.replace(&format!("'--{flag} "), &format!("{} '--{flag} ", variable.to_string_lossy()));
        }
    }
    text
}

/// Help and version as they are; anything wrong in one line.
fn explain(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = name_variables(&Cli::command(), error.to_string());
    let lines =
        text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let line: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    let _ = writeln!(std::io::stderr(), "sanasr: {}", line.join(" ").trim_start_matches("error: "));
    ExitCode::from(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_is_made_under_the_older_names_too() {
        let create = ["create", "--username", "ops", "--password-stdin"];
        for (command, flag) in [("user", "--admin"), ("admin", "--staff")] {
            let line = ["sanasr", command].into_iter().chain(create).chain([flag]);
            let cli = Cli::try_parse_from(line).expect(command);
            assert!(matches!(cli.command, Some(Command::User(users::UserCommand::Create(args))) if args.admin));
        }
    }
}
