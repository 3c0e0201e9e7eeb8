//! What only the static programs can do: run in a root without any library, and, for arm64, under an emulator.

mod arm;
mod bare;
