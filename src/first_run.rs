//! What the first start makes, so that the first message needs no reading: an admin, an API key, and a simulated session
//! that is paired already.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sanasr_shared::ids::WorkerId;
use sanasr_shared::password::Password;
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::store::{Pairing, SessionCommand, SessionReport, Store, StoreError};
use sanasr_shared::session::{BridgeKind, DEFAULT_SESSION, SessionStatus};
use sanasr_shared::settings::{AcceptSettings, AdminSettings};
use sanasr_shared::user::{NewUser, RawApiKey, User, parse_username};

/// The number that the first simulated session is paired with: from the range that is kept free for fiction.
const SIMULATED_NUMBER: &str = "+12025550100";

/// Makes the first admin if no user exists; with its password if one had to be generated.
async fn make_admin(
    store: &dyn Store,
    admin: &AdminSettings,
    bridge: BridgeKind,
) -> anyhow::Result<Option<(User, Option<String>)>> {
    if store.any_user().await? {
        return Ok(None);
    }
    let generated = admin.admin_password.is_none().then(|| {
        // The secret part of a key, cut to what people can still type: 120 bits.
        let key = RawApiKey::generate();
        key.as_str().chars().rev().filter(char::is_ascii_alphanumeric).take(20).collect::<String>()
    });
    let username =
        parse_username(&admin.admin_username).map_err(|why| anyhow::anyhow!("SANASR_ADMIN_USERNAME: {why}"))?;
    let password = admin.admin_password.as_deref().or(generated.as_deref()).unwrap_or_default();
    let password = Password::new(password, &username).map_err(|why| anyhow::anyhow!("SANASR_ADMIN_PASSWORD: {why}"))?;
    let password_hash = tokio::task::spawn_blocking(move || password.hash())
        .await?
        .map_err(|e| anyhow::anyhow!("the admin's password can't be hashed: {e}"))?;
    let user = NewUser { username, password_hash, is_staff: true, max_messages_per_day: None };
    match store.create_user(&user, bridge, Actor::MACHINE).await {
        Ok(user) => Ok(Some((user, generated))),
        // Another process was faster.
        Err(StoreError::Taken(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// For a process that serves the API alone: the admin, no more.
pub(crate) async fn admin_only(
    store: &dyn Store,
    admin: &AdminSettings,
    accept: &AcceptSettings,
) -> anyhow::Result<()> {
    if let Some((user, password)) = make_admin(store, admin, accept.default_bridge).await? {
        let mut out = std::io::stdout().lock();
        write_admin(&mut out, &user, password.as_deref())?;
        out.flush()?;
    }
    Ok(())
}

fn write_admin(out: &mut impl Write, user: &User, password: Option<&str>) -> std::io::Result<()> {
    match password {
        Some(password) => writeln!(out, "Admin:    {}\nPassword: {password}   (shown only now)", user.username),
        None => writeln!(out, "Admin:    {}\nPassword: as set", user.username),
    }
}

/// For the all-in-one process: the admin, a key, a paired session, and how to send a first message.
pub(crate) async fn everything(
    store: &dyn Store,
    admin: &AdminSettings,
    accept: &AcceptSettings,
    address: SocketAddr,
) -> anyhow::Result<()> {
    let Some((user, password)) = make_admin(store, admin, accept.default_bridge).await? else { return Ok(()) };
    let key = RawApiKey::generate();
    let (lookup, hash) = key.stored();
    store.create_api_key(user.id, "first key", &lookup, &hash, None, Actor::MACHINE).await?;
    if accept.default_bridge == BridgeKind::Simulator {
        pair_default_session(store, &user).await?;
    }

    let key = key.as_str();
    let address = reachable(address);
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nThis is the first start. Made for you:\n")?;
    write_admin(&mut out, &user, password.as_deref())?;
    writeln!(out, "API key:  {key}   (shown only now)")?;
    writeln!(out, "\nSend a message to the simulated WhatsApp, and follow it until it is read:\n")?;
    writeln!(
        out,
        "curl -s http://{address}/api/v1/messages -H 'X-Api-Key: {key}' -H 'Content-Type: application/json' -d '{{\"to\": \"+15551234567\", \"type\": \"text\", \"text\": \"Hello\"}}'"
    )?;
    writeln!(out, "curl -s 'http://{address}/api/v1/messages?limit=1' -H 'X-Api-Key: {key}'\n")?;
    out.flush()?;
    Ok(())
}

/// Where somebody on this machine reaches it.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// Writes a pairing into the new admin's `default` session, in the way of any worker.
async fn pair_default_session(store: &dyn Store, user: &User) -> anyhow::Result<()> {
    store.command(user.id, DEFAULT_SESSION, SessionCommand::Connect, Actor::MACHINE).await?;
    let worker = WorkerId::generate();
    store.register(worker, Duration::from_secs(10)).await?;
    for session in store.take(worker, 1).await? {
        let report = SessionReport {
            pairing: Some(Pairing::Paired(SIMULATED_NUMBER.to_owned())),
            ..SessionReport::new(SessionStatus::Connecting)
        };
        store.report(worker, session.id, &report).await?;
    }
    store.leave(worker).await?;
    Ok(())
}
