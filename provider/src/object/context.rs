//! An opened device; ibv_open_device(3).

use std::os::fd::RawFd;
use std::sync::Arc;

use super::event::EventQueue;
use super::{AsyncEvent, Device, Error};
use crate::engine::Progress;

/// An opened device, with its queue of asynchronous events.
#[derive(Debug)]
pub struct Context {
    device: Arc<Device>,
    events: EventQueue,
    progress: &'static Progress,
}

impl Context {
    /// Opens a device; starts the progress engine if this is the process's first.
    ///
    /// # Errors
    /// What the system says when it gives no event queue, thread or listener; a bad environment variable by its name.
    pub fn open(device: &Arc<Device>) -> Result<Arc<Context>, Error> {
        let progress = Progress::start()?;
        let context = Arc::new(Context { device: device.clone(), events: EventQueue::new()?, progress });
        progress.links().watch(&context);
        Ok(context)
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// An eventfd(2), a semaphore: readable while an event is queued.
    #[must_use]
    pub fn async_fd(&self) -> RawFd {
        self.events.fd()
    }

    /// Takes the oldest event, for one that the caller has read from the fd. None if that was of an event that has been
    /// dropped since: then there is another to wait for.
    #[must_use]
    pub fn claim_event(&self) -> Option<AsyncEvent> {
        self.events.claim()
    }

    /// Takes the oldest event, waiting for one.
    ///
    /// # Errors
    /// `EAGAIN` if there is none and O_NONBLOCK was set on the fd.
    pub fn wait_event(&self) -> Result<AsyncEvent, Error> {
        self.events.wait()
    }

    pub(crate) fn events(&self) -> &EventQueue {
        &self.events
    }

    pub(crate) fn progress(&self) -> &'static Progress {
        self.progress
    }
}
