//! Which paths of an image may be fetched ahead: globs that the user includes and excludes. Holds no state.
//!
//! Globs are matched against paths without a leading slash, byte by byte. `*` and `?` stop at a slash, `**` does not. A glob stands
//! for what it matches and for everything below that. One without a slash matches a name at any depth, as in `.gitignore`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use soci_core::prefetch::Plan;

/// What is left out of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Files of which nothing is in the plan.
    pub files: usize,
    /// Bytes, of all files.
    pub bytes: u64,
}

/// A glob that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no glob")]
pub struct GlobError {
    text: String,
    #[source]
    source: globset::Error,
}

/// The paths that may be in a plan; by default all.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// `None`: all.
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

impl Paths {
    /// What any of `include` matches, or everything when there is none, but for what any of `exclude` matches.
    ///
    /// # Errors
    /// When one of them is no glob.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, GlobError> {
        Ok(Self { include: set(include)?, exclude: set(exclude)? })
    }

    /// Whether nothing is left out.
    pub const fn is_everything(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// May this path, without a leading slash, be in a plan?
    pub fn take(&self, path: &[u8]) -> bool {
        let is_in = |set: &GlobSet| set.is_match(OsStr::from_bytes(path));
        self.include.as_ref().is_none_or(is_in) && !self.exclude.as_ref().is_some_and(is_in)
    }

    /// The part of a plan that they take, in the same order, and what is left out.
    pub fn narrow(&self, plan: Plan) -> (Plan, LeftOut) {
        let mut kept = Plan::default();
        let mut left_out = LeftOut::default();
        let mut files = std::collections::HashSet::new();
        for (place, item) in plan.items.into_iter().enumerate() {
            if self.take(&item.path) {
                kept.asked += usize::from(place < plan.asked);
                kept.must_have += usize::from(place < plan.must_have);
                kept.items.push(item);
            } else {
                left_out.bytes += item.range.len();
                left_out.files += usize::from(files.insert(item.path));
            }
        }
        (kept, left_out)
    }
}

fn set(globs: &[String]) -> Result<Option<GlobSet>, GlobError> {
    if globs.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    let mut add = |text: &String| {
        let anchored = text.trim_start_matches('/').trim_end_matches('/');
        let glob = match (anchored, text.trim_end_matches('/').contains('/')) {
            ("", _) => "**".to_owned(),
            (anchored, true) => anchored.to_owned(),
            (name, false) => format!("**/{name}"),
        };
        set.add(one(&glob)?).add(one(&format!("{glob}/**"))?);
        Ok(())
    };
    globs.iter().try_for_each(|text| add(text).map_err(|source| GlobError { text: text.clone(), source }))?;
    let text = || globs.join(", ");
    set.build().map(Some).map_err(|source| GlobError { text: text(), source })
}

fn one(glob: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build()
}

#[cfg(test)]
mod tests {
    use soci_core::prefetch::PlanItem;
    use soci_core::units::ByteRange;

    use super::*;

    fn paths(include: &[&str], exclude: &[&str]) -> Paths {
        let owned = |globs: &[&str]| globs.iter().map(|&glob| glob.to_owned()).collect::<Vec<_>>();
        Paths::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn globs_stop_at_slashes_and_take_what_is_below() {
        let all = paths(&[], &[]);
        assert!(all.take(b"any/thing") && all.take(b"\xff"));
        let usr = paths(&["/usr/lib/*.so"], &[]);
        assert!(usr.take(b"usr/lib/a.so") && usr.take(b"usr/lib/a.so/below"));
        assert!(!usr.take(b"usr/lib/x/a.so") && !usr.take(b"a/usr/lib/a.so"));
        assert!(paths(&["usr/"], &[]).take(b"srv/usr/a") && paths(&["/usr/"], &[]).take(b"usr/a"));
        assert!(!paths(&["/usr"], &[]).take(b"srv/usr/a"));
        let compiled = paths(&[], &["*.pyc", "/var/**/log"]);
        assert!(!compiled.take(b"a/b/c.pyc") && !compiled.take(b"c.pyc") && compiled.take(b"c.py"));
        assert!(!compiled.take(b"var/log/x") && !compiled.take(b"var/a/b/log/x") && compiled.take(b"var/x"));
        assert!(paths(&["/"], &[]).take(b"a/b") && !paths(&[], &["/"]).take(b"a"));
        let both = paths(&["/app"], &["/app/cache", "*.\u{fe}"]);
        assert!(both.take(b"app/a\xff") && !both.take(b"app/cache/a") && !both.take(b"etc/a"));
        let wrong = Paths::new(&["a[".to_owned()], &[]).unwrap_err();
        assert_eq!(wrong.to_string(), "\"a[\" is no glob");
    }

    #[test]
    fn a_narrowed_plan_keeps_order_and_what_must_be_had() {
        let item = |path: &[u8], end| PlanItem {
            path: path.into(),
            range: ByteRange::new(0, end),
            first_need_ns: end,
        };
        let items = vec![item(b"a", 1), item(b"x/b", 2), item(b"c", 3), item(b"x/d", 4), item(b"x/b", 5)];
        let plan = Plan { items: items.clone(), asked: 2, must_have: 3 };
        let (kept, left_out) = paths(&[], &["/x"]).narrow(plan);
        assert_eq!(kept, Plan { items: vec![items[0].clone(), items[2].clone()], asked: 1, must_have: 2 });
        assert_eq!(left_out, LeftOut { files: 2, bytes: 11 });
    }
}
