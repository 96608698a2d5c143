//! Who computes TLS for those that don't say: HTTP clients.

/// Has TLS computed by ring in this process. Repeated calls do no harm.
pub fn install() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
