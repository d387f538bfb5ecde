//! Makes the version script and the linker arguments that give every export its symbol version.
//!
//! A version script that names symbols would leave Rust's `no_mangle` functions unversioned. So the script has
//! only empty nodes, in order, `src/exports.rs` binds each symbol to its node in assembly, and everything else
//! is local. The linker must be lld: it is found beside the compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The version nodes of rdma-core's libibverbs.so.1, 44 to 65, and that of our own extensions.
const NODES: [&str; 22] = [
    "IBVERBS_1.0",
    "IBVERBS_1.1",
    "IBVERBS_1.5",
    "IBVERBS_1.6",
    "IBVERBS_1.7",
    "IBVERBS_1.8",
    "IBVERBS_1.9",
    "IBVERBS_1.10",
    "IBVERBS_1.11",
    "IBVERBS_1.12",
    "IBVERBS_1.13",
    "IBVERBS_1.14",
    "IBVERBS_1.15",
    "IBVERBS_1.16",
    "IBVERBS_1.17",
    "IBVERBS_1.18",
    "IBVERBS_PRIVATE_34",
    "IBVERBS_PRIVATE_57",
    "IBVERBS_PRIVATE_59",
    "IBVERBS_PRIVATE_64",
    "IBVERBS_PRIVATE_65",
    "DMVERBS_1.0",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let script = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("libibverbs.map");
    // The last node catches what has no version; a symbol of ours must never land there.
    let nodes = NODES.iter().map(|node| format!("{node} {{ }};\n")).collect::<String>();
    fs::write(&script, nodes + "LOCAL { local: *; };\n").expect("OUT_DIR is writable");

    let host = env::var("HOST").expect("cargo sets HOST");
    let wrapper = sysroot().join("lib/rustlib").join(host).join("bin/gcc-ld");
    assert!(wrapper.join("ld.lld").exists(), "no lld beside the compiler: {} is missing", wrapper.display());
    for arg in [
        "-fuse-ld=lld".to_owned(),
        format!("-B{}", wrapper.display()),
        "-Wl,-soname,libibverbs.so.1".to_owned(),
        // The progress thread runs in this library: it must outlive a dlclose(3).
        "-Wl,-z,nodelete".to_owned(),
        format!("-Wl,--version-script={}", script.display()),
    ] {
        println!("cargo::rustc-cdylib-link-arg={arg}");
    }
}

fn sysroot() -> PathBuf {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().expect("the compiler runs");
    let path = String::from_utf8(output.stdout).expect("the sysroot's path is UTF-8");
    Path::new(path.trim()).to_owned()
}
