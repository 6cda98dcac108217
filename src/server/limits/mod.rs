//! Limits on connections and requests.

pub mod connections;
pub mod rate_limit;
pub mod slow_body;
pub mod write_timeout;
