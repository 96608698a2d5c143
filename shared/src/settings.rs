//! Every setting: a flag and an environment variable of the same name. Read once, at the start; nobody else reads the
//! environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::recipient::BareNumbers;
use crate::session::BridgeKind;

/// Where things are kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Storage")]
pub struct StoreSettings {
    /// Folder for the embedded database and the generated secrets; one process at a time
    #[arg(long, env = "SANASR_DATA_DIR", default_value = "./data", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// postgres://user:password@host/database, for many processes; beyond one machine with ?sslmode=verify-full [default: SQLite in the data dir]
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Connections to PostgreSQL for reading, for each process
    #[arg(long, env = "SANASR_DATABASE_CONNECTIONS", default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_connections: u32,
}

/// The services between the processes, and what keeps their secrets.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Services")]
pub struct ServiceSettings {
    /// amqp://user:password@host/vhost or amqps://… [default: in process]
    #[arg(long, env = "AMQP_URL", value_name = "URL", hide_env_values = true)]
    pub amqp_url: Option<String>,

    /// redis://host or rediss://… [default: in process]
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<String>,

    /// Any text of 32 characters or more; signs tokens and encrypts pairing state [default: generated into the data dir]
    #[arg(long, env = "SANASR_SECRET_KEY", value_name = "TEXT", hide_env_values = true)]
    pub secret_key: Option<String>,

    /// What kind of queues RabbitMQ makes: classic, or quorum for replicated clusters
    #[arg(long, env = "SANASR_QUEUE_TYPE", default_value = "classic", value_name = "KIND")]
    pub queue_type: QueueType,
}

/// The kinds of queues that RabbitMQ can make for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueueType {
    /// Durable and lazy: no memory per waiting job.
    Classic,
    /// Replicated.
    Quorum,
}

/// The HTTP API.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// Address of the API: 127.0.0.1:8080, or 8080 for this machine alone, or :8080 for all its addresses; a worker without it serves no health and metrics [default: 127.0.0.1:8080; worker: none]
    #[arg(long, env = "SANASR_LISTEN", value_name = "ADDRESS", value_parser = parse_listen)]
    pub listen: Option<SocketAddr>,

    /// Address of a listener of its own for /metrics [default: on the API's address]
    #[arg(long, env = "SANASR_METRICS_LISTEN", value_name = "ADDRESS", value_parser = parse_listen)]
    pub metrics_listen: Option<SocketAddr>,

    /// Networks that may read /metrics where it has no listener of its own; behind trusted proxies the client's address counts
    #[arg(long, env = "SANASR_METRICS_ALLOW", default_value = "127.0.0.0/8,::1", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_network)]
    pub metrics_allow: Vec<IpNet>,

    /// Largest JSON body, in bytes
    #[arg(long, env = "SANASR_BODY_LIMIT", default_value_t = 1 << 20, value_name = "BYTES")]
    pub body_limit: usize,

    /// Largest body of a batch, in bytes
    #[arg(long, env = "SANASR_BATCH_BODY_LIMIT", default_value_t = 16 << 20, value_name = "BYTES")]
    pub batch_body_limit: usize,

    /// Open connections, at most, and fewer than the files that the process may open; half of them for each address when they run short
    #[arg(long, env = "SANASR_CONNECTION_LIMIT", default_value_t = 10_000, value_name = "N")]
    pub connection_limit: usize,

    /// Memory for bodies that arrive and pages that are read, in bytes; an eighth of it for each user
    #[arg(long, env = "SANASR_BODY_MEMORY", default_value_t = 256 << 20, value_name = "BYTES")]
    pub body_memory: usize,

    /// Lists that are read from the database at once for each user; more wait. With several, one user takes more time from others
    #[arg(long, env = "SANASR_READS", default_value_t = 1, value_name = "N")]
    pub reads: usize,

    /// Requests a second for each API key and each logged-in user
    #[arg(long, env = "SANASR_KEY_RATE", default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub key_rate: u32,

    /// Requests at once for each API key and each logged-in user
    #[arg(long, env = "SANASR_KEY_BURST", default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub key_burst: u32,

    /// Requests a second without valid credentials for each address
    #[arg(long, env = "SANASR_ADDRESS_RATE", default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub address_rate: u32,

    /// Requests at once without valid credentials for each address
    #[arg(long, env = "SANASR_ADDRESS_BURST", default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub address_burst: u32,

    /// Event streams that one user may have open at once, in each process
    #[arg(long, env = "SANASR_STREAMS_PER_USER", default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub streams_per_user: u32,

    /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses or networks, such as 10.0.0.0/8
    #[arg(long, env = "SANASR_TRUSTED_PROXIES", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxies: Vec<IpNet>,

    /// Origins whose pages may call the API, such as `https://app.example.org` [default: none]
    #[arg(long, env = "SANASR_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',', value_parser = parse_origin)]
    pub cors_origins: Vec<String>,

    /// Whether each request leaves a line in the API log
    #[arg(long, env = "SANASR_API_LOGS", default_value_t = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub api_logs: bool,
}

