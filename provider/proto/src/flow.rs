//! How much payload is on its way, of requests and of responses alike (WIRE §4.4).

use crate::engine::Fatal;
use crate::work::Window;

/// Bytes of payload since the connection began.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Handed to the stream, and in its place at the peer as far as that has said.
    sent: u64,
    landed: u64,
    /// In its place here, and what of that the peer has been told.
    placed: u64,
    told: u64,
    /// What may be on its way, unless that is little.
    pub(crate) window: u64,
    /// [`GRAIN`], except in tests.
    pub(crate) grain: u64,
}

/// The peer is told at once when so much more is in its place (WIRE §5.2), and twice as much may always be on its way.
const GRAIN: u64 = 2 << 20;

impl Flow {
    pub(crate) fn new() -> Flow {
        let window = Window::UNLIMITED.bytes;
        Flow { sent: 0, landed: 0, placed: 0, told: 0, window, grain: GRAIN }
    }

    /// Whether payload has to wait.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.sent - self.landed >= self.window.max(2 * self.grain)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    #[inline]
    pub(crate) fn on_sent(&mut self, bytes: u32) {
        self.sent += u64::from(bytes);
    }

    /// The peer says how much is in its place.
    pub(crate) fn on_told(&mut self, landed: u64) -> Result<(), Fatal> {
        if !(self.landed..=self.sent).contains(&landed) {
            return Err(Fatal::Sequence("counts payload that was never sent, or takes some back"));
        }
        self.landed = landed;
        Ok(())
    }

    #[inline]
    pub(crate) fn on_placed(&mut self, bytes: u32) {
        self.placed += u64::from(bytes);
    }

    /// What an Ack says.
    pub(crate) fn placed(&self) -> u64 {
        self.placed
    }

    /// An Ack has said it.
    pub(crate) fn tell(&mut self) {
        self.told = self.placed;
    }

    /// The peer should hear of it when there is a good occasion.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.placed - self.told >= self.grain.div_ceil(4)
    }

    /// The peer should hear of it now.
    #[inline]
    pub(crate) fn has_much_news(&self) -> bool {
        self.placed - self.told >= self.grain
    }
}
