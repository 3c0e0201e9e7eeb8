//! What upstream's program printed, made comparable with what ours prints. Holds no state.

/// The lines of an output of `command`, with what depends on the clock left out, and sorted where layers are told in the
/// order in which they were done.
///
/// Upstream prints a summary before the JSON of `prefetch info --json`, which no reader of JSON can take: ours is JSON alone.
pub fn comparable(text: &str, command: &str) -> Vec<String> {
    let json_only = command.contains("prefetch info --json");
    let text = text.split_once("Raw JSON:\n").filter(|_| json_only).map_or(text, |(_, json)| json);
    let mut lines: Vec<String> = text.lines().map(|line| without_clock(line, command)).collect();
    if [" create ", " convert ", " push "].iter().any(|word| command.contains(word)) {
        lines.sort();
    }
    lines
}

fn without_clock(line: &str, command: &str) -> String {
    let timed = line.trim_start().starts_with("\"CreatedAt\"") || line.starts_with("Created: ");
    let age = line.rfind("s ago").filter(|_| !command.contains("info"));
    match (timed, age) {
        (true, _) => line.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect(),
        (false, Some(at)) => line[..at].trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
        (false, None) => line.to_owned(),
    }
}
