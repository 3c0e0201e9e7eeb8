//! The database of snapshots: names, states, parents, labels, in redb.
//!
//! Owns `metadata.redb`. Every change is one transaction, on disk when it is done unless it says [`Lasts::WithTheNext`], and
//! writers exclude each other; what a caller does to the disk inside a transaction ([`Metadata::create`]) is therefore never
//! seen half done by [`Metadata::exclusively`].
//!
//! The rules are containerd's (`snapshots/storage`): keys and names share one name space; a parent is committed; a
//! committed snapshot replaces labels and times of the active one; a snapshot with children stays.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use redb::{
    Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction,
};

use super::database::Healing;
use super::error::{Error, Result};
use super::filter::Filter;
use super::labels;
use super::record::{Chain, Info, Kind, Labels, Record, SnapshotId, Usage};
use crate::boot::BootId;

/// Name -> [`Record`] as JSON.
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// (parent, child) -> (): who would be orphaned.
const CHILDREN: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("children");
/// Counters; `next_id` is the id of the next snapshot.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const NEXT_ID: &str = "next_id";
/// Id of a committed snapshot -> the boot in which its files were written, as long as they may not be on the disk. Rows of
/// snapshots that are gone are of no meaning.
const UNSYNCED: TableDefinition<'_, u64, [u8; 16]> = TableDefinition::new("unsynced");

/// When a change outlasts the process and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// When it is done.
    Now,
    /// When the next change does that lasts now, or [`Metadata::sync`] is done. That saves a wait for the disk.
    WithTheNext,
}

/// The database.
#[derive(Debug)]
pub struct Metadata {
    db: Healing,
}

