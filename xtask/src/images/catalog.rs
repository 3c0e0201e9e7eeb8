//! All images by their names, and the key that says whether one must be built again.
//!
//! Holds no state. A key covers every byte of a recipe and of its parent's, so a changed workload script or package list
//! rebuilds exactly the images that contain it.

use soci_core::digest::Hasher;

use super::recipe::{Recipe, Step};
use super::{base, database, java, node, python};

/// Mixed into every key: raise it when the layer writer changes what it writes.
const FORMAT: &str = "1";

/// All images, parents before children.
pub(crate) fn all() -> Vec<Recipe> {
    vec![
        base::base(),
        database::redis(),
        python::pyml(),
        node::node(),
        java::java(),
        database::postgres(),
        python::torchdeb(),
        python::torch(),
    ]
}

/// The image of this name.
pub(crate) fn find(name: &str) -> Option<Recipe> {
    all().into_iter().find(|recipe| recipe.name == name)
}

/// A key that changes with anything that goes into the image.
pub(crate) fn key(recipe: &Recipe) -> String {
    let mut hash = Hasher::new();
    let mut add = |text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    add(FORMAT);
    add(&recipe.parent.and_then(find).map(|parent| key(&parent)).unwrap_or_default());
    for layer in &recipe.layers {
        add(layer.title);
        for step in &layer.steps {
            let words = match step {
                Step::Chroot(script) => ["chroot".to_owned(), String::new(), script.clone()],
                Step::Host(script) => ["host".to_owned(), String::new(), script.clone()],
                Step::File { path, mode, contents } => {
                    [(*path).to_owned(), format!("{mode:o}"), (*contents).to_owned()]
                }
            };
            for word in words {
                add(&word);
            }
        }
    }
    recipe.cmd.iter().chain(recipe.env).for_each(|word| add(word));
    add(recipe.workdir);
    hash.finish().hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parent_is_known_and_comes_first() {
        let all = all();
        for (at, recipe) in all.iter().enumerate() {
            if let Some(parent) = recipe.parent {
                assert!(all[..at].iter().any(|other| other.name == parent), "{}", recipe.name);
            }
        }
    }

    #[test]
    fn a_key_follows_the_parent_and_every_step() {
        let plain = database::redis();
        let mut other = database::redis();
        other.layers[0].steps.push(Step::Chroot("true".to_owned()));
        assert_ne!(key(&plain), key(&other));
        let mut orphan = database::redis();
        orphan.parent = None;
        assert_ne!(key(&plain), key(&orphan));
        assert_eq!(key(&plain), key(&database::redis()));
    }
}
