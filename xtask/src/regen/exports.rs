//! The symbols that rdma-core's `libibverbs.so.1` exports, each with its version node.

use std::cmp::Reverse;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::output;

/// Makes the list: a line for each symbol, by node and name.
pub fn make(library: &Path) -> Result<String> {
    let table = output(Command::new("readelf").args(["--dyn-syms", "-W"]).arg(library))?;
    let list = list(&table);
    ensure!(list.lines().count() > 100, "{} exports next to nothing", library.display());
    Ok(HEADER.to_owned() + &list)
}

const HEADER: &str = "\
# Made by `cargo xtask regen` from rdma-core 56's libibverbs.so.1, which has all that 44's has; changes here are lost.
# Version node, symbol, and whether a program linked today gets this version (default) or another (compat).
";

fn list(table: &str) -> String {
    let mut exports: Vec<_> = table.lines().filter_map(export).collect();
    exports.sort_by_key(|&(name, node, _)| (order(node), name));
    exports.dedup();
    exports.iter().map(|(name, node, kind)| format!("{node} {name} {kind}\n")).collect()
}

/// A row of `readelf --dyn-syms` that defines a symbol; the nodes themselves are rows too, with an absolute value.
fn export(row: &str) -> Option<(&str, &str, &'static str)> {
    let words: Vec<&str> = row.split_whitespace().collect();
    let [_, _, _, _, binding, _, section, symbol] = words[..] else { return None };
    if binding == "LOCAL" || matches!(section, "UND" | "ABS") {
        return None;
    }
    let (name, node) = symbol.split_once('@')?;
    Some(node.strip_prefix('@').map_or((name, node, "compat"), |node| (name, node, "default")))
}

/// The public nodes in the order of their numbers, then the private ones.
fn order(node: &str) -> (Reverse<bool>, u32, &str) {
    let public = node.strip_prefix("IBVERBS_1.").and_then(|number| number.parse().ok());
    (Reverse(public.is_some()), public.unwrap_or(0), node)
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn exports_are_listed_by_node_and_name() {
        let table = "\
Symbol table '.dynsym' contains 7 entries:
   Num:    Value          Size Type    Bind   Vis      Ndx Name
     1: 0000000000000000     0 OBJECT  GLOBAL DEFAULT  UND stderr@GLIBC_2.2.5 (15)
     2: 0000000000020281     1 OBJECT  GLOBAL DEFAULT   24 private@@IBVERBS_PRIVATE_34
     3: 0000000000000000     0 OBJECT  GLOBAL DEFAULT  ABS IBVERBS_1.10
     4: 0000000000001000     9 FUNC    GLOBAL DEFAULT   14 late@@IBVERBS_1.10
     5: 0000000000001000     9 FUNC    GLOBAL DEFAULT   14 early@@IBVERBS_1.9
     6: 0000000000001000     9 FUNC    GLOBAL DEFAULT   14 early@IBVERBS_1.0
";
        let wanted = "\
IBVERBS_1.0 early compat
IBVERBS_1.9 early default
IBVERBS_1.10 late default
IBVERBS_PRIVATE_34 private default
";
        assert_eq!(list(table), wanted);
    }
}