impl Metadata {
    /// Opens or makes the database file. One process only may have it open.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Healing::open(path)?;
        db.with(|db| {
            let write = db.begin_write()?;
            write.open_table(SNAPSHOTS)?;
            write.open_table(CHILDREN)?;
            write.open_table(COUNTERS)?;
            write.open_table(UNSYNCED)?;
            Ok(write.commit()?)
        })?;
        Ok(Self { db })
    }

    /// Makes an active or view snapshot. `place` runs inside the transaction and makes its directory; when it fails,
    /// nothing has happened.
    pub fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        lasts: Lasts,
        place: impl FnOnce(&Chain) -> Result<()>,
    ) -> Result<Chain> {
        if kind == Kind::Committed {
            return Err(Error::InvalidArgument("a snapshot is not made committed".to_owned()));
        }
        if key.is_empty() {
            return Err(Error::InvalidArgument("snapshot key is empty".to_owned()));
        }
        self.db.with(|db| {
            let mut write = db.begin_write()?;
            if lasts == Lasts::WithTheNext {
                // A database that cannot put it off does not.
                let _ = write.set_durability(Durability::None);
            }
            let chain = {
                let mut snapshots = write.open_table(SNAPSHOTS)?;
                let parents = match parent {
                    None => Vec::new(),
                    Some(parent) => {
                        let record = committed(&snapshots, parent)?;
                        ancestry(&snapshots, record)?
                    }
                };
                if snapshots.get(key)?.is_some() {
                    return Err(Error::AlreadyExists(key.to_owned()));
                }
                let id = next_id(&write)?;
                let now = SystemTime::now();
                let record = Record {
                    id,
                    kind,
                    parent: parent.map(str::to_owned),
                    labels: without_empty(labels),
                    created: now,
                    updated: now,
                    usage: Usage::default(),
                };
                put(&mut snapshots, key, &record)?;
                if let Some(parent) = parent {
                    write.open_table(CHILDREN)?.insert((parent, key), ())?;
                }
                Chain { id, kind, parents }
            };
            place(&chain)?;
            write.commit()?;
            Ok(chain)
        })
    }

    /// What is wrong with the database, if something is.
    ///
    /// # Errors
    /// When its file is gone, was replaced, or cannot be read, or when the disk has failed it and still does.
    pub fn check(&self) -> Result<()> {
        self.db.check()?;
        self.db.with(|db| {
            db.begin_read()?.open_table(SNAPSHOTS)?;
            Ok(())
        })
    }

    /// Everything that was changed lasts from now on.
    pub fn sync(&self) -> Result<()> {
        self.db.with(|db| Ok(db.begin_write()?.commit()?))
    }

    /// Turns the active snapshot `key` into the committed snapshot `name` with these labels. `parent`: what is below it from now
    /// on; a snapshot that was made on another one keeps that one.
    /// With `written`, its files were written in that boot and may not be on the disk.
    ///
    /// # Errors
    /// When the parent is not there, not committed, or not the one on which the snapshot was made.
    pub fn commit(
        &self,
        key: &str,
        name: &str,
        parent: Option<&str>,
        usage: Usage,
        labels: Labels,
        written: Option<BootId>,
    ) -> Result<()> {
        if name.is_empty() {
            return Err(Error::InvalidArgument("snapshot name is empty".to_owned()));
        }
        self.db.with(|db| {
            let write = db.begin_write()?;
            {
                let mut snapshots = write.open_table(SNAPSHOTS)?;
                if snapshots.get(name)?.is_some() {
                    return Err(Error::AlreadyExists(name.to_owned()));
                }
                let mut record = get(&snapshots, key)?;
                if record.kind != Kind::Active {
                    return Err(Error::FailedPrecondition(format!("snapshot {key:?} is not active")));
                }
                let mut children = write.open_table(CHILDREN)?;
                if let Some(below) = &record.parent {
                    children.remove((below.as_str(), key))?;
                }
                record.parent = parent_at_commit(&snapshots, key, record.parent, parent)?;
                record.kind = Kind::Committed;
                record.created = SystemTime::now();
                record.updated = record.created;
                record.labels = without_empty(labels);
                record.usage = usage;
                snapshots.remove(key)?;
                put(&mut snapshots, name, &record)?;
                mark(&write, record.id, written)?;
                if let Some(parent) = &record.parent {
                    children.insert((parent.as_str(), name), ())?;
                }
            }
            Ok(write.commit()?)
        })
    }

    /// Makes a committed snapshot one of a whole layer, whose files were written in the boot `written`.
    pub fn make_whole(&self, name: &str, usage: Usage, written: BootId) -> Result<()> {
        self.db.with(|db| {
            let write = db.begin_write()?;
            {
                let mut snapshots = write.open_table(SNAPSHOTS)?;
                let mut record = get(&snapshots, name)?;
                record.labels.remove(labels::REMOTE);
                record.usage = usage;
                record.updated = SystemTime::now();
                put(&mut snapshots, name, &record)?;
                mark(&write, record.id, Some(written))?;
            }
            Ok(write.commit()?)
        })
    }

    /// The committed snapshots whose files may not be on the disk, each with the boot in which they were written.
    pub fn unsynced(&self) -> Result<Vec<(SnapshotId, BootId)>> {
        self.db.with(|db| {
            let table = db.begin_read()?.open_table(UNSYNCED)?;
            let rows = table.iter()?.map(|row| {
                let (id, boot) = row?;
                Ok((SnapshotId(id.value()), BootId::from_bytes(boot.value())))
            });
            rows.collect()
        })
    }

    /// The files of these snapshots are on the disk.
    pub fn synced(&self, ids: &[SnapshotId]) -> Result<()> {
        self.db.with(|db| {
            let write = db.begin_write()?;
            {
                let mut table = write.open_table(UNSYNCED)?;
                for id in ids {
                    table.remove(id.0)?;
                }
            }
            Ok(write.commit()?)
        })
    }

    /// Forgets a snapshot without children; gives the id of its directory.
    pub fn remove(&self, key: &str) -> Result<SnapshotId> {
        self.db.with(|db| {
            let write = db.begin_write()?;
            let record = {
                let mut snapshots = write.open_table(SNAPSHOTS)?;
                let mut children = write.open_table(CHILDREN)?;
                let record = get(&snapshots, key)?;
                if let Some(first) = children.range((key, "")..)?.next()
                    && first?.0.value().0 == key
                {
                    return Err(Error::FailedPrecondition(format!(
                        "cannot remove snapshot {key:?}: it has children"
                    )));
                }
                snapshots.remove(key)?;
                if let Some(parent) = &record.parent {
                    children.remove((parent.as_str(), key))?;
                }
                record
            };
            write.commit()?;
            Ok(record.id)
        })
    }

    /// Changes the fields named by `paths`: `labels` (all of them) or `labels.NAME`; without paths, everything that may
    /// change. A label set to nothing goes away.
    pub fn update(&self, name: &str, labels: &Labels, paths: &[String]) -> Result<Info> {
        self.db.with(|db| {
            let write = db.begin_write()?;
            let record = {
                let mut snapshots = write.open_table(SNAPSHOTS)?;
                let mut record = get(&snapshots, name)?;
                if paths.is_empty() {
                    record.labels.clone_from(labels);
                }
                for path in paths {
                    if path == "labels" {
                        record.labels.clone_from(labels);
                    } else if let Some(label) = path.strip_prefix("labels.") {
                        record
                            .labels
                            .insert(label.to_owned(), labels.get(label).cloned().unwrap_or_default());
                    } else {
                        return Err(Error::InvalidArgument(format!(
                            "cannot update field {path:?} of snapshot {name:?}"
                        )));
                    }
                }
                record.labels = without_empty(record.labels);
                record.updated = SystemTime::now();
                put(&mut snapshots, name, &record)?;
                record
            };
            write.commit()?;
            Ok(record.into_info(name))
        })
    }

    /// One snapshot of any kind: directory, description, and the usage stored at its commit.
    pub fn stat(&self, name: &str) -> Result<(SnapshotId, Info, Usage)> {
        self.db.with(|db| {
            let record = get(&db.begin_read()?.open_table(SNAPSHOTS)?, name)?;
            let (id, usage) = (record.id, record.usage);
            Ok((id, record.into_info(name), usage))
        })
    }

    /// The chain of an active or view snapshot.
    pub fn chain(&self, key: &str) -> Result<Chain> {
        self.db.with(|db| {
            let snapshots = db.begin_read()?.open_table(SNAPSHOTS)?;
            let record = get(&snapshots, key)?;
            if record.kind == Kind::Committed {
                return Err(Error::FailedPrecondition(format!(
                    "snapshot {key:?} is neither active nor a view"
                )));
            }
            let (id, kind) = (record.id, record.kind);
            let mut parents = ancestry(&snapshots, record)?;
            parents.remove(0);
            Ok(Chain { id, kind, parents })
        })
    }

    /// The snapshots below one of any kind, nearest first.
    pub fn parents(&self, name: &str) -> Result<Vec<SnapshotId>> {
        self.db.with(|db| {
            let snapshots = db.begin_read()?.open_table(SNAPSHOTS)?;
            let mut parents = ancestry(&snapshots, get(&snapshots, name)?)?;
            parents.remove(0);
            Ok(parents)
        })
    }

    /// All snapshots that match at least one of the filters (all of them without filters), by name.
    pub fn list(&self, filters: &[Filter]) -> Result<Vec<(SnapshotId, Info)>> {
        self.db.with(|db| {
            let snapshots = db.begin_read()?.open_table(SNAPSHOTS)?;
            let mut found = Vec::new();
            for row in snapshots.iter()? {
                let (name, value) = row?;
                let record = decode(name.value(), value.value())?;
                let id = record.id;
                let info = record.into_info(name.value());
                if filters.is_empty() || filters.iter().any(|filter| filter.matches(&info)) {
                    found.push((id, info));
                }
            }
            Ok(found)
        })
    }

    /// Runs `work` with the ids of all snapshots while no snapshot is made, committed or removed.
    pub fn exclusively<T>(&self, work: impl FnOnce(&BTreeSet<SnapshotId>) -> T) -> Result<T> {
        self.db.with(|db| {
            let write = db.begin_write()?;
            let ids = {
                let snapshots = write.open_table(SNAPSHOTS)?;
                let ids = snapshots.iter()?.map(|row| {
                    let (name, value) = row?;
                    Ok(decode(name.value(), value.value())?.id)
                });
                ids.collect::<Result<BTreeSet<_>>>()?
            };
            let result = work(&ids);
            write.abort()?;
            Ok(result)
        })
    }
}

