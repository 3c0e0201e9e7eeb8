//! Scopes of tokens: what is asked of a token server.
//!
//! Owns no state. A scope is `repository:NAME:ACTION[,ACTION…]`; several are separated by spaces. A scope of another form is
//! kept as it is.

/// All that `scopes` ask for, each resource once with the union of its actions.
pub(super) fn union<'a>(scopes: impl IntoIterator<Item = &'a str>) -> String {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for scope in scopes.into_iter().flat_map(str::split_whitespace) {
        let (resource, actions) = split(scope);
        let at = all.iter().position(|(known, _)| *known == resource).unwrap_or_else(|| {
            all.push((resource, Vec::new()));
            all.len() - 1
        });
        for action in actions {
            if !all[at].1.contains(&action) {
                all[at].1.push(action);
            }
        }
    }
    let text = all.iter().map(|(resource, actions)| {
        if actions.is_empty() { (*resource).to_owned() } else { format!("{resource}:{}", actions.join(",")) }
    });
    text.collect::<Vec<_>>().join(" ")
}

/// Whether `held` has all that `wanted` asks for.
pub(super) fn covers(held: &str, wanted: &str) -> bool {
    let held: Vec<_> = held.split_whitespace().map(split).collect();
    wanted.split_whitespace().map(split).all(|(resource, actions)| {
        held.iter().any(|(known, has)| *known == resource && actions.iter().all(|one| has.contains(one)))
    })
}

/// Resource and actions; a text without actions is a resource.
fn split(scope: &str) -> (&str, Vec<&str>) {
    match scope.rsplit_once(':') {
        Some((resource, actions)) if resource.contains(':') => (resource, actions.split(',').collect()),
        _ => (scope, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_of_one_resource_are_joined() {
        let all = |scopes: &[&str]| union(scopes.iter().copied());
        assert_eq!(all(&["repository:a/b:pull", "repository:a/b:pull,push"]), "repository:a/b:pull,push");
        assert_eq!(
            all(&["repository:a:pull,push", "repository:b:pull"]),
            "repository:a:pull,push repository:b:pull"
        );
        assert_eq!(all(&["aws", "repository:a:pull", "aws"]), "aws repository:a:pull");
        assert_eq!(all(&["repository:h:5000/a:pull", ""]), "repository:h:5000/a:pull");
        assert_eq!(all(&[]), "");
    }

    #[test]
    fn what_is_held_covers_what_is_wanted() {
        assert!(covers("repository:a:pull,push", "repository:a:push"));
        assert!(!covers("repository:a:pull", "repository:a:pull,push"));
        assert!(!covers("repository:a:pull", "repository:b:pull"));
        assert!(covers("repository:a:pull", ""));
        assert!(!covers("repository:a:pull", "aws"));
    }
}
