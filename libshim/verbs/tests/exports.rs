//! The drop-in library exports what rdma-core's does, each symbol under its version.

#[path = "library/path.rs"]
mod path;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A defined dynamic symbol: name, version node, whether the node is the default one.
type Export = (String, String, bool);

#[test]
fn no_export_is_without_a_version() {
    let unversioned: Vec<_> = symbols(&path::library()).into_iter().filter(|symbol| !symbol.contains('@')).collect();
    assert_eq!(unversioned, Vec::<String>::new());
}

#[test]
fn no_export_of_rdma_core_is_missing() {
    let ours = exports();
    let wanted = include_str!("../exports.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let missing: Vec<_> = wanted.filter(|line| !ours.contains(&parse(line))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// That of Debian 12 is rdma-core 44's, whose vendor libraries are linked against another private node than 56's.
#[test]
fn no_export_of_this_machines_own_library_is_missing() {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path().join("libibverbs.so.1"));
    let installed = folders.into_iter().find(|library| library.exists()).expect("libibverbs1 is installed");
    let ours = exports();
    let missing: Vec<_> = exports_of(&installed).into_iter().filter(|export| !ours.contains(export)).collect();
    assert_eq!(missing, Vec::<Export>::new(), "of {}", installed.display());
}

#[test]
fn every_private_node_has_the_same_symbols() {
    let names = |node: &str| -> BTreeSet<String> {
        let of_node = exports().into_iter().filter(|(_, at, _)| at == node).map(|(name, ..)| name);
        of_node.filter(|name| !name.starts_with("verbs_register_driver_")).collect()
    };
    let first = names("IBVERBS_PRIVATE_34");
    assert!(first.len() > 70, "only {} private symbols", first.len());
    for node in ["IBVERBS_PRIVATE_57", "IBVERBS_PRIVATE_59", "IBVERBS_PRIVATE_64", "IBVERBS_PRIVATE_65"] {
        assert_eq!(names(node), first, "{node}");
        let driver = format!("verbs_register_driver_{}", &node["IBVERBS_PRIVATE_".len()..]);
        assert!(exports().iter().any(|(name, at, _)| *name == driver && at == node), "{driver}");
    }
}

#[test]
fn the_library_calls_itself_libibverbs() {
    let dynamic = readelf(&path::library(), "-d");
    assert!(dynamic.contains("Library soname: [libibverbs.so.1]"), "{dynamic}");
}

fn parse(line: &str) -> Export {
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_else(|| panic!("exports.txt: {line:?} lacks a word")).to_owned();
    let (node, name, kind) = (word(), word(), word());
    (name, node, kind == "default")
}

fn exports() -> BTreeSet<Export> {
    exports_of(&path::library())
}

fn exports_of(library: &Path) -> BTreeSet<Export> {
    let split = |symbol: String| {
        let (name, node) = symbol.split_once('@')?;
        let default = node.strip_prefix('@');
        Some((name.to_owned(), default.unwrap_or(node).to_owned(), default.is_some()))
    };
    symbols(library).into_iter().filter_map(split).collect()
}

/// Defined global symbols, as `name@node` or `name@@node`; without the nodes themselves.
fn symbols(library: &Path) -> Vec<String> {
    let table = readelf(library, "--dyn-syms");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let defined = rows
        .filter(|row| row.len() >= 8 && row[0] != "Num:" && row[4] != "LOCAL" && row[6] != "UND" && row[6] != "ABS");
    let names: Vec<String> = defined.map(|row| row[7].to_owned()).collect();
    assert!(names.len() > 100, "readelf lists only {} symbols", names.len());
    names
}

fn readelf(library: &Path, what: &str) -> String {
    let output = Command::new("readelf").args([what, "-W"]).arg(library).output();
    let output = output.unwrap_or_else(|e| panic!("readelf, of package binutils, does not run: {e}"));
    assert!(output.status.success(), "readelf {}: {}", library.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("symbol names are ASCII")
}
