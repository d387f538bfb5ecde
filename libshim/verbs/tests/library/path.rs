//! Where the library is.

use std::path::PathBuf;

/// Where cargo has built the library for its tests: above their folder, or beside them.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let deps = test.parent().expect("a test is in a folder");
    let places = [deps.to_owned(), deps.parent().expect("target/PROFILE/deps").to_owned()];
    let found = places.iter().map(|place| place.join("libdmverbs_verbs.so")).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("cargo has built no libdmverbs_verbs.so for this test"))
}
