//! The keys of a file: matched without regard to case, as upstream's reader does, and compared with those that are known.
//!
//! Holds no state. Names of registries and attributes are the user's own and stay as they are written.

use std::mem::take;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::unused::{CONTENT_STORE, UNUSED, Unused};
use super::{Config, Host, Mirror};

/// Any name, in the tree of known keys.
const ANY: &str = "*";

/// All keys, as a tree of tables: those of the configuration, and those without a meaning.
fn known() -> Table {
    let mut known = Table::try_from(Config::default()).unwrap_or_default();
    let mirrors = Host { mirrors: vec![Mirror::default()] };
    let mirrors = Value::try_from(mirrors).unwrap_or(Value::Boolean(true));
    put(&mut known, &["resolver", "host", ANY], mirrors);
    for unused in UNUSED {
        let path: Vec<_> = unused.key.split('.').collect();
        put(&mut known, &path, Value::Boolean(true));
    }
    known
}

/// Puts a value where no other is.
fn put(table: &mut Table, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        table.entry(*first).or_insert(value);
    } else if let Value::Table(inner) = table.entry(*first).or_insert(Value::Table(Table::new())) {
        put(inner, rest, value);
    }
}

/// Gives the keys of a file the case that they have here.
pub(super) fn fold_case(file: &mut DeTable<'_>) {
    fold(file, &known());
}

fn fold(table: &mut DeTable<'_>, known: &Table) {
    for (mut key, mut value) in take(table) {
        let name = known.keys().find(|name| name.eq_ignore_ascii_case(key.get_ref()));
        match (value.get_mut(), name.map_or(known.get(ANY), |name| known.get(name))) {
            (DeValue::Table(inner), Some(Value::Table(below))) => fold(inner, below),
            (DeValue::Array(entries), Some(Value::Array(below))) => {
                let below = below.first().and_then(Value::as_table);
                for entry in entries.iter_mut() {
                    if let (DeValue::Table(inner), Some(below)) = (entry.get_mut(), below) {
                        fold(inner, below);
                    }
                }
            }
            _ => {}
        }
        if let Some(name) = name {
            *key.get_mut() = name.clone().into();
        }
        // A table that is written in two ways is one.
        if let (Some(DeValue::Table(before)), DeValue::Table(more)) =
            (table.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.get_mut())
        {
            before.extend(take(more));
        } else {
            table.insert(key, value);
        }
    }
}

/// Which keys of the file nothing goes by.
pub(super) fn unused(file: &DeTable<'_>) -> Vec<Unused> {
    let store = get(file, "content_store.type").and_then(DeValue::as_str);
    let store = (store == Some("containerd")).then_some(CONTENT_STORE);
    let others = UNUSED.iter().filter(|unused| get(file, unused.key).is_some()).copied();
    store.into_iter().chain(others).collect()
}

/// Whether a key, as a path, is one that nothing goes by.
pub(super) fn is_unused(key: &str) -> bool {
    let names = |unused: &Unused| {
        key.strip_prefix(unused.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    UNUSED.iter().any(names)
}

fn get<'a, 'i>(file: &'a DeTable<'i>, path: &str) -> Option<&'a DeValue<'i>> {
    match path.split_once('.') {
        None => file.get(path).map(Spanned::get_ref),
        Some((first, rest)) => match file.get(first)?.get_ref() {
            DeValue::Table(inner) => get(inner, rest),
            _ => None,
        },
    }
}
