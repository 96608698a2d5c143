//! The API log, as PostgreSQL takes it.

use std::fmt::Write;

use sqlx_postgres::PgConnection;

use super::error;
use crate::ports::journal::ApiLog;
use crate::ports::store::Result;

/// `COPY`, as it takes less of the database than an `INSERT` of arrays: with it 2 to 4% more messages were accepted.
const COPY_LOGS: &str =
    "COPY api_logs (at, user_id, endpoint, method, status, duration_us, ip_address, request_id) FROM STDIN";

/// Lines in the text format of `COPY`.
pub(super) fn copied(lines: &[ApiLog]) -> String {
    let mut text = String::with_capacity(lines.len() * 160);
    for line in lines {
        // Writing to a string can't fail.
        let _ = write!(text, "{}\t", line.at.0);
        let _ = match line.user {
            Some(user) => write!(text, "{}\t", user.0),
            None => text.write_str("\\N\t"),
        };
        escape(&line.endpoint, &mut text);
        text.push('\t');
        escape(&line.method, &mut text);
        let _ = write!(text, "\t{}\t{}\t{}\t", line.status, line.duration_us, line.address);
        escape(&line.request_id, &mut text);
        text.push('\n');
    }
    text
}

fn escape(value: &str, text: &mut String) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\t' => "\\t",
            b'\n' => "\\n",
            b'\r' => "\\r",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

/// Adds lines that are in the text format.
pub(super) async fn copy_logs(connection: &mut PgConnection, lines: &str) -> Result<()> {
    let mut copy = connection.copy_in_raw(COPY_LOGS).await.map_err(error)?;
    copy.send(lines.as_bytes()).await.map_err(error)?;
    copy.finish().await.map(drop).map_err(error)
}