fn mark(write: &WriteTransaction, id: SnapshotId, written: Option<BootId>) -> Result<()> {
    if let Some(boot) = written {
        write.open_table(UNSYNCED)?.insert(id.0, boot.to_bytes())?;
    }
    Ok(())
}

fn next_id(write: &WriteTransaction) -> std::result::Result<SnapshotId, TableError> {
    let mut counters = write.open_table(COUNTERS)?;
    let id = counters.get(NEXT_ID)?.map_or(1, |next| next.value());
    counters.insert(NEXT_ID, id + 1)?;
    Ok(SnapshotId(id))
}

fn get(snapshots: &impl ReadableTable<&'static str, &'static [u8]>, name: &str) -> Result<Record> {
    match snapshots.get(name)? {
        Some(value) => decode(name, value.value()),
        None => Err(Error::NotFound(name.to_owned())),
    }
}

/// The record of what is to be a parent.
fn committed(snapshots: &impl ReadableTable<&'static str, &'static [u8]>, parent: &str) -> Result<Record> {
    let record = get(snapshots, parent)?;
    if record.kind == Kind::Committed {
        return Ok(record);
    }
    Err(Error::InvalidArgument(format!("parent {parent:?} is not a committed snapshot")))
}

/// What is below the snapshot `key` after its commit: `own` was below it, `told` is what the commit says. Ends no circle: the
/// parent is committed, and nothing committed is above what is active.
fn parent_at_commit(
    snapshots: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
    own: Option<String>,
    told: Option<&str>,
) -> Result<Option<String>> {
    let Some(told) = told else { return Ok(own) };
    committed(snapshots, told)?;
    match own {
        Some(own) if own != told => Err(Error::FailedPrecondition(format!(
            "snapshot {key:?} was made on {own:?} and cannot be committed on {told:?}"
        ))),
        _ => Ok(Some(told.to_owned())),
    }
}

fn put(snapshots: &mut Table<'_, &'static str, &'static [u8]>, name: &str, record: &Record) -> Result<()> {
    let value =
        serde_json::to_vec(record).map_err(|source| Error::Record { name: name.to_owned(), source })?;
    snapshots.insert(name, value.as_slice())?;
    Ok(())
}

fn decode(name: &str, value: &[u8]) -> Result<Record> {
    serde_json::from_slice(value).map_err(|source| Error::Record { name: name.to_owned(), source })
}

/// The ids of a snapshot and its ancestors, nearest first. Ends because every parent is older than its child.
fn ancestry(
    snapshots: &impl ReadableTable<&'static str, &'static [u8]>,
    record: Record,
) -> Result<Vec<SnapshotId>> {
    let mut ids = vec![record.id];
    let mut parent = record.parent;
    while let Some(name) = parent {
        let record = get(snapshots, &name)?;
        ids.push(record.id);
        parent = record.parent;
    }
    Ok(ids)
}

fn without_empty(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}
