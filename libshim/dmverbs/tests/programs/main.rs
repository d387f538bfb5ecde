//! Programs started by `dmverbs run`, and what reaches them.

mod library;
mod run;
mod shadow;
mod support;
