//! The Rust bindings of `infiniband/verbs.h`.

use std::path::Path;

use anyhow::{Context, Result};
use bindgen::callbacks::{DeriveTrait, ImplementsTrait, ParseCallbacks};
use bindgen::{Builder, EnumVariation, Formatter};

/// Where the C library declares types. Their layout depends on the architecture, and the libc crate knows it.
const LIBC_HEADERS: &str = ".*/bits/.*";
/// Those of them that the verbs interface uses.
const LIBC_TYPES: &str = "pthread_cond_t, pthread_mutex_t, timespec";

/// Makes the bindings' source, not yet formatted.
pub fn make(headers: &Path) -> Result<String> {
    let builder = Builder::default()
        .header_contents("wrapper.h", "#include <infiniband/verbs.h>")
        .clang_arg(format!("-I{}", headers.display()))
        // All that the headers of rdma-core say themselves, and what that needs.
        .allowlist_file(".*/infiniband/[^/]*\\.h")
        .ignore_functions()
        .blocklist_file(LIBC_HEADERS)
        // A C program may hand us any value in an enum; a Rust enum would make that undefined behaviour.
        .default_enum_style(EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .disable_header_comment()
        .use_core()
        .parse_callbacks(Box::new(LibcDerives))
        .formatter(Formatter::None)
        .raw_line("// Made by `cargo xtask regen` from rdma-core's infiniband/verbs.h; changes here are lost.\n")
        .raw_line(format!("use libc::{{{LIBC_TYPES}}};\n"));
    let bindings = builder.generate().context("bindgen, which needs the package libclang-dev, makes no bindings")?;
    Ok(bindings.to_string())
}

/// What the libc crate derives for its types.
#[derive(Debug)]
struct LibcDerives;

impl ParseCallbacks for LibcDerives {
    fn blocklisted_type_implements_trait(&self, _name: &str, derived: DeriveTrait) -> Option<ImplementsTrait> {
        Some(match derived {
            DeriveTrait::Copy | DeriveTrait::Debug => ImplementsTrait::Yes,
            _ => ImplementsTrait::No,
        })
    }
}
