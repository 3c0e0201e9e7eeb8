//! `pyml` (numpy, pandas, scikit-learn behind flask), `torch` (PyPI's PyTorch) and `torchdeb` (Debian's): Python
//! programs that import large native libraries, READY when a model was trained and asked.

use super::recipe::{Layer, Recipe, Step, app, apt_install};

const SITE: &str = "/usr/local/lib/python3.11/dist-packages";

/// Every wheel of `pyml` with its version, dependencies included: the image depends on these only.
const WHEELS: &str = "numpy==2.4.6 pandas==3.1.1 scikit-learn==1.9.1 scipy==1.17.1 joblib==1.6.0 \
    threadpoolctl==3.8.0 narwhals==2.29.0 cloudpickle==3.1.2 python-dateutil==4.0.0 tzdata==2026.6 \
    flask==3.1.3 werkzeug==3.1.9 jinja2==3.1.6 markupsafe==3.0.4 itsdangerous==2.2.0 blinker==1.9.0 \
    click==8.5.1 requests==2.34.2 urllib3==2.8.0 certifi==2026.10.18 charset-normalizer==3.5.2 idna==3.20";

/// Many files, half of them small modules, half of the bytes in shared objects.
pub(crate) fn pyml() -> Recipe {
    // What a Dockerfile's clean-up line does: deletions, and a folder deleted and made again (opaque).
    let prune = format!(
        "rm -rf /usr/share/python-wheels /usr/lib/python3.11/lib2to3 {SITE}/pandas/tests {SITE}/sklearn/datasets/data\n\
         mkdir -p {SITE}/sklearn/datasets/data && : >{SITE}/sklearn/datasets/data/__init__.py\n\
         sed -i 's/^PRETTY_NAME=.*/PRETTY_NAME=\"soci pyml\"/' /usr/lib/os-release\n\
         chmod 700 /srv"
    );
    Recipe {
        name: "pyml",
        parent: Some("base"),
        layers: vec![
            Layer { title: "python3", steps: vec![apt_install("python3 python3-distutils ca-certificates")] },
            Layer { title: "pip install", steps: vec![pip(WHEELS), compile(SITE)] },
            Layer { title: "prune (whiteouts, opaque folder)", steps: vec![Step::Chroot(prune)] },
            app([("app/pyml.py", 0o644, include_str!("../../images/app/pyml.py"))]),
        ],
        cmd: &["/usr/bin/python3", "/app/pyml.py"],
        env: &["OPENBLAS_NUM_THREADS=2"],
        workdir: "/app",
    }
}

/// What PyTorch imports.
const TORCH_NEEDS: &str = "numpy==2.4.6 typing_extensions==4.16.0 sympy==1.14.0 mpmath==1.3.0 networkx==3.6.1 \
    jinja2==3.1.6 markupsafe==3.0.4 fsspec==2026.9.0 filelock==4.3.1 setuptools==84.2.1";

/// The largest image: PyTorch as PyPI has it, which is what people install. It needs CUDA's libraries to be loaded
/// (gigabytes in wheels of their own); here they are stubs that know of no device (`images/cudastub.py`).
pub(crate) fn torch() -> Recipe {
    let torch = format!("{SITE}/torch");
    let stubs = format!(
        "python3 - $M{torch} $M{STUBS} <<'SCRIPT'\n{}SCRIPT\n\
         mkdir -p $M/etc/ld.so.conf.d && echo {STUBS} >$M/etc/ld.so.conf.d/cudastub.conf",
        include_str!("../../images/cudastub.py")
    );
    let link = Step::Chroot("ldconfig && rm -f /var/cache/ldconfig/aux-cache".to_owned());
    let prune = format!("rm -rf {torch}/include {SITE}/sympy/*/tests");
    Recipe {
        name: "torch",
        parent: Some("base"),
        layers: vec![
            Layer { title: "python3", steps: vec![apt_install("python3 ca-certificates libgomp1")] },
            Layer { title: "pip install (needs of torch)", steps: vec![pip(TORCH_NEEDS), compile(SITE)] },
            Layer {
                title: "pip install torch (CUDA stubbed)",
                steps: vec![pip("torch==2.15.0"), Step::Host(stubs), link, compile(&torch)],
            },
            Layer { title: "prune (whiteouts)", steps: vec![Step::Chroot(prune)] },
            app([("app/train.py", 0o644, include_str!("../../images/app/torchdeb.py"))]),
        ],
        cmd: &["/usr/bin/python3", "/app/train.py"],
        env: &[],
        workdir: "/app",
    }
}

/// Where the stubs of `torch` are.
const STUBS: &str = "/usr/local/lib/cudastub";

/// A large image: PyTorch for the CPU as Debian packages it.
pub(crate) fn torchdeb() -> Recipe {
    Recipe {
        name: "torchdeb",
        parent: Some("base"),
        layers: vec![
            Layer { title: "python3-torch", steps: vec![apt_install("python3-torch")] },
            app([("app/torchdeb.py", 0o644, include_str!("../../images/app/torchdeb.py"))]),
        ],
        cmd: &["/usr/bin/python3", "/app/torchdeb.py"],
        env: &[],
        workdir: "/app",
    }
}

/// Installs wheels made for the image's Python, whatever Python this machine has.
fn pip(wheels: &str) -> Step {
    let platforms: String = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"]
        .map(|platform| format!("--platform {platform}_x86_64 "))
        .concat();
    Step::Host(format!(
        "python3 -m pip install --quiet --no-compile --no-deps --no-warn-script-location \
         --disable-pip-version-check --root-user-action=ignore --cache-dir $DOWNLOADS/pip \
         --only-binary :all: {platforms}--python-version 3.11 --implementation cp --target $M{SITE} {wheels}\n\
         find $M{SITE} -name RECORD -delete"
    ))
}

/// Byte code that is checked by nothing at run time, so that it does not depend on the files' times.
fn compile(dir: &str) -> Step {
    Step::Chroot(format!(
        "python3 -m compileall --invalidation-mode unchecked-hash -f -q {dir} >/dev/null || true"
    ))
}
