//! Log output, as `DMVERBS_LOG` asks for it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use crate::Errno;
use dmverbs_provider::Uncancelled;
use dmverbs_provider::config::config;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging to standard error; only the first call does anything. Without `DMVERBS_LOG`, warnings and
/// errors are shown. A set-uid process takes nothing from the environment: `config` sees to that.
///
/// # Errors
/// EINVAL if the variable makes no sense; warnings and errors are shown then.
pub fn start() -> Result<(), Errno> {
    static STARTED: OnceLock<Result<(), Errno>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // A bad value of another variable is told by who needs that one.
            let wanted = config().ok().and_then(|config| config.log.as_deref());
            let wanted = wanted.map_or(Ok(default()), |text| {
                parse(text).map_err(|why| Errno::misuse(format!("DMVERBS_LOG={text:?}: {why}")))
            });
            let (filter, result) = wanted.map_or_else(|e| (default(), Err(e)), |filter| (filter, Ok(())));
            // A Rust program that links us may have its own subscriber; then ours stands back.
            drop(tracing_subscriber::registry().with(filter).with(Lines).try_init());
            result
        })
        .clone()
}

/// A line on standard error for each event, as `fmt::layer()` writes them. That keeps a buffer for each thread, which is
/// gone when a program's handlers of exit(3), or the destructors of its statics, destroy what they have of verbs.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = line(event).unwrap_or_else(|_| format!("{}: cannot be shown\n", event.metadata().name()));
        // It may not end its thread.
        let _uncancelled = Uncancelled::begin();
        // Who else would be told?
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

fn line(event: &Event<'_>) -> Result<String, std::fmt::Error> {
    let mut line = String::new();
    SystemTime.format_time(&mut Writer::new(&mut line))?;
    write!(line, " {:>5} {}: ", event.metadata().level(), event.metadata().target())?;
    DefaultFields::new().format_fields(Writer::new(&mut line), event)?;
    line.push('\n');
    Ok(line)
}

fn default() -> Targets {
    Targets::new().with_default(LevelFilter::WARN)
}

/// Whether `DMVERBS_LOG` may have this value.
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

/// Understands `LEVEL` and `TARGET=LEVEL`, with commas between several.
fn parse(text: &str) -> Result<Targets, String> {
    if text.trim().is_empty() {
        return Ok(default());
    }
    let mut targets = Targets::new();
    for part in text.split(',').map(str::trim) {
        let (target, level) = part.split_once('=').map_or((None, part), |(target, level)| (Some(target), level));
        let known = (!level.is_empty()).then(|| level.parse().ok()).flatten();
        let known: LevelFilter = known
            .ok_or_else(|| format!("{level:?} is no level; levels are off, error, warn, info, debug and trace"))?;
        targets = match target {
            Some(target) => targets.with_target(target, known),
            None => targets.with_default(known),
        };
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn levels_are_understood_alone_and_by_target() {
        let targets = parse("warn, dmverbs_provider=debug").unwrap();
        assert!(targets.would_enable("dmverbs_provider", &Level::DEBUG));
        assert!(!targets.would_enable("dmverbs_verbs", &Level::INFO));
        assert!(parse("off").is_ok());
        assert_eq!(parse("").unwrap(), default());
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        assert!(parse("banana").unwrap_err().contains("\"banana\""));
        assert!(parse("dmverbs_provider=loud").is_err());
        assert!(parse("dmverbs_provider=").is_err());
    }
}
