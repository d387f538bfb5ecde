//! Who uses an object: it cannot be destroyed before they are gone.

use crate::sync::{AtomicUsize, Ordering};

use super::Error;

/// The number of an object's users, until it is closed.
#[derive(Debug, Default)]
pub(super) struct Users(AtomicUsize);

impl Users {
    /// One more.
    ///
    /// # Errors
    /// [`Error::State`] if the object has been destroyed.
    pub(super) fn attach(&self) -> Result<(), Error> {
        // pairs with the Acquire in `close`
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n != CLOSED).then(|| n + 1)) {
            Ok(_) => Ok(()),
            Err(_) => Err(DESTROYED),
        }
    }

    /// One less. What it did happens before what follows `close`.
    pub(super) fn detach(&self) {
        // pairs with the Acquire in `close`; one that was refused has nothing to undo
        let _ =
            self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n != CLOSED).then(|| n.saturating_sub(1)));
    }

    /// Lets no more users in.
    ///
    /// # Errors
    /// [`Error::Busy`] while there are any; [`Error::State`] if it was closed before.
    pub(super) fn close(&self) -> Result<(), Error> {
        // pairs with the Release in `attach` and `detach`
        match self.0.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(CLOSED) => Err(DESTROYED),
            Err(_) => Err(Error::Busy),
        }
    }
}

const CLOSED: usize = usize::MAX;
const DESTROYED: Error = Error::State("the object has been destroyed");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_closes_once_and_only_when_it_has_no_users() {
        let users = Users::default();
        users.attach().unwrap();
        assert!(matches!(users.close(), Err(Error::Busy)));
        users.detach();
        users.close().unwrap();
        users.detach();
        assert!(matches!(users.close(), Err(Error::State(_))));
        assert!(matches!(users.attach(), Err(Error::State(_))));
    }
}