/// Logins.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logins")]
pub struct TokenSettings {
    /// How long an access token is good for
    #[arg(long, env = "SANASR_ACCESS_TOKEN_LIFE", default_value = "15m", value_name = "DURATION", value_parser = parse_positive)]
    pub access_token_life: Duration,

    /// How long a refresh token is good for
    #[arg(long, env = "SANASR_REFRESH_TOKEN_LIFE", default_value = "7d", value_name = "DURATION", value_parser = parse_positive)]
    pub refresh_token_life: Duration,

    /// How long a login lasts, however often it is refreshed; then the password is needed again
    #[arg(long, env = "SANASR_LOGIN_LIFE", default_value = "30d", value_name = "DURATION", value_parser = parse_positive)]
    pub login_life: Duration,
}

/// Files.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Media")]
pub struct MediaSettings {
    /// Where files are kept: s3://bucket or s3://bucket/folder [default: in the data dir]
    #[arg(long, env = "SANASR_MEDIA_URL", value_name = "URL")]
    pub media_url: Option<String>,

    /// Largest file, in bytes
    #[arg(long, env = "SANASR_MEDIA_LIMIT", default_value_t = 16 << 20, value_name = "BYTES")]
    pub media_limit: u64,

    /// Uploads at once, an eighth of them for each user; more wait
    #[arg(long, env = "SANASR_UPLOADS", default_value_t = 256, value_name = "N")]
    pub uploads: usize,

    /// Bytes of files that are kept for one user at once, at most
    #[arg(long, env = "SANASR_MEDIA_USER_LIMIT", default_value_t = 5 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    pub media_user_limit: u64,

    /// Hosts from which media may be fetched though their address is private, such as files.internal or 127.0.0.1
    #[arg(long, env = "SANASR_MEDIA_ALLOW_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub media_allow_hosts: Vec<String>,

    /// How long fetching a file from its url may take
    #[arg(long, env = "SANASR_MEDIA_FETCH_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = parse_positive)]
    pub media_fetch_timeout: Duration,

    /// Endpoint of an S3-compatible store other than AWS
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    pub s3_endpoint: Option<String>,

    /// Region of the S3 store
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1", value_name = "REGION")]
    pub s3_region: String,

    /// Access key of the S3 store
    #[arg(long, env = "AWS_ACCESS_KEY_ID", value_name = "TEXT", hide_env_values = true)]
    pub s3_access_key: Option<String>,

    /// Secret key of the S3 store
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", value_name = "TEXT", hide_env_values = true)]
    pub s3_secret_key: Option<String>,
}

/// Accepting messages.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Accepting")]
pub struct AcceptSettings {
    /// Waiting messages, at most; past it sends are answered 503
    #[arg(long, env = "SANASR_BACKLOG_LIMIT", default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub backlog_limit: i64,

    /// Share of the backlog that one user may hold, in percent
    #[arg(long, env = "SANASR_BACKLOG_USER_PERCENT", default_value_t = 25, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub backlog_user_percent: u8,

    /// Messages a day for a user that is made without a limit of its own
    #[arg(long, env = "SANASR_DEFAULT_MAX_MESSAGES_PER_DAY", default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub default_max_messages_per_day: i64,

    /// Sessions that one user may have
    #[arg(long, env = "SANASR_SESSIONS_PER_USER", default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sessions_per_user: u32,

    /// What to make of a number without + : refused, or international (11 to 15 digits that begin with the country code), for software that has always sent them so
    #[arg(long, env = "SANASR_BARE_NUMBERS", default_value = "refused", value_name = "HOW")]
    pub bare_numbers: BareNumbers,

    /// The bridge of a session that is made without one
    #[arg(long, env = "SANASR_DEFAULT_BRIDGE", default_value = "simulator", value_name = "BRIDGE")]
    pub default_bridge: BridgeKind,
}

/// The first admin.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "First admin")]
pub struct AdminSettings {
    /// Name of the admin that is made when no user exists
    #[arg(long, env = "SANASR_ADMIN_USERNAME", default_value = "admin", value_name = "NAME")]
    pub admin_username: String,

    /// Its password [default: generated and printed once]
    #[arg(long, env = "SANASR_ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub admin_password: Option<String>,
}

/// Sending.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sending")]
pub struct WorkerSettings {
    /// How long a worker keeps its sessions without renewal
    #[arg(long, env = "SANASR_LEASE", default_value = "10s", value_name = "DURATION", value_parser = parse_lease)]
    pub lease: Duration,

