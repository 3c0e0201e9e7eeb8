//! What an image is made of: layers of build steps, and the command that the image starts.
//!
//! Plain data.

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
