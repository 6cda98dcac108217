//! Cooperative cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::system::{Error, Result};

/// Asks a running job to stop; clones share the request.
#[derive(Debug, Clone, Default)]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
    parent: Option<Box<CancelToken>>,
}

impl CancelToken {
    pub fn new() -> Self {
        Self::default()
    }

    /// A token for a part of the work: cancelled with this one, or alone.
    pub(crate) fn child(&self) -> Self {
        Self { cancelled: Arc::default(), parent: Some(Box::new(self.clone())) }
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        let parent = self.parent.as_ref().is_some_and(|parent| parent.is_cancelled());
        parent || self.cancelled.load(Ordering::Relaxed)
    }

    /// [`Error::Interrupted`] once the token is cancelled: `token.check()?` at every safe place.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelling_reaches_every_clone() {
        let token = CancelToken::new();
        let clone = token.clone();
        assert!(clone.check().is_ok());
        token.cancel();
        assert!(matches!(clone.check(), Err(Error::Interrupted)));
    }
}
