//! Who owes its peer an acknowledgement that may find a frame to ride on.

use std::sync::Arc;

/// Those that wait, each once.
#[derive(Debug)]
pub(super) struct Lazy<T> {
    waiting: Vec<Waiting<T>>,
    turns: u32,
}

#[derive(Debug)]
struct Waiting<T> {
    one: Arc<T>,
    /// It has waited since before the turns were last counted from 0.
    late: bool,
}

/// An acknowledgement waits for so many turns that bring nothing by its stream, and for less than twice as many.
const TURNS: u32 = 16;

impl<T> Default for Lazy<T> {
    fn default() -> Lazy<T> {
        Lazy { waiting: Vec::new(), turns: 0 }
    }
}

impl<T> Lazy<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// `one` waits, and if it has done so before it begins anew if its stream has `moved`.
    pub(super) fn add(&mut self, one: &Arc<T>, moved: bool) {
        match self.waiting.iter_mut().find(|waiting| Arc::ptr_eq(&waiting.one, one)) {
            Some(waiting) => waiting.late &= !moved,
            None => self.waiting.push(Waiting { one: one.clone(), late: false }),
        }
    }

    pub(super) fn forget(&mut self, one: &Arc<T>) {
        self.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.one, one));
    }

    /// A turn is over: those that have waited for long enough wait no longer.
    pub(super) fn take_late(&mut self) -> Vec<Arc<T>> {
        self.turns += 1;
        if self.turns < TURNS {
            return Vec::new();
        }
        self.turns = 0;
        let late = self.waiting.extract_if(.., |waiting| std::mem::replace(&mut waiting.late, true));
        late.map(|waiting| waiting.one).collect()
    }

    /// Nobody waits any longer.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Arc<T>> {
        self.waiting.drain(..).map(|waiting| waiting.one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_some_turns_since_its_stream_brought_something_last() {
        let mut lazy = Lazy::default();
        let [busy, idle] = [Arc::new("busy"), Arc::new("idle")];
        let waited = (1..=10 * TURNS).find_map(|turn| {
            lazy.add(&busy, true);
            lazy.add(&idle, turn == 1);
            let late = lazy.take_late();
            assert!(!late.contains(&busy));
            (!late.is_empty()).then_some((turn, late))
        });
        let (turns, late) = waited.unwrap();
        assert_eq!(late, [idle]);
        assert!((TURNS..=2 * TURNS).contains(&turns), "{turns}");
        assert_eq!(lazy.take_all().collect::<Vec<_>>(), [busy]);
    }
}
