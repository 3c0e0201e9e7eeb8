//! Metrics as text for Prometheus. Writes; decides nothing.

use std::fmt::Write as _;

use super::histogram::{BOUNDS, Buckets};

/// How the buckets of a histogram are shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// What the bound of the first bucket is.
    first: f64,
    /// What a microsecond of the sum is.
    micro: f64,
}

/// Buckets of milliseconds, in seconds.
pub const AS_SECONDS: Scale = Scale { first: 0.001, micro: 0.000_001 };
/// Buckets of milliseconds, in those.
pub const AS_MILLISECONDS: Scale = Scale { first: 1.0, micro: 0.001 };
/// Buckets of microseconds, in those.
pub const AS_MICROSECONDS: Scale = Scale { first: 1.0, micro: 1.0 };

/// The series of one metric.
#[derive(Debug)]
pub struct Series<'a> {
    name: &'static str,
    text: &'a mut String,
}

// Writing to a string cannot fail.
impl<'a> Series<'a> {
    /// Of the metric with this name, at the end of `text`.
    pub const fn new(name: &'static str, text: &'a mut String) -> Self {
        Self { name, text }
    }

    /// One number.
    pub fn number(&mut self, labels: &[(&str, &str)], value: u64) {
        self.sample("", labels, None, &value.to_string());
    }

    /// One histogram.
    pub fn histogram(&mut self, labels: &[(&str, &str)], buckets: &Buckets, scale: Scale) {
        let mut below = 0;
        for (at, count) in buckets.counts.iter().enumerate() {
            below += count;
            let bound =
                if at < BOUNDS { number(scale.first * f64::from(1 << at)) } else { "+Inf".to_owned() };
            self.sample("_bucket", labels, Some(&bound), &below.to_string());
        }
        self.sample("_sum", labels, None, &number(buckets.sum as f64 * scale.micro));
        self.sample("_count", labels, None, &below.to_string());
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: &str) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut open = '{';
        for (label, value) in labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{open}{label}=\"{value}\"");
            open = ',';
        }
        let close = if open == ',' { "}" } else { "" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

/// A number without the noise of binary fractions.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::histogram::Milliseconds;
    use super::*;

    #[test]
    fn numbers_and_histograms_are_written_as_prometheus_reads_them() {
        let mut text = String::new();
        let mut series = Series::new("a_total", &mut text);
        series.number(&[], 3);
        series.number(&[("host", "x\"\\\n"), ("state", "y")], 4);
        assert_eq!(text, "a_total 3\na_total{host=\"x\\\"\\\\\\n\",state=\"y\"} 4\n");

        let times = Milliseconds::default();
        times.observe(Duration::from_millis(3));
        times.observe(Duration::from_mins(1));
        let mut text = String::new();
        Series::new("t_seconds", &mut text).histogram(&[("a", "b")], &times.get(), AS_SECONDS);
        assert!(text.contains("t_seconds_bucket{a=\"b\",le=\"0.002\"} 0\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{a=\"b\",le=\"0.004\"} 1\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{a=\"b\",le=\"16.384\"} 1\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{a=\"b\",le=\"+Inf\"} 2\n"), "{text}");
        assert!(text.ends_with("t_seconds_sum{a=\"b\"} 60.003\nt_seconds_count{a=\"b\"} 2\n"), "{text}");
    }
}
