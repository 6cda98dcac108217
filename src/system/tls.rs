//! The TLS implementation of all HTTPS clients and of the server: rustls with ring.

use std::sync::Once;

/// Makes ring the process's default TLS provider, once. A provider that the program has chosen before stays.
pub(crate) fn install_provider() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // Fails if there is one already, which is then used.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
