//! A sliding-window rate limit, per key.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);

/// Admits at most `limit` events a minute for each key.
pub struct RateLimiter {
    limit: usize,
    times: Mutex<HashMap<String, VecDeque<Instant>>>,
}

impl RateLimiter {
    pub fn per_minute(limit: usize) -> Self {
        Self { limit, times: Mutex::default() }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts an event; `false`, uncounted, if the limit is reached.
    pub fn admit(&self, key: &str) -> bool {
        self.admit_at(key, Instant::now())
    }

    /// Uncounts the last event, because the request was refused for another reason.
    pub fn take_back(&self, key: &str) {
        let mut keys = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = keys.get_mut(key) {
            times.pop_back();
        }
    }

    fn admit_at(&self, key: &str, now: Instant) -> bool {
        let mut keys = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let times = keys.entry(key.to_string()).or_default();
        while times.front().is_some_and(|&time| now.duration_since(time) >= WINDOW) {
            times.pop_front();
        }
        let admitted = times.len() < self.limit;
        if admitted {
            times.push_back(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides_and_keys_are_counted_separately() {
        let rate = RateLimiter::per_minute(2);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(rate.admit_at("a", start) && rate.admit_at("a", after(30)));
        assert!(!rate.admit_at("a", after(59)) && rate.admit_at("b", after(59)));
        assert!(rate.admit_at("a", after(60)) && !rate.admit_at("a", after(89)));
    }
}
