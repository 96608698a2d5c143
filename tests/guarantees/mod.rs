//! What users are promised: a file for each promise.

mod bad_input;
mod cancel;
mod first_run;
mod idempotency;
mod quota;
mod sending;
mod settings;
