//! Several statements in one call.
//!
//! A call is a hop to the connection's thread and back, which takes longer than most statements do. sqlx runs a text of
//! several statements one after the other, up to the first that fails, and tells the end of each: so it is known where
//! it stopped, and that nothing behind that place was run.

use std::fmt::Write;
use std::vec;

use futures_util::StreamExt;
use sqlx::error::BoxDynError;
use sqlx::{Arguments, Either, Encode, Executor, FromRow, Type};
use sqlx_sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};

use super::sql::failed;
use crate::ports::store::{Result, StoreError};

/// Fails unless the statement before it changed this many rows, so that nothing behind it is run. Outside a trigger only
/// a function can fail: this is no JSON.
const EXPECT_ROWS: &str = "SELECT json('rows: ' || changes()) WHERE changes() <> $1";

/// Statements that run in one call, with their parameters. Each text is prepared once, so there must be few different ones.
pub(super) struct Script {
    statements: Vec<Statement>,
    arguments: std::result::Result<SqliteArguments<'static>, BoxDynError>,
}

struct Statement {
    /// Holds `$` in its parameters only.
    text: &'static str,
    /// How many parameters come before its own.
    offset: usize,
    /// What it expects of the statement before it.
    expected: Option<(&'static str, usize)>,
}

impl Default for Script {
    fn default() -> Self {
        Self { statements: Vec::new(), arguments: Ok(SqliteArguments::default()) }
    }
}

impl Script {
    /// Adds a statement, whose parameters are then bound.
    pub(super) fn then(mut self, text: &'static str) -> Self {
        let offset = self.arguments.as_ref().map_or(0, Arguments::len);
        self.statements.push(Statement { text, offset, expected: None });
        self
    }

    /// Binds the last statement's next parameter.
    pub(super) fn bind(mut self, value: impl Encode<'static, Sqlite> + Type<Sqlite> + 'static) -> Self {
        if let Ok(arguments) = &mut self.arguments
            && let Err(error) = Arguments::add(arguments, value)
        {
            self.arguments = Err(error);
        }
        self
    }

    /// Adds that the last statement must have changed so many rows. Nobody else writes: another number than was decided
    /// upon is a defect, and nothing of it may stay.
    pub(super) fn expect_rows(mut self, what: &'static str, rows: usize) -> Self {
        self = self.then(EXPECT_ROWS).bind(i64::try_from(rows).unwrap_or(i64::MAX));
        if let Some(statement) = self.statements.last_mut() {
            statement.expected = Some((what, rows));
        }
        self
    }

    /// Whether there is nothing to run.
    pub(super) const fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Runs it.
    ///
    /// # Errors
    /// That of the first statement that fails.
    pub(super) async fn run(self, conn: &mut SqliteConnection) -> Result<Answers> {
        if self.is_empty() {
            return Ok(Answers::default());
        }
        self.run_between(conn, &[], None).await.map_err(|stopped| match stopped {
            Stopped::Within(error) => error,
            Stopped::Before(error) | Stopped::After(error) => failed(error),
        })
    }

    /// Runs it with statements before it and one after it, which have no parameters, in the same call.
    ///
    /// # Errors
    /// That of the first statement that fails, by its place.
    pub(super) async fn run_between(
        self,
        conn: &mut SqliteConnection,
        before: &[&'static str],
        after: Option<&'static str>,
    ) -> std::result::Result<Answers, Stopped> {
        let text = self.text(before, after);
        let Self { statements, arguments } = self;
        let arguments = arguments.map_err(|error| Stopped::Before(sqlx::Error::Encode(error)))?;
        let query = sqlx::query_with(&text, arguments);
        let mut stream = Executor::fetch_many(conn, query);
        let mut answers = Vec::with_capacity(before.len() + statements.len() + 1);
        let mut rows = Vec::new();
        let mut changed = 0;
        let error = loop {
            match stream.next().await {
                Some(Ok(Either::Right(row))) => rows.push(row),
                Some(Ok(Either::Left(done))) => {
                    changed = done.rows_affected();
                    answers.push(std::mem::take(&mut rows));
                }
                Some(Err(error)) => break error,
                None if answers.len() < before.len() + statements.len() + usize::from(after.is_some()) => {
                    break sqlx::Error::WorkerCrashed;
                }
                None => return Ok(Answers(answers.split_off(before.len()).into_iter())),
            }
        };
        Err(match answers.len().checked_sub(before.len()).map(|place| statements.get(place)) {
            None => Stopped::Before(error),
            Some(None) => Stopped::After(error),
            Some(Some(Statement { expected: Some((what, expected)), .. }))
                if u64::try_from(*expected) != Ok(changed) =>
            {
                Stopped::Within(StoreError::Internal(format!("{what}: {changed} rows instead of {expected}")))
            }
            Some(Some(_)) => Stopped::Within(failed(error)),
        })
    }

    fn text(&self, before: &[&'static str], after: Option<&'static str>) -> String {
        let mut text = String::new();
        for statement in before {
            text.push_str(statement);
            text.push(';');
        }
        for statement in &self.statements {
            push_renumbered(&mut text, statement.text, statement.offset);
            text.push(';');
        }
        text.push_str(after.unwrap_or_default());
        text
    }
}

/// Parameters are numbered through the whole text.
fn push_renumbered(out: &mut String, text: &str, offset: usize) {
    let mut parts = text.split('$');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let number: usize = part[..digits].parse().unwrap_or_default();
        // Writing to a string doesn't fail.
        let _ = write!(out, "${}{}", number + offset, &part[digits..]);
    }
}

/// Where a call stopped: what comes behind wasn't run.
#[derive(Debug)]
pub(super) enum Stopped {
    /// At one of the statements before the script.
    Before(sqlx::Error),
    /// At one of its own.
    Within(StoreError),
    /// At the one after it.
    After(sqlx::Error),
}

/// The rows that a script's statements gave, by statement.
#[derive(Default)]
pub(super) struct Answers(vec::IntoIter<Vec<SqliteRow>>);

impl Answers {
    /// The rows of the next statement.
    pub(super) fn rows(&mut self) -> Vec<SqliteRow> {
        self.0.next().unwrap_or_default()
    }

