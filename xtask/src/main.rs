//! `cargo xtask`: words in, one task out. Tasks own their files; this file only dispatches.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod chaos;
mod codegen;
mod demo;
mod dist;
mod ebpf;
mod exec;
mod fuzz;
mod images;
mod lab;
mod link;
mod packages;
mod prepared;
mod product;
mod reference;
mod requests;
mod setup;
mod simulate;
mod test;
mod vm;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "What a developer or CI runs")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Bench(bench::Args),
    Chaos(chaos::ChaosArgs),
    Codegen(codegen::Args),
    Demo(demo::Args),
    Dist(dist::Args),
    Ebpf(ebpf::Args),
    Fuzz(fuzz::Args),
    Images(images::Args),
    Link(link::Args),
    Simulate(simulate::Args),
    Soak(chaos::SoakArgs),
    Test(test::Args),
    Vm(vm::Args),
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::Chaos(args) => chaos::run_chaos(&args),
        Task::Codegen(args) => codegen::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Ebpf(args) => ebpf::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Images(args) => images::run(&args),
        Task::Link(args) => link::run(&args),
        Task::Simulate(args) => simulate::run(&args),
        Task::Soak(args) => chaos::run_soak(&args),
        Task::Test(args) => test::run(&args),
        Task::Vm(args) => vm::run(&args),
    }
}
