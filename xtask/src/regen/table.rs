//! The table that `include/tests/layout` compares with what a C compiler says: C expressions, and the values that
//! the bindings give them.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use syn::{Fields, Item, Type};

/// What bindgen puts into the name of a type that has none in C; such a type belongs to the one that holds it.
const NAMELESS_TYPE: &str = "__bindgen_ty_";
/// What bindgen calls a member that has no name in C.
const NAMELESS_MEMBER: &str = "__bindgen_anon_";
/// What bindgen gives as a member to a type that is declared in C and never defined.
const STAND_INS: [&str; 2] = ["_address", "_unused"];

/// Makes the table's source, not yet formatted, from the source of the bindings.
pub fn make(bindings: &str) -> Result<String> {
    let items = syn::parse_file(bindings).context("the bindings are not Rust")?.items;
    let types = Types::of(&items);
    let mut table = String::from(
        "//! Made by `cargo xtask regen` from `include/src/verbs.rs`; changes here are lost.\n\n\
         use std::mem::offset_of;\n\nuse rdma_core_sys::verbs::*;\n",
    );
    section(&mut table, "SIZES", "Structures, unions and enums.", &types.sizes());
    section(&mut table, "OFFSETS", "Members.", &types.offsets());
    section(&mut table, "CONSTANTS", "Enumerators and macros.", &constants(&items));
    Ok(table)
}

/// A C expression, and the Rust expression that must have the same value.
type Row = (String, String);

fn section(table: &mut String, name: &str, about: &str, rows: &[Row]) {
    write!(table, "\n/// {about}\npub const {name}: &[(&str, u64)] = &[\n").expect("a String takes all");
    for (c, rust) in rows {
        writeln!(table, "({c:?}, {rust}),").expect("a String takes all");
    }
    table.push_str("];\n");
}

fn constants(items: &[Item]) -> Vec<Row> {
    let constants = items.iter().filter_map(|item| match item {
        Item::Const(constant) => Some((constant.ident.to_string(), plain_name(&constant.ty))),
        _ => None,
    });
    let row = |(name, of): (String, Option<String>)| {
        let cast = if of.as_deref() == Some("u64") { "" } else { " as u64" };
        (name.clone(), name + cast)
    };
    constants.map(row).collect()
}

/// The bindings' types by name, in the order of the alphabet.
struct Types {
    aggregates: BTreeMap<String, Aggregate>,
    enums: Vec<String>,
}

struct Aggregate {
    keyword: &'static str,
    members: Vec<(String, Option<String>)>,
}

impl Types {
    fn of(items: &[Item]) -> Types {
        let mut types = Types { aggregates: BTreeMap::new(), enums: Vec::new() };
        for item in items {
            match item {
                Item::Struct(item) => {
                    if let Fields::Named(fields) = &item.fields {
                        let members = fields.named.iter().map(member).collect();
                        types.aggregates.insert(item.ident.to_string(), Aggregate { keyword: "struct", members });
                    }
                }
                Item::Union(item) => {
                    let members = item.fields.named.iter().map(member).collect();
                    types.aggregates.insert(item.ident.to_string(), Aggregate { keyword: "union", members });
                }
                // The other aliases are the integers of the kernel's headers, and have two underscores.
                Item::Type(item) if item.ident.to_string().starts_with("ib") => {
                    types.enums.push(item.ident.to_string())
                }
                _ => (),
            }
        }
        types
    }

    /// Those with a name in C whose members are known to it.
    fn complete(&self) -> impl Iterator<Item = (&String, &Aggregate)> {
        let known = |of: &Aggregate| !of.members.iter().any(|(name, _)| STAND_INS.contains(&name.as_str()));
        self.aggregates.iter().filter(move |(name, of)| !name.contains(NAMELESS_TYPE) && known(of))
    }

    fn sizes(&self) -> Vec<Row> {
        let row =
            |keyword: &str, name: &String| (format!("sizeof({keyword} {name})"), format!("size_of::<{name}>() as u64"));
        let aggregates = self.complete().map(|(name, of)| row(of.keyword, name));
        aggregates.chain(self.enums.iter().map(|name| row("enum", name))).collect()
    }

