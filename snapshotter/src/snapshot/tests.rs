//! The database of snapshots against a model of containerd's rules.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Error, Kind, Labels, Lasts, Metadata, Usage};

/// What anybody can ask of the database. Names are small numbers, so that requests meet.
#[derive(Debug, Clone)]
enum Request {
    Create { view: bool, key: u8, parent: Option<u8> },
    Commit { key: u8, name: u8, parent: Option<u8> },
    Remove { name: u8 },
    Label { name: u8, value: Option<u8> },
    Reopen,
}

fn request() -> impl Strategy<Value = Request> {
    let name = || 0..8u8;
    prop_oneof![
        4 => (any::<bool>(), name(), proptest::option::of(name()))
            .prop_map(|(view, key, parent)| Request::Create { view, key, parent }),
        4 => (name(), name(), proptest::option::weighted(0.3, name()))
            .prop_map(|(key, name, parent)| Request::Commit { key, name, parent }),
        2 => name().prop_map(|name| Request::Remove { name }),
        1 => (name(), proptest::option::of(0..3u8)).prop_map(|(name, value)| Request::Label { name, value }),
        1 => Just(Request::Reopen),
    ]
}

/// The rules, written as plainly as possible.
#[derive(Debug, Default)]
struct Model {
    snapshots: BTreeMap<String, (Kind, Option<String>, Labels)>,
}

/// What is answered: the class of the error, if it is one.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
}

fn answer<T>(result: Result<T, Error>) -> Answer {
    match result {
        Ok(_) => Answer::Done,
        Err(Error::NotFound(_)) => Answer::NotFound,
        Err(Error::AlreadyExists(_)) => Answer::AlreadyExists,
        Err(Error::FailedPrecondition(_)) => Answer::FailedPrecondition,
        Err(Error::InvalidArgument(_)) => Answer::InvalidArgument,
        Err(error) => panic!("{error}"),
    }
}

impl Model {
    fn create(&mut self, view: bool, key: &str, parent: Option<&str>) -> Answer {
        match parent.map(|parent| self.snapshots.get(parent).map(|snapshot| snapshot.0)) {
            Some(None) => return Answer::NotFound,
            Some(Some(Kind::Active | Kind::View)) => return Answer::InvalidArgument,
            None | Some(Some(Kind::Committed)) => {}
        }
        if self.snapshots.contains_key(key) {
            return Answer::AlreadyExists;
        }
        let kind = if view { Kind::View } else { Kind::Active };
        self.snapshots.insert(key.to_owned(), (kind, parent.map(str::to_owned), Labels::new()));
        Answer::Done
    }

    fn commit(&mut self, key: &str, name: &str, told: Option<&str>) -> Answer {
        if self.snapshots.contains_key(name) {
            return Answer::AlreadyExists;
        }
        match self.snapshots.get(key).map(|snapshot| snapshot.0) {
            None => return Answer::NotFound,
            Some(Kind::View | Kind::Committed) => return Answer::FailedPrecondition,
            Some(Kind::Active) => {}
        }
        match told.map(|told| self.snapshots.get(told).map(|snapshot| snapshot.0)) {
            Some(None) => return Answer::NotFound,
            Some(Some(Kind::Active | Kind::View)) => return Answer::InvalidArgument,
            None | Some(Some(Kind::Committed)) => {}
        }
        let own = self.snapshots[key].1.clone();
        if own.is_some() && told.is_some() && own.as_deref() != told {
            return Answer::FailedPrecondition;
        }
        self.snapshots.remove(key);
        let parent = own.or(told.map(str::to_owned));
        self.snapshots.insert(name.to_owned(), (Kind::Committed, parent, Labels::new()));
        Answer::Done
    }

    fn remove(&mut self, name: &str) -> Answer {
        if !self.snapshots.contains_key(name) {
            Answer::NotFound
        } else if self.snapshots.values().any(|snapshot| snapshot.1.as_deref() == Some(name)) {
            Answer::FailedPrecondition
        } else {
            self.snapshots.remove(name);
            Answer::Done
        }
    }

