//! The grammar: what is read as what, and what is refused with which hint.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Vec<String> {
    let until: Until = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    until.rules.iter().map(ToString::to_string).collect()
}

fn refuse(text: &str) -> String {
    text.parse::<Until>().expect_err(text).to_string()
}

#[test]
fn rules_are_read() {
    for (text, rules) in [
        ("exit", &["exit"][..]),
        ("signal+2s", &["signal+2s"]),
        ("notify", &["notify"]),
        ("time:1.5", &["time:1.5"]),
        ("time:2s", &["time:2"]),
        ("1m30s", &["time:90"]),
        ("log:a:b+", &["log:a:b+"]),
        ("tcp:80+300ms", &["tcp:80+0.3s"]),
        ("http:http://[::1]:8080/a?b", &["http:http://[::1]:8080/a?b"]),
        ("http://x/a", &["http:http://x:80/a"]),
        ("exec:redis-cli ping", &["exec:redis-cli ping"]),
        ("log:^READY+5s or 60s", &["log:^READY+5s", "time:60"]),
        ("ready+5s or 60s", &["ready+5s", "time:60"]),
        ("tcp:1 or  notify  or exec:a b+1s or log:x", &["tcp:1", "notify", "exec:a b+1s", "log:x"]),
    ] {
        assert_eq!(read(text), rules, "{text}");
    }
}

#[test]
fn what_looks_like_grammar_can_still_be_said() {
    for (text, rules, line) in [
        (r"log:cat or\ dog", &[r"log:cat or\ dog"][..], "cat or dog"),
        (r"log:a\+5s", &[r"log:a\+5s"], "a+5s"),
        ("log:(a+5s)", &["log:(a+5s)"], "aa5s"),
        ("log:a++5s", &["log:a++5s"], "aaa"),
        ("log:took [0-9]+", &["log:took [0-9]+"], "took 55"),
        ("log:x+5", &["log:x+5"], "xx5"),
        ("log:end ", &["log:end "], "the end "),
        (r"log:a\\+5s", &[r"log:a\\+5s"], r"a\"),
    ] {
        assert_eq!(read(text), rules, "{text}");
        let until: Until = text.parse().unwrap();
        assert!(until.logs()[0].1.is_match(line.as_bytes()), "{text}");
    }
    let tails = |text: &str| text.parse::<Until>().unwrap().rules[0].tail.map(|tail| tail.as_secs());
    assert_eq!((tails("log:a++5s"), tails(r"log:a\\+5s"), tails(r"log:a\+5s")), (Some(5), Some(5), None));
    let words = |text: &str| match &text.parse::<Until>().unwrap().rules[0].when {
        Condition::Exec(words) => words.clone(),
        other => panic!("{other}"),
    };
    assert_eq!(
        words(r#"exec:sh -c 'test -f "$F"' "a\"b" '' c\ d"#),
        ["sh", "-c", "test -f \"$F\"", "a\"b", "", "c d"]
    );
    assert_eq!(words(r"exec:say this or\ that"), ["say", "this", "or that"]);
}

#[test]
fn what_is_not_a_rule_is_refused_with_a_hint() {
    for bad in [
        "",
        "exit:1",
        "exit+5s",
        "ready:",
        "time:",
        "time:-1",
        "time:nan",
        "log:",
        "log:(",
        "log:+5s",
        "tcp:0",
        "tcp:x",
        "http:https://x/",
        "http://",
        "http://x/a b",
        "exec:",
        "exec: ",
        "exec:''",
        "exec:'a",
        "exec:a\\",
        "exit or ",
        " or exit",
        "60s+5",
    ] {
        refuse(bad);
    }
    assert!(refuse("log:cat or dog").contains(r#"write " or\ ""#));
    assert!(!refuse("log:cat or tcp:dog").contains("write"));
    assert!(refuse("tcp:80+5").contains("unit"));
    let bare: Until = "log:x or 60".parse().unwrap();
    assert!(matches!(bare.rules()[1].when, Condition::Time(time) if time == Duration::from_mins(1)));
}

#[test]
fn ready_needs_a_rule_that_tells_readiness() {
    let list = |text: &str| text.parse::<Until>().unwrap();
    assert!(Until::join(&[list("ready+5s or 60s")]).is_err());
    let joined = Until::join(&[list("log:x"), list("ready+5s or 60s")]).unwrap();
    assert_eq!(joined.rules().len(), 3);
    assert_eq!(joined.logs()[0].0, 0);
    assert!(Until::join(&[]).unwrap().rules().is_empty());
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(log:|exec:|time:|http://|tcp:| or |\\+|5s|\\\\|'|.){0,12}") {
        if let Ok(until) = text.parse::<Until>() {
            prop_assert!(!until.rules.is_empty());
        }
    }
}