    /// Messages of one session that are being sent at once, at most
    #[arg(long, env = "SANASR_SESSION_PLACES", default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub session_places: u32,

    /// How long to wait for WhatsApp's acknowledgement before a message is in doubt
    #[arg(long, env = "SANASR_SEND_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = parse_positive)]
    pub send_timeout: Duration,

    /// How long events are kept
    #[arg(long, env = "SANASR_KEEP_EVENTS", default_value = "24h", value_name = "DURATION", value_parser = parse_positive)]
    pub keep_events: Duration,

    /// How long lines of the API log are kept
    #[arg(long, env = "SANASR_KEEP_API_LOGS", default_value = "30d", value_name = "DURATION", value_parser = parse_positive)]
    pub keep_api_logs: Duration,

    /// How long messages are kept that were cancelled or expired before they were sent
    #[arg(long, env = "SANASR_KEEP_UNSENT", default_value = "30d", value_name = "DURATION", value_parser = parse_positive)]
    pub keep_unsent: Duration,

    /// How long messages are kept after they were accepted, once they have ended [default: for ever]
    #[arg(long, env = "SANASR_KEEP_MESSAGES", value_name = "DURATION", value_parser = parse_positive)]
    pub keep_messages: Option<Duration>,
}

/// The simulated WhatsApp.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Simulator")]
pub struct SimulatorSettings {
    /// How long until the simulator scans its own QR code
    #[arg(long, env = "SANASR_SIMULATOR_SCAN_AFTER", default_value = "2s", value_name = "DURATION", value_parser = parse_duration)]
    pub simulator_scan_after: Duration,

    /// How long after a message was sent the simulator delivers it, and reads it: two durations, or 0 for both at once
    #[arg(long, env = "SANASR_SIMULATOR_RECEIPTS", default_value = "300ms,1s", value_name = "DELIVERED,READ", value_parser = parse_receipts)]
    pub simulator_receipts: ReceiptTimes,

    /// File to which every message that the simulated WhatsApp receives is appended as a line of JSON
    #[arg(long, env = "SANASR_SIMULATOR_LEDGER", value_name = "FILE")]
    pub simulator_ledger: Option<PathBuf>,
}

/// How long the simulator's recipients take, from the moment in which a message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiptTimes {
    /// Until it is delivered.
    pub delivered: Duration,
    /// Until it is read.
    pub read: Duration,
}

fn parse_receipts(text: &str) -> Result<ReceiptTimes, String> {
    if text.trim() == "0" {
        return Ok(ReceiptTimes::default());
    }
    let times = text.split_once(',').ok_or("write two durations, such as 300ms,1s, or 0")?;
    let (delivered, read) = (parse_duration(times.0.trim())?, parse_duration(times.1.trim())?);
    if read < delivered {
        return Err("a message is read after it is delivered, not before".to_owned());
    }
    Ok(ReceiptTimes { delivered, read })
}

/// WhatsApp itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "WhatsApp")]
pub struct WhatsappSettings {
    /// Server of the tests that stands for WhatsApp, as a ws:// URL; only in builds for tests
    #[cfg(feature = "whatsapp-test-server")]
    #[arg(long, env = "SANASR_WHATSAPP_URL", value_name = "URL", hide = true)]
    pub whatsapp_url: Option<String>,
}

impl WhatsappSettings {
    /// The server of the tests, if one is set.
    ///
    /// # Errors
    /// In a build that speaks to WhatsApp alone, and whose check of WhatsApp's identity can't be relaxed: what to do.
    pub fn url(&self) -> Result<Option<&str>, String> {
        #[cfg(feature = "whatsapp-test-server")]
        return Ok(self.whatsapp_url.as_deref());
        #[cfg(not(feature = "whatsapp-test-server"))]
        check_no_test_server(std::env::var_os("SANASR_WHATSAPP_URL").as_deref()).map(|()| None)
    }
}

/// In a build for users nothing may stand for WhatsApp.
#[cfg(any(test, not(feature = "whatsapp-test-server")))]
fn check_no_test_server(url: Option<&std::ffi::OsStr>) -> Result<(), String> {
    match url {
        None => Ok(()),
        Some(_) => {
            Err("SANASR_WHATSAPP_URL is set, but this program speaks to WhatsApp alone: unset it, or build it for \
            tests with --features whatsapp-test-server"
                .to_owned())
        }
    }
}