    fn offsets(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, of) in self.complete() {
            let mut paths = Vec::new();
            self.paths(of, "", "", &mut paths);
            rows.extend(paths.into_iter().map(|(c, rust)| {
                let c = format!("offsetof({} {name}, {c})", of.keyword);
                (c, format!("offset_of!({name}, {rust}) as u64"))
            }));
        }
        rows
    }

    /// The members of `of`, and those of its members' nameless types, as paths in C and in Rust.
    fn paths(&self, of: &Aggregate, c: &str, rust: &str, found: &mut Vec<Row>) {
        for (name, type_name) in &of.members {
            let rust = format!("{rust}{name}");
            let c = if name.starts_with(NAMELESS_MEMBER) { c.to_owned() } else { format!("{c}{}", c_name(name)) };
            let named = !name.starts_with(NAMELESS_MEMBER);
            if named {
                found.push((c.clone(), rust.clone()));
            }
            let nameless_type = type_name.as_ref().filter(|name| name.contains(NAMELESS_TYPE));
            if let Some(inner) = nameless_type.and_then(|name| self.aggregates.get(name)) {
                let dot = if named { "." } else { "" };
                self.paths(inner, &format!("{c}{dot}"), &format!("{rust}."), found);
            }
        }
    }
}

/// A member's name, and its type's if that is a plain name.
fn member(field: &syn::Field) -> (String, Option<String>) {
    let name = field.ident.as_ref().expect("the fields are named").to_string();
    (name, plain_name(&field.ty))
}

fn plain_name(of: &Type) -> Option<String> {
    match of {
        Type::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    }
}

/// bindgen appends an underscore to a name that is a keyword of Rust.
fn c_name(name: &str) -> &str {
    match name.strip_suffix('_') {
        Some(plain) if syn::parse_str::<syn::Ident>(plain).is_err() => plain,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::make;

    const BINDINGS: &str = "
        pub const IBV_ONE: ibv_number = 1;
        pub const IBV_WIDE: u64 = 1;
        pub type ibv_number = u32;
        pub type __u8 = u8;
        pub struct ibv_wr {
            pub id: u64,
            pub type_: u8,
            pub __bindgen_anon_1: ibv_wr__bindgen_ty_1,
            pub op: ibv_wr__bindgen_ty_2,
        }
        pub union ibv_wr__bindgen_ty_1 { pub imm: u32 }
        pub union ibv_wr__bindgen_ty_2 { pub rdma: u64 }
        pub struct ibv_hidden { _unused: [u8; 0] }
    ";

    #[test]
    fn a_member_is_named_as_c_names_it() {
        let table = make(BINDINGS).unwrap();
        for row in [
            r#"("sizeof(struct ibv_wr)", size_of::<ibv_wr>() as u64)"#,
            r#"("sizeof(enum ibv_number)", size_of::<ibv_number>() as u64)"#,
            r#"("offsetof(struct ibv_wr, type)", offset_of!(ibv_wr, type_) as u64)"#,
            r#"("offsetof(struct ibv_wr, imm)", offset_of!(ibv_wr, __bindgen_anon_1.imm) as u64)"#,
            r#"("offsetof(struct ibv_wr, op.rdma)", offset_of!(ibv_wr, op.rdma) as u64)"#,
            r#"("IBV_ONE", IBV_ONE as u64)"#,
            r#"("IBV_WIDE", IBV_WIDE)"#,
        ] {
            assert!(table.contains(row), "{row} is not in {table}");
        }
    }

    #[test]
    fn what_c_cannot_name_has_no_row() {
        let table = make(BINDINGS).unwrap();
        for text in ["\"sizeof(struct ibv_hidden", "\"sizeof(union ibv_wr__", "__u8"] {
            assert!(!table.contains(text), "{text} is in {table}");
        }
    }
}
