//! Users, from the command line: for the first one, and for the locked-out.

use std::io::{Read, Write};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use sanasr_shared::password::Password;
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::store::StoreError;
use sanasr_shared::settings::{AcceptSettings, LogSettings, StoreSettings};
use sanasr_shared::throttle::name_key;
use sanasr_shared::user::{NewUser, RawApiKey, parse_username};

use crate::roles;

/// What can be done to users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user
    Create(CreateArgs),
    /// Set a user's password, and let whoever had too many wrong ones try again
    ResetPassword(ResetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The name to log in with
    #[arg(long, value_name = "NAME")]
    username: String,

    /// Read the password from standard input, to the end of the first line
    #[arg(long, required = true)]
    password_stdin: bool,

    /// May use the admin endpoints, and has no limit of messages a day unless one is given
    #[arg(long, alias = "staff")]
    pub(crate) admin: bool,

    /// Make an API key, too, and print it
    #[arg(long)]
    api_key: bool,

    /// Messages a day, for this user
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    max_messages_per_day: Option<i64>,

    #[command(flatten)]
    accept: AcceptSettings,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Whose password
    #[arg(long, value_name = "NAME")]
    username: String,

    /// Read the password from standard input, to the end of the first line
    #[arg(long, required = true)]
    password_stdin: bool,

    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    log: LogSettings,
}

pub(crate) async fn run(command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Create(args) => create(args).await,
        UserCommand::ResetPassword(args) => reset_password(args).await,
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    roles::start_logs(&args.log)?;
    let username = parse_username(&args.username).map_err(anyhow::Error::msg)?;
    let password_hash = read_password(&username)?;
    let store = roles::open_for_administration(&args.store).await?;
    let limit = match args.max_messages_per_day {
        Some(limit) => Some(limit),
        None if args.admin => None,
        None => Some(args.accept.default_max_messages_per_day),
    };
    let user = NewUser { username, password_hash, is_staff: args.admin, max_messages_per_day: limit };
    let made =
        store.create_user(&user, args.accept.default_bridge, Actor::MACHINE).await.map_err(|error| match error {
            StoreError::Taken(_) => anyhow::anyhow!("a user named {} exists already", user.username),
            other => other.into(),
        })?;
    let mut out = std::io::stdout();
    if args.api_key {
        let key = RawApiKey::generate();
        let (lookup, hash) = key.stored();
        store.create_api_key(made.id, "command line", &lookup, &hash, None, Actor::MACHINE).await?;
        writeln!(out, "{}", key.as_str())?;
    } else {
        writeln!(out, "user {} has the id {}", made.username, made.id)?;
    }
    store.close().await;
    Ok(())
}

async fn reset_password(args: ResetArgs) -> anyhow::Result<()> {
    roles::start_logs(&args.log)?;
    let username = parse_username(&args.username).map_err(anyhow::Error::msg)?;
    let password_hash = read_password(&username)?;
    let store = roles::open_for_administration(&args.store).await?;
    if !store.set_password(&username, &password_hash, Actor::MACHINE).await? {
        bail!("there is no user named {username}");
    }
    store.forget_failures(&name_key(&username)).await?;
    writeln!(std::io::stdout(), "the password of {username} is set, and all logins with the old one have ended")?;
    store.close().await;
    Ok(())
}

/// The hash of the password on standard input, if it is good enough for this user.
fn read_password(username: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(4_096).read_to_string(&mut text).context("the password can't be read from standard input")?;
    let password = Password::new(text.lines().next().unwrap_or_default(), username)?;
    password.hash().map_err(|e| anyhow::anyhow!("the password can't be hashed: {e}"))
}
