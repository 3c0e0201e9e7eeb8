//! containerd's filter syntax, as the List request carries it: `kind==active,labels."a/b"==c`.
//!
//! A filter is a comma separated list of selectors that must all hold. A selector is a field path, alone (the field
//! exists) or with `==`, `!=` or `~=` (regular expression) and a value. Values and parts of paths may be quoted as Go
//! strings; values of `~=` also between `/` or `|`.

use std::str::Chars;

use regex::Regex;

use super::record::Info;

/// A parsed filter.
#[derive(Debug)]
pub struct Filter {
    selectors: Vec<Selector>,
}

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// The text of a filter is not in the syntax.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// At a place of the text.
    #[error("filter {text:?}: {reason} at {rest:?}")]
    Syntax {
        /// The filter.
        text: String,
        /// What was expected.
        reason: &'static str,
        /// What was there.
        rest: String,
    },
    /// The value of `~=`.
    #[error("filter {text:?}: bad regular expression")]
    Expression {
        /// The filter.
        text: String,
        /// The compiler's words.
        #[source]
        source: regex::Error,
    },
}

impl Filter {
    /// Reads a filter. The empty text matches everything.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut reader = Reader { text, rest: text.chars() };
        let mut selectors = Vec::new();
        if reader.peek().is_none() {
            return Ok(Self { selectors });
        }
        loop {
            selectors.push(reader.selector()?);
            match reader.peek() {
                None => return Ok(Self { selectors }),
                Some(',') => reader.skip(1),
                Some(_) => return Err(reader.error("expected a comma")),
            }
        }
    }

    /// Whether the snapshot has all that the filter asks for.
    pub fn matches(&self, info: &Info) -> bool {
        self.selectors.iter().all(|selector| {
            let value = field(info, &selector.path);
            match &selector.test {
                Test::Present => value.is_some(),
                Test::Equal(wanted) => value == Some(wanted),
                Test::NotEqual(unwanted) => value != Some(unwanted),
                Test::Matches(expression) => value.is_some_and(|value| expression.is_match(value)),
            }
        })
    }
}

fn field<'a>(info: &'a Info, path: &[String]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "kind" => Some(info.kind.name()),
        "name" => Some(&info.name),
        "parent" => Some(info.parent.as_deref().unwrap_or_default()),
        "labels" => info.labels.get(&rest.join(".")).map(String::as_str),
        _ => None,
    }
}

struct Reader<'a> {
    text: &'a str,
    rest: Chars<'a>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.rest.next();
        }
    }

    fn error(&self, reason: &'static str) -> FilterError {
        FilterError::Syntax { text: self.text.to_owned(), reason, rest: self.rest.as_str().to_owned() }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let mut path = vec![self.part()?];
        while self.peek() == Some('.') {
            self.skip(1);
            path.push(self.part()?);
        }
        let operator = self.rest.as_str().get(..2).unwrap_or_default();
        let test = match operator {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            "~=" => {
                let value = self.value(true)?;
                let expression = Regex::new(&value)
                    .map_err(|source| FilterError::Expression { text: self.text.to_owned(), source })?;
                Test::Matches(expression)
            }
            _ => Test::Present,
        };
        Ok(Selector { path, test })
    }

    fn part(&mut self) -> Result<String, FilterError> {
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let part = self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '-' || c == '/');
        if part.is_empty() { Err(self.error("expected a field")) } else { Ok(part) }
    }

    fn value(&mut self, alternative_quotes: bool) -> Result<String, FilterError> {
        self.skip(2);
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if alternative_quotes => self.quoted(quote),
            _ => Ok(self.take_while(|c| c != ',')),
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.peek()
            && wanted(c)
        {
            taken.push(c);
            self.skip(1);
        }
        taken
    }

    /// A quoted string. In double quotes the escapes are Go's; in others only the quote itself can be escaped.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        self.skip(1);
        let mut value = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                _ if c == quote => return Ok(value),
                '\\' => {
                    let Some(escaped) = self.rest.next() else { break };
                    if escaped == quote {
                        value.push(quote);
                    } else if quote == '"' {
                        value.push(self.escape(escaped)?);
                    } else {
                        value.extend(['\\', escaped]);
                    }
                }
                _ => value.push(c),
            }
        }
        Err(self.error("missing end of quotes"))
    }

    fn escape(&mut self, letter: char) -> Result<char, FilterError> {
        let digits = match letter {
            '\\' => return Ok('\\'),
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.error("unknown escape")),
        };
        let code = self.rest.as_str().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let c = code.and_then(char::from_u32).ok_or_else(|| self.error("bad escape"))?;
        self.skip(digits);
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::record::{Info, Kind};
    use super::Filter;

    fn info() -> Info {
        Info {
            name: "default/3/a b".to_owned(),
            parent: Some("sha256:00".to_owned()),
            kind: Kind::Committed,
            labels: [("containerd.io/snapshot.ref", "sha256:ab"), ("x.y", "q\"z")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn selectors_hold_as_in_containerd() {
        for (text, expected) in [
            ("", true),
            ("kind==committed", true),
            ("kind==active", false),
            ("kind!=active", true),
            ("name==\"default/3/a b\"", true),
            ("name==default/3/a b", true),
            ("labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==\"sha256:00\"", true),
            ("labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==\"\"", false),
            ("labels.\"containerd.io/snapshot.ref\"", true),
            ("labels.missing", false),
            ("labels.missing!=1", true),
            ("labels.x.y==\"q\\\"z\"", true),
            ("labels.x.y==\"q\\x22z\"", true),
            ("name~=/^default\\/3/", true),
            ("name~=^other", false),
            ("nosuchfield==1", false),
        ] {
            assert_eq!(Filter::parse(text).unwrap().matches(&info()), expected, "{text}");
        }
    }

    #[test]
    fn bad_syntax_is_refused() {
        for text in
            ["==a", "kind==\"a", "kind==a,", "labels.", "name~=(", "name==\"\\q\"", "kind=a", "name==\"a\"b"]
        {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
