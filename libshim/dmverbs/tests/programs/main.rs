//! Programs started by `dmverbs run`, and what reaches them; and the commands that look at the machine.

mod library;
mod nic;
mod run;
mod shadow;
mod support;
