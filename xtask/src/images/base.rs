//! `base`: Debian's minimal root, trimmed as the official slim images are. Parent of all other images.

use super::recipe::{CLEAN, Layer, Recipe, Step};

/// The Debian release of all images.
const SUITE: &str = "bookworm";

/// Debian minbase without documentation and translations.
pub(crate) fn base() -> Recipe {
    let bootstrap = format!(
        "mkdir -p $DOWNLOADS/deb $M.bootstrap\n\
         debootstrap --variant=minbase --cache-dir=$DOWNLOADS/deb {SUITE} $M.bootstrap $MIRROR >$M.log 2>&1 || \
         {{ tail -n 20 $M.log >&2; exit 1; }}\n\
         cp -a $M.bootstrap/. $M/\n\
         rm -rf $M.bootstrap $M.log"
    );
    let trim = "mkdir -p $M/etc/dpkg/dpkg.cfg.d\n\
        printf '%s\\n' 'path-exclude /usr/share/doc/*' 'path-include /usr/share/doc/*/copyright' \
          'path-exclude /usr/share/man/*' 'path-exclude /usr/share/locale/*' 'path-exclude /usr/share/info/*' \
          'path-exclude /usr/share/lintian/*' >$M/etc/dpkg/dpkg.cfg.d/slim\n\
        find $M/usr/share/doc -type f ! -name copyright -delete\n\
        find $M/usr/share/doc -type l -delete\n\
        find $M/usr/share/doc -depth -type d -empty -delete\n\
        rm -rf $M/usr/share/{man,locale,info,lintian}/*\n\
        rm -f $M/etc/resolv.conf $M/etc/hostname\n\
        : >$M/etc/machine-id; : >$M/etc/resolv.conf; echo soci >$M/etc/hostname\n\
        find $M/dev -mindepth 1 -delete\n\
        mkdir -p $M/dev/pts $M/dev/shm";
    Recipe {
        name: "base",
        parent: None,
        layers: vec![Layer {
            title: "debian minbase",
            steps: vec![Step::Host(bootstrap), Step::Host(trim.to_owned()), Step::Chroot(CLEAN.to_owned())],
        }],
        cmd: &["/bin/bash", "-c", "ls / >/dev/null; echo READY base"],
        env: &[],
        workdir: "/",
    }
}
