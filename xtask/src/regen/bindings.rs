//! The Rust bindings of `infiniband/verbs.h`, and of our own headers.

use std::path::Path;

use anyhow::{Context, Result};
use bindgen::callbacks::{DeriveTrait, ImplementsTrait, ParseCallbacks};
use bindgen::{Builder, EnumVariation, Formatter};

/// Where the C library declares types. Their layout depends on the architecture, and the libc crate knows it.
const LIBC_HEADERS: &str = ".*/bits/.*";
/// Those of them that the verbs interface uses.
const LIBC_TYPES: &str = "pthread_cond_t, pthread_mutex_t, timespec";

/// Makes the source of the bindings of `infiniband/verbs.h`, not yet formatted.
pub fn verbs(headers: &Path) -> Result<String> {
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

/// Makes the source of the bindings of `dmverbs.h`, not yet formatted.
pub fn dmverbs(own: &Path, headers: &Path) -> Result<String> {
    let builder = Builder::default()
        .header_contents("wrapper.h", "#include <dmverbs.h>")
        .clang_args([own, headers].map(|folder| format!("-I{}", folder.display())))
        .allowlist_type("dmv_.*")
        .default_enum_style(EnumVariation::Consts)
        .prepend_enum_name(false);
    small(builder, "dmverbs.h")
}

/// Makes the source of the bindings of `softaccel.h`, not yet formatted. bindgen knows no macros with arguments, hence
/// the numbers of the calls come as constants of the wrapper.
pub fn softaccel(uapi: &Path) -> Result<String> {
    let calls = ["INFO", "ALLOC", "COPY", "SUM"];
    let calls = calls.map(|call| format!("const unsigned long {call} = SOFTACCEL_{call};\n")).concat();
    let builder = Builder::default()
        .header_contents("wrapper.h", &format!("#include <softaccel.h>\n{calls}"))
        .clang_arg(format!("-I{}", uapi.display()))
        .allowlist_file(".*/softaccel\\.h")
        .allowlist_var("INFO|ALLOC|COPY|SUM");
    small(builder, "uapi/softaccel.h")
}

/// Bindings of a header of our own.
fn small(builder: Builder, header: &str) -> Result<String> {
    let builder = builder
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .disable_header_comment()
        .use_core()
        .formatter(Formatter::None)
        .raw_line(format!("// Made by `cargo xtask regen` from {header}; changes here are lost.\n"));
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
