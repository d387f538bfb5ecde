//! Link changes of the interfaces below opened devices, as port events.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::object::{AsyncEvent, Context};
use crate::sys::netlink::{LinkEvent, LinkEvents};

/// Watches links.
#[derive(Debug)]
pub(crate) struct Links {
    /// Absent where the system gives no netlink socket: then there are no port events.
    events: Option<LinkEvents>,
    watched: Mutex<Vec<(Weak<Context>, bool)>>,
}

impl Links {
    pub(super) fn new() -> io::Result<Links> {
        let events = LinkEvents::new().inspect_err(|e| tracing::warn!(error = %e, "no link events")).ok();
        Ok(Links { events, watched: Mutex::default() })
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(LinkEvents::fd)
    }

    /// Tells `context` of link changes from now on, as long as it lives.
    pub(crate) fn watch(&self, context: &Arc<Context>) {
        let mut watched = self.watched.lock();
        watched.retain(|(weak, _)| weak.strong_count() > 0);
        watched.push((Arc::downgrade(context), context.device().port().is_active()));
    }

    /// Reads what netlink has, and passes on what changed.
    pub(super) fn on_readable(&self) {
        let Some(events) = &self.events else { return };
        while let Ok(Some(batch)) = events.read() {
            for event in batch {
                self.pass_on(event);
            }
        }
    }

    fn pass_on(&self, event: LinkEvent) {
        for (weak, running) in self.watched.lock().iter_mut() {
            let Some(context) = weak.upgrade().filter(|c| c.device().ifindex() == event.ifindex) else { continue };
            if std::mem::replace(running, event.running) != event.running {
                context.events().push(if event.running { AsyncEvent::PortActive(1) } else { AsyncEvent::PortErr(1) });
            }
        }
    }
}
