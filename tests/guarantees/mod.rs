//! What users are promised: a file for each promise.

mod accounts;
mod analytics;
mod audit;
mod bad_input;
mod cancel;
mod edge;
mod events;
mod first_run;
mod full_disk;
mod greed;
mod hangups;
mod idempotency;
mod isolation;
mod logins;
mod media;
mod open_answers;
mod operations;
mod own_files;
mod quota;
mod sending;
mod settings;
mod shares;
mod whatsapp;
