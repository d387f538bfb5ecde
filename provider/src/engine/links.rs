//! Changes of the interfaces below opened devices, and of their addresses, as events of the port.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::object::{AsyncEvent, Context, Gid};
use crate::sys::netlink::{LinkEvent, LinkEvents};

/// Watches links.
#[derive(Debug)]
pub(crate) struct Links {
    /// Absent where the system gives no netlink socket: then there are no port events.
    events: Option<LinkEvents>,
    watched: Mutex<Vec<Watched>>,
}

/// A context, and what it knows.
#[derive(Debug)]
struct Watched {
    context: Weak<Context>,
    running: bool,
    gids: Vec<Gid>,
}

impl Links {
    pub(super) fn new() -> io::Result<Links> {
        let events = LinkEvents::new().inspect_err(|e| tracing::warn!(error = %e, "no link events")).ok();
        Ok(Links { events, watched: Mutex::default() })
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(LinkEvents::fd)
    }

    /// Tells `context` of changes from now on, as long as it lives.
    pub(crate) fn watch(&self, context: &Arc<Context>) {
        let mut watched = self.watched.lock();
        watched.retain(|watched| watched.context.strong_count() > 0);
        let device = context.device();
        let (running, gids) = (device.port().is_active(), device.gids().unwrap_or_default());
        watched.push(Watched { context: Arc::downgrade(context), running, gids });
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
        for Watched { context, running, gids } in self.watched.lock().iter_mut() {
            let Some(context) = context.upgrade().filter(|c| c.device().ifindex() == event.ifindex) else { continue };
            if let Some(now) = event.running
                && std::mem::replace(running, now) != now
            {
                context.events().push(if now { AsyncEvent::PortActive(1) } else { AsyncEvent::PortErr(1) });
            }
            // Of a link, too: it may stand for what was lost.
            if let Ok(now) = context.device().gids()
                && *gids != now
            {
                *gids = now;
                context.events().push(AsyncEvent::GidChange(1));
            }
        }
    }
}
