//! What an image is made of: layers of build steps, and the command that the image starts.
//!
//! A recipe is plain data. Its key covers every byte of it and of its parent's, so a changed workload
//! script or package list rebuilds exactly the images that contain it.

use soci_core::digest::Hasher;

use super::{base, database, java, node, python};

/// Mixed into every key: raise it when the layer writer changes what it writes.
const FORMAT: &str = "1";

/// One image.
pub(crate) struct Recipe {
    /// Name of the image, of its OCI layout and of its repository in the registry.
    pub(crate) name: &'static str,
    /// The image whose layers come first.
    pub(crate) parent: Option<&'static str>,
    /// Own layers, lowest first.
    pub(crate) layers: Vec<Layer>,
    /// The image's `Cmd`.
    pub(crate) cmd: &'static [&'static str],
    /// Additions to the image's `Env`.
    pub(crate) env: &'static [&'static str],
    /// The image's `WorkingDir`.
    pub(crate) workdir: &'static str,
}

/// One layer: what a `RUN` or `COPY` does on top of the layers below.
pub(crate) struct Layer {
    /// Written to the image's history.
    pub(crate) title: &'static str,
    /// Done in this order.
    pub(crate) steps: Vec<Step>,
}

/// One step of a layer.
pub(crate) enum Step {
    /// A bash script inside the image's root.
    Chroot(String),
    /// A bash script on this machine; `$M` is the image's root, `$MIRROR` the Debian archive this machine
    /// uses, `$DOWNLOADS` a folder kept between builds.
    Host(String),
    /// A file with these contents and mode.
    File { path: &'static str, mode: u32, contents: &'static str },
}

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

impl Recipe {
    /// A key that changes with anything that goes into the image.
    pub(crate) fn key(&self) -> String {
        let mut hash = Hasher::new();
        let mut add = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(FORMAT);
        add(&self.parent.and_then(find).map(|parent| parent.key()).unwrap_or_default());
        for layer in &self.layers {
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
        self.cmd.iter().chain(self.env).for_each(|word| add(word));
        add(self.workdir);
        hash.finish().hex()
    }
}

/// Installs Debian packages and leaves no lists, caches or logs behind.
pub(crate) fn apt_install(packages: &str) -> Step {
    Step::Chroot(format!(
        "apt-get -qq -o Acquire::Retries=3 update >/dev/null\n\
         apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install {packages} >/dev/null\n{CLEAN}"
    ))
}

/// Removes what differs from build to build and what no image ships.
pub(crate) const CLEAN: &str = "apt-get -qq clean\n\
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache /var/log/*.log \
    /var/log/apt /var/cache/debconf/*-old /var/lib/dpkg/*-old /root/.npm /root/.cache /var/lib/systemd";

/// The workload's files, as the image's last layer.
pub(crate) fn app(files: impl IntoIterator<Item = (&'static str, u32, &'static str)>) -> Layer {
    let steps = files.into_iter().map(|(path, mode, contents)| Step::File { path, mode, contents }).collect();
    Layer { title: "app", steps }
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
        assert_ne!(plain.key(), other.key());
        let mut orphan = database::redis();
        orphan.parent = None;
        assert_ne!(plain.key(), orphan.key());
        assert_eq!(plain.key(), database::redis().key());
    }
}