    /// The rows of the next statement, read.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`]
    pub(super) fn read<T: for<'r> FromRow<'r, SqliteRow>>(&mut self) -> Result<Vec<T>> {
        self.rows().iter().map(|row| T::from_row(row).map_err(failed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions;
    use sqlx_sqlite::SqliteConnectOptions;

    use super::*;

    async fn memory() -> SqliteConnection {
        let mut conn = SqliteConnectOptions::new().in_memory(true).connect().await.expect("a database");
        let made = Script::default().then("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)").run(&mut conn).await;
        made.expect("a table");
        conn
    }

    const INSERT: &str = "INSERT INTO t (a, b) VALUES ($1, $2)";

    async fn count(conn: &mut SqliteConnection) -> i64 {
        let mut answers = Script::default().then("SELECT count(*) FROM t").run(conn).await.expect("a count");
        answers.read::<(i64,)>().expect("a number")[0].0
    }

    #[tokio::test]
    async fn each_statement_has_its_parameters_and_rows() {
        let mut conn = memory().await;
        // Twice: the second time they are prepared already.
        for n in [1, 3] {
            let script = Script::default()
                .then(INSERT)
                .bind(n)
                .bind("x")
                .then("SELECT b, a FROM t WHERE b = $2 AND a = $1")
                .bind(n)
                .bind("x")
                .then(INSERT)
                .bind(n + 1)
                .bind("y")
                .then("SELECT a FROM t WHERE a >= $1 ORDER BY a")
                .bind(n);
            let mut answers = script.run(&mut conn).await.expect("answers");
            assert!(answers.rows().is_empty());
            assert_eq!(answers.read::<(String, i64)>().expect("rows"), [("x".to_owned(), n)]);
            assert!(answers.rows().is_empty());
            assert_eq!(answers.read::<(i64,)>().expect("rows"), [(n,), (n + 1,)]);
        }
        let script = Script::default().then("SELECT $1, $2, $10").bind(1);
        assert_eq!(script.then("SELECT $1 + $12").text(&["A"], Some("B")), "A;SELECT $1, $2, $10;SELECT $2 + $13;B");
    }

    #[tokio::test]
    async fn what_comes_behind_a_failure_is_not_run() {
        let mut conn = memory().await;
        let insert = |n: i64| Script::default().then(INSERT).bind(n).bind("x");
        let twice = insert(1).then(INSERT).bind(1).bind("y").then(INSERT).bind(2).bind("z");
        let stopped =
            twice.run_between(&mut conn, &["BEGIN"], Some("COMMIT")).await.map(drop).expect_err("the same key");
        assert!(matches!(stopped, Stopped::Within(StoreError::Invalid(_))), "{stopped:?}");
        let stopped = insert(3).run_between(&mut conn, &["BEGIN"], None).await.map(drop).expect_err("it has begun");
        assert!(matches!(stopped, Stopped::Before(_)), "{stopped:?}");
        assert_eq!(count(&mut conn).await, 1);
        Script::default().run_between(&mut conn, &["ROLLBACK"], None).await.expect("nothing else");
        assert_eq!(count(&mut conn).await, 0);
        let stopped =
            insert(4).run_between(&mut conn, &[], Some("COMMIT")).await.map(drop).expect_err("it hasn't begun");
        assert!(matches!(stopped, Stopped::After(_)), "{stopped:?}");
    }

    #[tokio::test]
    async fn rows_are_counted() {
        let mut conn = memory().await;
        for n in 1..=3 {
            let script = Script::default().then(INSERT).bind(n).bind("x").expect_rows("rows inserted", 1);
            script.run(&mut conn).await.expect("one");
        }
        for (expected, rest) in [(2, 3), (3, 4)] {
            let script = Script::default()
                .then("UPDATE t SET b = $1")
                .bind("y")
                .expect_rows("rows updated", expected)
                .then(INSERT)
                .bind(9)
                .bind("z");
            let why = script.run(&mut conn).await.err().map(|error| error.to_string());
            assert_eq!(why.is_some_and(|why| why.contains("rows updated: 3 rows instead of 2")), expected == 2);
            assert_eq!(count(&mut conn).await, rest);
        }
    }
}