/// Logs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogSettings {
    /// What to log: a level, or directives such as info,sqlx=debug; the clients of databases and of RabbitMQ are
    /// quiet unless they are named
    #[arg(long, env = "SANASR_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// text or json
    #[arg(long, env = "SANASR_LOG_FORMAT", default_value = "auto", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people, with colours on a terminal.
    Auto,
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Settings as they are when nobody sets any, whatever the environment says.
///
/// # Panics
/// If a setting has no default.
pub fn defaults<T: Args>() -> T {
    use clap::builder::Resettable;
    let command = T::augment_args(clap::Command::new("defaults")).mut_args(|argument| argument.env(Resettable::Reset));
    let matches = command.try_get_matches_from(["defaults"]).expect("every setting has a default");
    T::from_arg_matches(&matches).expect("every setting has a default")
}

/// Reads a duration such as `100ms`, `2s`, `15m`, `24h` or `30d`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| "write a duration as 100ms, 2s, 15m, 24h or 30d".to_owned())?;
    let ms = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let ms = ms.and_then(|unit: u64| number.checked_mul(unit)).filter(|ms| *ms <= 10 * 365 * 86_400_000);
    ms.map(Duration::from_millis).ok_or_else(|| "write a duration as 100ms, 2s, 15m, 24h or 30d".to_owned())
}

fn parse_positive(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|d| if d.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(d) })
}

/// Reads an address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, `8080` (this machine alone) or `:8080` (all
/// its addresses).
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let port = |text: &str| text.parse::<u16>().ok();
    let (host, port) = match text.rsplit_once(':') {
        None => (IpAddr::from(Ipv4Addr::LOCALHOST), port(text)),
        Some(("", rest)) => (Ipv4Addr::UNSPECIFIED.into(), port(rest)),
        Some(("localhost", rest)) => (Ipv4Addr::LOCALHOST.into(), port(rest)),
        Some(_) => return text.parse().map_err(|_| LISTEN_FORM.to_owned()),
    };
    port.map(|port| SocketAddr::new(host, port)).ok_or_else(|| LISTEN_FORM.to_owned())
}

const LISTEN_FORM: &str = "must be an address and a port, such as 127.0.0.1:8080; 8080 alone means this machine, :8080 all its \
                           addresses";

fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "must be an address or a network, such as 10.0.0.0/8".to_owned())
}

fn parse_origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let sane = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b));
    if sane {
        Ok(text.to_owned())
    } else {
        Err("must be a scheme and a host, such as https://app.example.org".to_owned())
    }
}

/// A lease shorter than this is lost to an ordinary pause of a busy machine.
const LEASE_MIN: Duration = Duration::from_secs(1);

fn parse_lease(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|d| if d < LEASE_MIN { Err("must be at least 1s".to_owned()) } else { Ok(d) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "5", "s", "-1s", "1.5s", "1 s", "99999999999999999999s", "18446744073709551615h", "5000000d"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert!(parse_positive("0s").is_err());
        assert!(parse_lease("999ms").is_err());
    }

    #[test]
    fn an_address_to_listen_on_has_several_forms() {
        for (text, address) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("8080", "127.0.0.1:8080"),
            (" 8080 ", "127.0.0.1:8080"),
            ("localhost:8080", "127.0.0.1:8080"),
            (":8080", "0.0.0.0:8080"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(parse_listen(text).map(|address| address.to_string()).as_deref(), Ok(address), "{text}");
        }
        for wrong in ["", "x", "70000", ":", "127.0.0.1", "localhost", "example.org:80", "::1"] {
            assert!(parse_listen(wrong).is_err_and(|said| said.contains("127.0.0.1:8080")), "{wrong}");
        }
    }

    #[test]
    fn the_simulators_times_are_two() {
        let ms = Duration::from_millis;
        assert_eq!(parse_receipts("300ms,1s"), Ok(ReceiptTimes { delivered: ms(300), read: ms(1_000) }));
        assert_eq!(parse_receipts("0"), Ok(ReceiptTimes::default()));
        for wrong in ["", "1s", "1s,x", "1s,300ms"] {
            assert!(parse_receipts(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_build_for_users_refuses_the_server_of_the_tests() {
        assert_eq!(check_no_test_server(None), Ok(()));
        let said = check_no_test_server(Some("ws://127.0.0.1:9/".as_ref())).expect_err("a server of the tests");
        assert!(said.contains("speaks to WhatsApp alone"), "{said}");
    }

    #[test]
    fn networks_and_origins_are_read() {
        assert_eq!(parse_network("10.1.2.3").map(|n| n.to_string()), Ok("10.1.2.3/32".to_owned()));
        assert_eq!(parse_network(" fd00::/8 ").map(|n| n.to_string()), Ok("fd00::/8".to_owned()));
        assert!(parse_network("example.org").is_err() && parse_network("10.0.0.0/33").is_err());
        assert!(parse_origin("https://app.example.org:8443").is_ok());
        for wrong in ["*", "app.example.org", "https://", "https://a/b", "https://a\r\nX: y"] {
            assert!(parse_origin(wrong).is_err(), "{wrong}");
        }
    }
}
