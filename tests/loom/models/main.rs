//! Models of the provider's lock-free parts: loom runs them under the interleavings that take up to three preemptions,
//! and lets an atomic have every value that a weak memory could show.
//!
//! The modules are the provider's own files, compiled against the `sync` of this crate.

#[path = "../../../provider/src/ring.rs"]
#[expect(dead_code, reason = "the models do not use everything, and its unit tests are left out")]
mod ring;
mod ring_models;
mod sync;
#[path = "../../../provider/src/engine/wake.rs"]
#[expect(dead_code, unused_imports, reason = "the models do not use everything, and its unit tests are left out")]
mod wake;
mod wake_models;

use libtest_mimic::{Arguments, Trial};

/// A model: a sentence of what holds, and a function that shows it once.
type Model = (&'static str, fn());

fn main() {
    let trials = [ring_models::ALL, wake_models::ALL].concat().into_iter().map(|(name, model)| {
        Trial::test(name, move || {
            explore(model);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn explore(model: fn()) {
    let mut builder = loom::model::Builder::new();
    // More takes many minutes; a wrong ordering or a lost wake-up shows with two or three.
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

const PREEMPTIONS: usize = 3;