    fn chain_length(&self, name: &str) -> usize {
        self.snapshots[name].1.as_deref().map_or(1, |parent| 1 + self.chain_length(parent))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_database_follows_containerds_rules(requests in proptest::collection::vec(request(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata.redb");
        let mut metadata = Metadata::open(&path).unwrap();
        let mut model = Model::default();
        let mut ids = BTreeSet::new();
        for request in requests {
            match request {
                Request::Create { view, key, parent } => {
                    let (key, parent) = (key.to_string(), parent.map(|parent| parent.to_string()));
                    let kind = if view { Kind::View } else { Kind::Active };
                    let expected = model.create(view, &key, parent.as_deref());
                    let made = metadata.create(kind, &key, parent.as_deref(), Labels::new(), Lasts::Now, |_| Ok(()));
                    if let Ok(chain) = &made {
                        prop_assert!(ids.insert(chain.id), "id {} was used twice", chain.id);
                        prop_assert_eq!(chain.parents.len() + 1, model.chain_length(&key));
                    }
                    prop_assert_eq!(answer(made), expected);
                }
                Request::Commit { key, name, parent } => {
                    let (key, name) = (key.to_string(), name.to_string());
                    let parent = parent.map(|parent| parent.to_string());
                    let expected = model.commit(&key, &name, parent.as_deref());
                    let usage = Usage { size: 5, inodes: 1 };
                    let done = metadata.commit(&key, &name, parent.as_deref(), usage, Labels::new(), None);
                    prop_assert_eq!(answer(done), expected);
                }
                Request::Remove { name } => {
                    let name = name.to_string();
                    prop_assert_eq!(answer(metadata.remove(&name)), model.remove(&name));
                }
                Request::Label { name, value } => {
                    let name = name.to_string();
                    let value = value.map(|value| value.to_string());
                    let labels: Labels = value.iter().map(|value| ("a.b".to_owned(), value.clone())).collect();
                    let updated = metadata.update(&name, &labels, &["labels.a.b".to_owned()]);
                    match model.snapshots.get_mut(&name) {
                        None => prop_assert_eq!(answer(updated), Answer::NotFound),
                        Some(snapshot) => {
                            snapshot.2 = labels;
                            prop_assert_eq!(&updated.unwrap().labels, &snapshot.2);
                        }
                    }
                }
                Request::Reopen => {
                    drop(metadata);
                    metadata = Metadata::open(&path).unwrap();
                }
            }
            let listed: BTreeMap<_, _> = metadata.list(&[]).unwrap().into_iter()
                .map(|(_, info)| (info.name.clone(), (info.kind, info.parent, info.labels)))
                .collect();
            prop_assert_eq!(&listed, &model.snapshots);
            for (name, (kind, ..)) in &model.snapshots {
                match metadata.chain(name) {
                    Ok(chain) => prop_assert_eq!(chain.parents.len() + 1, model.chain_length(name)),
                    Err(Error::FailedPrecondition(_)) => prop_assert_eq!(*kind, Kind::Committed),
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
        }
    }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn open() -> (tempfile::TempDir, Metadata) {
    let dir = tempfile::tempdir().unwrap();
    let metadata = Metadata::open(&dir.path().join("metadata.redb")).unwrap();
    (dir, metadata)
}

#[test]
fn a_directory_that_cannot_be_made_leaves_no_snapshot() {
    let (_dir, metadata) = open();
    let refuse = |_: &_| Err(Error::InvalidArgument("no".to_owned()));
    assert_eq!(
        answer(metadata.create(Kind::Active, "a", None, Labels::new(), Lasts::Now, refuse)),
        Answer::InvalidArgument
    );
    assert_eq!(answer(metadata.stat("a")), Answer::NotFound);
    assert_eq!(
        answer(metadata.create(Kind::Active, "a", None, Labels::new(), Lasts::Now, |_| Ok(()))),
        Answer::Done
    );
}

#[test]
fn a_commit_replaces_labels_and_stores_the_usage() {
    let (_dir, metadata) = open();
    metadata.create(Kind::Active, "a", None, labels([("old", "1")]), Lasts::Now, |_| Ok(())).unwrap();
    let usage = Usage { size: 4096, inodes: 2 };
    metadata.commit("a", "b", None, usage, labels([("new", "2"), ("empty", "")]), None).unwrap();
    let (_, info, stored) = metadata.stat("b").unwrap();
    assert_eq!((info.labels, stored, info.kind), (labels([("new", "2")]), usage, Kind::Committed));
    assert_eq!(answer(metadata.stat("a")), Answer::NotFound);
}

#[test]
fn what_lasts_with_the_next_change_does_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metadata.redb");
    let lost = dir.path().join("lost.redb");
    let metadata = Metadata::open(&file).unwrap();
    metadata.create(Kind::Active, "a", None, Labels::new(), Lasts::WithTheNext, |_| Ok(())).unwrap();
    assert_eq!(metadata.stat("a").unwrap().1.kind, Kind::Active);
    // What a process that dies now leaves.
    std::fs::copy(&file, &lost).unwrap();
    assert_eq!(answer(Metadata::open(&lost).unwrap().stat("a")), Answer::NotFound);
    for (key, lasts) in [("b", true), ("c", false)] {
        metadata.create(Kind::Active, key, None, Labels::new(), Lasts::WithTheNext, |_| Ok(())).unwrap();
        if lasts {
            metadata.commit("a", "layer", None, Usage::default(), Labels::new(), None)
        } else {
            metadata.sync()
        }
        .unwrap();
        std::fs::copy(&file, &lost).unwrap();
        let left = Metadata::open(&lost).unwrap();
        assert!(left.stat(key).is_ok() && left.stat("layer").is_ok(), "{key}");
    }
}

#[test]
fn updates_change_only_what_their_paths_name() {
    let (_dir, metadata) = open();
    metadata
        .create(Kind::Active, "a", None, labels([("x", "1"), ("y", "1")]), Lasts::Now, |_| Ok(()))
        .unwrap();
    let update = |new: Labels, paths: &[&str]| {
        let paths: Vec<_> = paths.iter().map(|&path| path.to_owned()).collect();
        metadata.update("a", &new, &paths).map(|info| info.labels)
    };
    assert_eq!(
        update(labels([("x", "2"), ("y", "2")]), &["labels.x"]).unwrap(),
        labels([("x", "2"), ("y", "1")])
    );
    assert_eq!(update(Labels::new(), &["labels.y"]).unwrap(), labels([("x", "2")]));
    assert_eq!(update(labels([("z", "3")]), &[]).unwrap(), labels([("z", "3")]));
    assert_eq!(update(labels([("w", "3")]), &["labels"]).unwrap(), labels([("w", "3")]));
    assert!(matches!(update(Labels::new(), &["parent"]), Err(Error::InvalidArgument(_))));
    assert_eq!(metadata.stat("a").unwrap().1.labels, labels([("w", "3")]));
}
