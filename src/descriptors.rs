//! File descriptors: each connection takes one, and so do files and the services' connections.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that are left to all else, at least: databases, services, files, sessions.
const OTHERS_MIN: u64 = 256;

/// Has the process open as many as it may.
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

/// How many connections clients may have, if so many are wanted.
pub(crate) fn connections(wanted: usize) -> usize {
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return wanted };
    let possible = bounded(wanted, descriptors);
    if possible < wanted {
        tracing::warn!(
            "at most {possible} connections instead of {wanted}: the process may open {descriptors} files; see ulimit -n"
        );
    }
    possible
}

/// A quarter of the descriptors is left to all else.
fn bounded(wanted: usize, descriptors: u64) -> usize {
    let possible = descriptors.saturating_sub((descriptors / 4).max(OTHERS_MIN)).max(2);
    wanted.min(usize::try_from(possible).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stay_below_the_descriptors() {
        assert_eq!(bounded(10_000, 1_000_000), 10_000);
        assert_eq!(bounded(10_000, 1_024), 768);
        assert_eq!(bounded(10_000, 4_096), 3_072);
        assert_eq!(bounded(10_000, 10), 2);
    }
}
