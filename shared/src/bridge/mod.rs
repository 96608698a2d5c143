//! The implementations of the [`Bridge`](crate::ports::bridge::Bridge) port.

pub mod simulator;
pub mod whatsapp;
