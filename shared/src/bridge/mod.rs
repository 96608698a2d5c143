//! The implementations of the [`Bridge`](crate::ports::bridge::Bridge) port.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod simulator;
pub mod whatsapp;

/// Locks what holds whole values at any time: a panic elsewhere doesn't spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
