//! Waiting for a condition, with a limit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `ready` again and again until it gives something, or fails once `limit` has passed.
///
/// `what` ends the sentence "waited 5s for …". The short pause between two questions only keeps the processor free
/// for the programs that are waited for: it decides nothing.
pub fn until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = ready()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        thread::park_timeout(PAUSE);
    }
}

const PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_the_condition_found() {
        let mut asked = 0;

        let found = until("three questions", Duration::from_secs(5), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });

        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn names_what_it_waited_for_when_time_is_up() {
        let error = until::<()>("nothing", Duration::from_millis(10), || Ok(None)).unwrap_err();

        assert_eq!(error.to_string(), "waited 10ms for nothing");
    }

    #[test]
    fn stops_at_once_when_the_question_fails() {
        let error = until::<()>("nothing", Duration::from_secs(60), || bail!("the program ended")).unwrap_err();

        assert_eq!(error.to_string(), "the program ended");
    }
}
