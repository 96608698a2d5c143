//! The priority of threads: what may take long yields to what others wait for, on a machine with few cores.

use std::io;

/// Lowers the calling thread's priority to a niceness, unless it is lower already. On Linux a niceness is a thread's own.
///
/// # Errors
/// The system doesn't allow it.
pub fn lower(niceness: i32) -> io::Result<()> {
    let already = rustix::process::getpriority_process(None).unwrap_or(0);
    Ok(rustix::process::setpriority_process(None, niceness.max(already))?)
}
