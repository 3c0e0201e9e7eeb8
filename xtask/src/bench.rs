//! `cargo xtask bench`: figures that the product holds itself to, each beside its yardstick.

use anyhow::Result;

pub(crate) mod bound;
pub(crate) mod cold_start;
mod create;
mod plan;
mod predict;
mod record;
pub(crate) mod start;
mod ztoc;

/// Measure cold starts, their predictions, the index build, planning, the recorder or the zTOC build
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    ColdStart(cold_start::Args),
    Create(create::Args),
    Plan(plan::Args),
    Predict(predict::Args),
    Record(record::Args),
    Ztoc(ztoc::Args),
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::ColdStart(args) => cold_start::run(args),
        What::Create(args) => create::run(args),
        What::Plan(args) => plan::run(args),
        What::Predict(args) => predict::run(args),
        What::Record(args) => record::run(args),
        What::Ztoc(args) => ztoc::run(args),
    }
}

/// The middle value, or the mean of the two in the middle; 0 for no values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    #[expect(clippy::float_cmp, reason = "halves are exact")]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
